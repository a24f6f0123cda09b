"""An attentive probe with its labels: load it, save it, push it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..hub.client import HubOptions
from ..hub.locate import locate_model
from ..hub.upload import PushOptions, PushReport, push_directory
from ..models.attentive_probe import AttentiveProbe
from ..models.encoder import VideoEncoder
from ..runtime.devices import best_device
from ..weights.probe_directory import check_probe_config, load_probe, probe_files, save_probe
from ..weights.provenance import descended


@dataclass(frozen=True)
class Probe:
    """An attentive probe with the names of its classes."""

    probe: AttentiveProbe
    labels: tuple[str, ...]
    """Names of the classes; empty where they are not recorded."""
    provenance: Mapping[str, Any]
    """Where the weights come from, as plain JSON data; of a probe from the hub also `repository` and `commit`."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Probe:
        """Load a probe.

        Args:
            name_or_path: a probe directory, a hub id `owner/name`, or a classification model of transformers: its
                directory, hub id, or a name from `list_models()`.
            revision: branch, tag or commit of a hub repository.
            cache_dir: hub cache; None: the hub's own default.
            token: hub token for private repositories; None: the stored one.
            local_files_only: never touch the network.
            force_download: fetch again what is cached.
            device: `cuda`, `mps` or `cpu`; None: the best there is.
            dtype: of the weights in memory; None: as stored.

        Raises:
            ConfigError: an unknown name, or a configuration that is not valid or describes no probe.
            WeightsError: weights that are missing or do not fit their configuration.
        """
        hub = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        directory = locate_model(name_or_path, hub, check_config=check_probe_config)
        found = load_probe(directory, device=best_device(device), dtype=dtype)
        return cls(found.probe, found.labels, found.provenance)

    def save_pretrained(self, directory: str | Path, *, licence: str | None = None) -> Path:
        """Write a probe directory that `from_pretrained` reads.

        Args:
            licence: of the weights, as an SPDX identifier; None: the one they have.
        """
        provenance = descended(self.provenance, licence=licence)
        return save_probe(directory, self.probe, labels=self.labels, provenance=provenance)

    def push_to_hub(
        self,
        repository: str,
        *,
        branch: str | None = None,
        private: bool = False,
        create_pr: bool = False,
        dry_run: bool = False,
        keep_card: bool = True,
        commit_message: str | None = None,
        token: str | None = None,
        licence: str | None = None,
    ) -> PushReport:
        """Write this probe to a temporary directory and push that to the hub; see `push`."""
        with tempfile.TemporaryDirectory(prefix="vjepa-push-") as place:
            directory = self.save_pretrained(Path(place) / "probe", licence=licence)
            options = PushOptions(
                branch=branch,
                private=private,
                create_pr=create_pr,
                dry_run=dry_run,
                keep_card=keep_card,
                commit_message=commit_message,
                token=token,
            )
            return push_directory(directory, probe_files(directory), repository, options)


def probe_tokens(encoder: VideoEncoder, clips: Tensor, *, layers: tuple[int, ...]) -> Tensor:
    """Encode normalised clips `[B, 3, T, H, W]` into what a probe reads.

    Args:
        layers: `ProbeConfig.layers` of the probe.

    Returns:
        `[B, N, D]`, or `[B, layers * N, D]`: the normed tokens of several blocks, one block after the other.
    """
    if not layers:
        tokens: Tensor = encoder(clips)
        return tokens
    return torch.cat(encoder.get_intermediate_layers(clips, layers), dim=1)
