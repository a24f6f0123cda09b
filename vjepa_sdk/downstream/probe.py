"""A small model on frozen features: fit it, ask it, score it, save it, push it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..config.choices import Device, ProbeKind
from ..errors import ConfigError, InputError, VJEPAError
from ..features.embeddings import Embeddings
from ..features.source import UNKNOWN, FeatureSource
from ..hub.client import HubOptions
from ..hub.locate import locate_model
from ..hub.upload import PushOptions, PushReport, push_directory
from ..inference.vjepa import VJEPA
from ..models.attentive_probe import ProbeConfig
from ..models.vector_probe import VectorProbe
from ..runtime.devices import best_device
from ..video.inputs import split_batch
from ..weights.digests import weights_digest
from ..weights.probe_directory import AnyProbe, check_probe_config, load_probe, probe_files, save_probe
from ..weights.provenance import descended
from .encoding import check_model, check_place, encode_rows
from .fit import Examples, check_features, fit_logistic, fit_nearest, fit_ridge, predict_rows
from .rows import Features, array_of, check_source, labels_of, rows_of, targets_of
from .scores import Predictions, ProbeScores, score
from .splits import INNER_FOLDS, group_folds


@dataclass(frozen=True)
class Probe:
    """A small model on the features of a frozen encoder, with the names of its classes."""

    probe: AnyProbe
    labels: tuple[str, ...]
    """Names of the classes; empty where they are not recorded, and of a probe of numbers."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as plain JSON data; of a probe from the hub also `repository` and `commit`."""
    kind: ProbeKind = "attentive"
    source: FeatureSource = UNKNOWN
    """What features it reads; unknown of official probes and of plain arrays."""
    fitted: Mapping[str, Any] = field(default_factory=dict)
    """How it was fitted, as plain JSON data."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What it reaches on videos that it was not fitted to, as plain JSON data."""
    weights_sha256: str = ""
    """Of the weights that provenance, `fitted` and `scores` speak of; empty: those that it is made with."""

    def __post_init__(self) -> None:
        if not self.weights_sha256:
            object.__setattr__(self, "weights_sha256", weights_digest(self.probe.state_dict().items()))

    @classmethod
    def fit(
        cls,
        features: Features,
        labels: Sequence[str | int | float] | np.ndarray | None = None,
        *,
        kind: Literal["linear", "knn", "regression"] = "linear",
        groups: Sequence[str | int] | np.ndarray | None = None,
        C: float | None = None,
        k: int = 20,
        temperature: float = 0.07,
        class_weight: Literal["balanced"] | None = None,
        standardize: bool = True,
        seed: int = 0,
    ) -> Probe:
        """Fit a probe to labelled features. For attention over tokens see `train_probe`.

        Args:
            features: what `load_embeddings` gives, or rows `[n, ...]` of finite numbers.
            labels: of each row; None: the column `label` of the index. Numbers for `regression`.
            kind: `linear` (logistic regression), `knn` (nearest neighbours) or `regression` (ridge, of a number).
            groups: of each row; rows of one group are never on both sides when C is chosen. None: rows of one file.
            C: of logistic regression, or the reciprocal of ridge's penalty; None: chosen in 5 folds of the groups.
            k: neighbours.
            temperature: of their votes.
            class_weight: `balanced` lets rare classes weigh as much as frequent ones.
            standardize: scale every number of a row to mean 0 and deviation 1 over the rows.
            seed: of the folds.

        Raises:
            InputError: features that are no rows, not finite or all the same, or not as many as labels.
            ConfigError: one class only; a C without an optimum.
        """
        rows, videos, files = rows_of(features)
        given = labels_of(features) if labels is None else list(labels)
        if len(given) != len(rows):
            raise InputError(f"{len(given)} labels must be as many as the {len(rows)} rows of features")
        names, targets = targets_of(given, kind)
        first = np.unique(videos, return_index=True)[1]
        examples = Examples.of(check_features(rows), videos, targets[first])
        if (targets != examples.targets[videos]).any():
            raise InputError("rows of one video have different labels; pass them as an array, or give parts ids")
        group_of = [str(each) for each in (files if groups is None else groups)]
        if len(group_of) != len(rows):
            raise InputError(f"{len(group_of)} groups must be as many as the {len(rows)} rows of features")
        folds = group_folds(examples.targets, [group_of[row] for row in first], folds=INNER_FOLDS, seed=seed)
        checks = [(examples.part(fit), examples.part(check)) for fit, check in folds]
        if kind == "regression":
            found = fit_ridge(examples, alpha=None if C is None else 1 / C, checks=checks, standardize=standardize)
        elif kind == "knn":
            found = fit_nearest(examples, len(names), k=k, temperature=temperature)
        else:
            found = fit_logistic(
                examples, len(names), C=C, checks=checks, class_weight=class_weight, standardize=standardize
            )
        source = FeatureSource.of_meta(features.meta) if isinstance(features, Embeddings) else UNKNOWN
        facts = {**found.facts, "videos": len(examples.targets), "rows": len(rows), "seed": seed}
        return cls(found.probe, tuple(names), {"made_by": "Probe.fit"}, kind, source, facts)

    def predict(self, features: Features) -> np.ndarray:
        """Return the label of each row, text `[n]`; of a probe of numbers float32 `[n]`.

        Args:
            features: as those it was fitted to: of the same model, pooling and preprocessing.

        Raises:
            ConfigError: features of another model, pooling or preprocessing.
            InputError: features of another shape, or not finite.
        """
        outputs = self.outputs(features)
        return outputs[:, 0] if self.kind == "regression" else np.array(self.names)[outputs.argmax(axis=1)]

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return probabilities float32 `[n, classes]`, columns in the order of `labels`; rows sum to 1.

        They say which of the known classes, not whether it is one of them: see `is_unlike`.

        Raises:
            ConfigError: a probe of numbers; and as `predict`.
            InputError: as `predict`.
        """
        if self.kind != "regression":
            return self.outputs(features)
        raise ConfigError("a probe of numbers has no probabilities; call predict")

    def is_unlike(self, features: Features) -> np.ndarray:
        """Say of each row whether it is unlike all that the probe was fitted to: bool `[n]`.

        Its cosine distance to the nearest class mean is beyond that of 99 % of the rows of the fit.

        Raises:
            ConfigError: an attentive probe, or one of numbers, which cannot tell; and as `predict`.
            InputError: as `predict`.
        """
        if not isinstance(self.probe, VectorProbe) or self.probe.centres is None:
            raise ConfigError(f"a probe of kind {self.kind!r} cannot tell what is unlike its clips; a linear one can")
        unlike: np.ndarray = self.probe.is_unlike(torch.from_numpy(self._rows(features))).numpy()
        return unlike

    def score(
        self,
        features: Features,
        labels: Sequence[str | int | float] | np.ndarray | None = None,
        *,
        groups: Sequence[str | int] | np.ndarray | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> ProbeScores:
        """Score the probe on labelled features; windows of one video count as one, by their mean.

        Args:
            features: as for `predict`.
            labels: of each row; None: the column `label` of the index.
            groups: of each row; intervals are drawn over them. None: rows of one file.
            bootstrap: samples for the 95 % intervals; 0: none.
            seed: of the samples.

        Raises:
            InputError: a label that the probe does not know; and as `predict`.
            ConfigError: as `predict`.
        """
        rows, videos, files = rows_of(features)
        given = labels_of(features) if labels is None else list(labels)
        if len(given) != len(rows):
            raise InputError(f"{len(given)} labels must be as many as the {len(rows)} rows of features")
        first = np.unique(videos, return_index=True)[1]
        truth = self.targets_of([given[row] for row in first])
        outputs = Examples.of(rows, videos, truth).over_videos(self.outputs(features))
        group_of = np.asarray(files if groups is None else groups)[first]
        codes = np.unique(group_of.astype(str), return_inverse=True)[1]
        found = Predictions(truth, outputs[:, 0] if self.kind == "regression" else outputs, codes)
        return score(found, self.names, bootstrap=bootstrap, seed=seed)

    def classify(
        self,
        model: VJEPA,
        videos: object,
        *,
        top_k: int = 5,
        batch_size: int = 8,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> list[list[tuple[str, float]]]:
        """Name what videos show: of each the `top_k` most probable labels with their probabilities.

        Args:
            model: the encoder whose features the probe reads.
            videos: one video or a batch, as for `VJEPA.encode`.
            top_k: labels of each video.
            batch_size: clips encoded together.
            on_error: of a video that cannot be decoded; `skip` gives it an empty list.

        Raises:
            ConfigError: another model than the probe's, or a probe of numbers.
            InputError: not a video.
            VideoDecodeError: a file that cannot be decoded.
        """
        if self.kind == "regression":
            raise ConfigError("a probe of numbers names nothing; encode the video and call predict")
        if top_k < 1:
            raise ConfigError(f"top_k={top_k} must be at least 1")
        check_model(model, self.source, self.probe.config)
        items, _ = split_batch(videos, images=model.config.is_image_model)
        results: list[list[tuple[str, float]]] = []
        for item in items:
            try:
                rows = self.encode(model, item, batch_size=batch_size)
            except VJEPAError:
                if on_error == "raise":
                    raise
                results.append([])
                continue
            shares = self.outputs(rows).mean(axis=0)
            order = np.argsort(-shares, kind="stable")[:top_k]
            results.append([(self.names[number], float(shares[number])) for number in order])
        return results

    @property
    def model_name(self) -> str:
        """Name of the model whose features it reads.

        Raises:
            ConfigError: the probe does not say, as official ones do not.
        """
        name = self.source.model.get("name")
        if name is None:
            raise ConfigError("the probe does not say whose features it reads; pass the encoder as model (--model)")
        return str(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, or their numbers where names are not recorded."""
        if self.labels or self.kind == "regression":
            return self.labels
        return tuple(str(number) for number in range(self.probe.config.num_classes))

    def targets_of(self, labels: Sequence[str | int | float]) -> np.ndarray:
        """Return labels as numbers of classes, int64 `[n]`; of a probe of numbers float64 `[n]`.

        Raises:
            InputError: a label that the probe does not know.
        """
        if self.kind == "regression":
            return np.array([float(label) for label in labels])
        known = {name: number for number, name in enumerate(self.names)}
        if unknown := sorted({str(label) for label in labels} - known.keys()):
            raise InputError(
                f"{len(unknown)} labels are unknown to the probe, such as {unknown[0]!r}; it knows "
                f"{', '.join(self.names[:10])}{', ...' if len(self.names) > 10 else ''}"
            )
        return np.array([known[str(label)] for label in labels])

    def encode(self, model: VJEPA, video: object, *, batch_size: int = 8) -> np.ndarray:
        """Return what the probe reads of one video, sampled and pooled as the clips of its fit: `[rows, ...]`.

        Args:
            model: see `classify`.
            video: as for `VJEPA.encode`.
            batch_size: windows encoded together.
        """
        if isinstance(self.probe.config, ProbeConfig):
            return encode_rows(
                model, video, self.source, pooling="none", layers=self.probe.config.layers, batch_size=batch_size
            )
        return encode_rows(model, video, self.source, pooling="mean", batch_size=batch_size)

    def _rows(self, features: Features) -> np.ndarray:
        """Check features, and return rows `[n, D]`."""
        check_source(features, self.source)
        rows = check_features(array_of(features))
        width = self.probe.config.embed_dim
        if rows.shape[1] != width:
            raise InputError(
                f"rows of {rows.shape[1]:,} numbers must have {width:,}; pass features as those of the fit"
            )
        return rows

    def outputs(self, features: Features) -> np.ndarray:
        """Return probabilities `[n, classes]`, or numbers `[n, 1]`."""
        if isinstance(self.probe, VectorProbe):
            return predict_rows(self.probe, self._rows(features))
        check_source(features, self.source)
        tokens, width = array_of(features), self.probe.config.embed_dim
        if tokens.ndim < 3 or tokens.shape[-1] != width:
            raise InputError(
                f"features of shape {tokens.shape} must be tokens, [n, ..., {width}]; encode with pooling='none'"
            )
        if not np.isfinite(shares := predict_rows(self.probe, tokens)).all():
            raise InputError("the features are not finite; encode them again")
        return shares

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
        device: Device = None,
        dtype: torch.dtype | None = None,
        num_heads: int | None = None,
    ) -> Probe:
        """Load a probe.

        Args:
            name_or_path: a directory, hub id `owner/name`, or name from `list_models()`, of a probe or of a
                classification model of transformers.
            revision: branch, tag or commit of a hub repository.
            cache_dir: hub cache; None: the hub's own default.
            token: hub token for private repositories; None: the stored one.
            local_files_only: never touch the network.
            force_download: fetch again what is cached.
            device: `cuda`, `mps` or `cpu`; None: the best there is.
            dtype: of an attentive probe's weights in memory; None: as stored.
            num_heads: of a transformers model's pooler; None: 16 of official ViT-g repositories, else the encoder's.

        Raises:
            ConfigError: an unknown name, a configuration that is not valid or of no probe, or open `num_heads`.
            WeightsError: weights that are missing or do not fit their configuration.
        """
        hub = HubOptions(
            revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
            force_download=force_download,
        )  # fmt: skip
        check_place(name_or_path)
        directory = locate_model(name_or_path, hub, check_config=check_probe_config)
        found = load_probe(directory, device=best_device(device), dtype=dtype, num_heads=num_heads)
        return cls(
            found.probe, found.labels, found.provenance, found.kind, found.source, found.fit, found.scores,
            found.weights_sha256,
        )  # fmt: skip

    def save_pretrained(
        self, directory: str | Path, *, licence: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> Path:
        """Write a probe directory that `from_pretrained` reads; see `VJEPA.save_pretrained` for what it replaces.

        Of weights that were changed since they were fitted or loaded it tells no scores, and says that they are.

        Args:
            licence: of the weights, as an SPDX identifier; None: the one they have.
            provenance: what else is said of the weights, as plain JSON data.
        """
        modified = weights_digest(self.probe.state_dict().items()) != self.weights_sha256
        return save_probe(
            directory,
            self.probe,
            labels=self.labels,
            provenance=descended(self.provenance, licence=licence, stated=provenance, modified=modified),
            kind=self.kind,
            source=self.source,
            fit={} if modified else self.fitted,
            scores={} if modified else self.scores,
        )

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
        provenance: Mapping[str, Any] | None = None,
    ) -> PushReport:
        """Write this probe to a temporary directory and push that; see `push` and `Probe.save_pretrained`."""
        with tempfile.TemporaryDirectory(prefix="vjepa-push-") as place:
            directory = self.save_pretrained(Path(place) / "probe", licence=licence, provenance=provenance)
            options = PushOptions(
                branch=branch, private=private, create_pr=create_pr, dry_run=dry_run, keep_card=keep_card,
                commit_message=commit_message, token=token,
            )  # fmt: skip
            return push_directory(directory, probe_files(directory), repository, options)
