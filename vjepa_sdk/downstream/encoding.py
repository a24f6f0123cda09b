"""Encode videos as the rows of some features were, and tokens for a probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import Decoder, Pooling
from ..config.protocols import ClipSet
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError
from ..features.source import FeatureSource
from ..hub.client import is_repository_id
from ..inference.embed.model import model_sha256
from ..inference.vjepa import VJEPA
from ..models.attentive_probe import ProbeConfig
from ..models.encoder import VideoEncoder
from ..video.segments import SegmentLoader, VideoPart
from ..weights.probe_directory import AnyProbeConfig


def encode_rows(
    model: VJEPA,
    video: object,
    source: FeatureSource,
    *,
    pooling: Pooling,
    layers: Sequence[int] = (),
    batch_size: int = 8,
) -> np.ndarray:
    """Return the rows of one video, float32 `[rows, ...]`: one, or one a window.

    Args:
        source: how to sample and pool; what it does not say is left to the model.
        pooling: where `source` says nothing.
        layers: blocks, where `source` says nothing; empty: the model's output.
    """
    settings = source.settings
    blocks = settings.get("layers") or list(layers) or None
    how: Pooling = settings.get("pooling", pooling)
    decoder: Decoder = settings.get("decoder", "pyav")
    if (clip_set := source.clip_set) is not None:
        return _encode_views(model, video, clip_set, layers=blocks, decoder=decoder, batch_size=batch_size)
    if settings.get("window_seconds") is not None:
        return model.extract(
            video,
            window_seconds=settings["window_seconds"],
            num_frames=None if settings["fps"] is not None else settings["num_frames"],
            fps=settings["fps"],
            stride_seconds=settings["stride_seconds"],
            tail=settings["tail"],
            source_fps=settings["source_fps"],
            pooling=how,
            layers=blocks,
            batch_size=batch_size,
            normalize_embeddings=settings["normalize_embeddings"],
            decoder=decoder,
        ).embeddings
    load = model.clip_loader(
        num_frames=settings.get("num_frames"),
        fps=settings.get("fps"),
        source_fps=settings.get("source_fps"),
        decoder=decoder,
    )
    clip = torch.from_numpy(load(video)[0])[None]
    rows = model.embed_clips(clip, pooling=how, layers=None if blocks is None else model.layer_numbers(blocks))
    rows = F.normalize(rows, dim=-1) if settings.get("normalize_embeddings") else rows
    return rows.cpu().numpy()


def _encode_views(
    model: VJEPA, video: object, clip_set: ClipSet, *, layers: Sequence[int] | None, decoder: Decoder, batch_size: int
) -> np.ndarray:
    """Return the tokens of one video, float32 `[views, segments, ...]`."""
    load = SegmentLoader.for_model(model.config, model.preprocess, clip_set, decoder=decoder)
    clips = [torch.from_numpy(pixels) for pixels, _ in load.fixed_views(VideoPart(video=video, id=""))]
    numbers = None if layers is None else model.layer_numbers(layers)
    rows = [
        model.embed_clips(torch.stack(clips[first : first + batch_size]), pooling="none", layers=numbers)
        for first in range(0, len(clips), batch_size)
    ]
    tokens: np.ndarray = torch.cat(rows).float().cpu().numpy()
    return tokens.reshape(clip_set.views, clip_set.segments, *tokens.shape[1:])


def check_place(name_or_path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for a text that can be no probe: neither a path that exists, a known name nor a hub id."""
    name = os.fspath(name_or_path)
    if not (Path(name).expanduser().exists() or name in KNOWN_MODELS or is_repository_id(name)):
        raise ConfigError(
            f"{name!r}: no such probe; pass a probe directory, a hub id such as owner/name, or the name of a "
            "classification model"
        )


def check_model(model: VJEPA, source: FeatureSource, config: AnyProbeConfig) -> None:
    """Raise ConfigError unless this is the model whose features a probe reads."""
    if not source.is_known:  # an official probe does not say which encoder it belongs to
        if isinstance(config, ProbeConfig) and config.embed_dim != model.config.embed_dim:
            raise ConfigError(
                f"the probe reads {config.embed_dim} features a token, and {model} gives {model.config.embed_dim}; "
                "pass the encoder that it was trained on"
            )
        return
    if model.directory is None:
        raise ConfigError("the model was not loaded from files, so it is not the probe's; save it and load it")
    is_same = model_sha256(model.directory) == source.model.get("sha256")
    if not is_same or model.encoder_weights != source.model.get("encoder_weights"):
        raise ConfigError(
            f"the probe reads features of {source.model.get('name')} ({source.model.get('encoder_weights')} encoder), "
            f"and {model.name} is another model; load that one, or fit a probe to this"
        )


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
