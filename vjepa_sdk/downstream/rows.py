"""Take features as rows: what they are of, and their labels."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, InputError
from ..features.embeddings import Embeddings
from ..features.source import FeatureSource
from .labels import check_classes

Features = Embeddings | np.ndarray
"""What `load_embeddings` gives, which knows what it is of; or rows `[n, ...]`, which do not."""


def array_of(features: Features) -> np.ndarray:
    """Return the numbers."""
    return features.features if isinstance(features, Embeddings) else np.asarray(features)


def rows_of(features: Features) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the rows, which video each is of (int `[n]`, from 0), and which file."""
    rows = array_of(features)
    if not isinstance(features, Embeddings):
        return rows, np.arange(len(rows)), [str(number) for number in range(len(rows))]
    ids = [entry["id"] for entry in features.index]
    return rows, np.unique(ids, return_inverse=True)[1], [os.path.realpath(entry["path"]) for entry in features.index]


def views_of(embeddings: Embeddings) -> Embeddings:
    """Put the tokens of a view's segments together, `[views, segments, ...]`; features of no clip set stay as they are.

    The index says which `view` of which clip a row is then.
    """
    clip_set = embeddings.meta["settings"].get("clip_set")
    if clip_set is None:
        return embeddings
    segments = clip_set["segments"]
    tokens = embeddings.features.reshape(-1, segments, *embeddings.features.shape[1:])
    kept = ("id", "path", "decoder", "size")
    index = [
        {
            **{key: entry[key] for key in kept},
            "start_seconds": None,
            "end_seconds": None,
            "view": entry["window"] // segments,
        }
        for entry in embeddings.index[::segments]
    ]
    return Embeddings(tokens, index, embeddings.meta)


def check_are_views(embeddings: Embeddings) -> None:
    """Raise ConfigError where each segment of a view is still a row of its own."""
    if "clip_set" in embeddings.meta["settings"] and any("window" in entry for entry in embeddings.index):
        raise ConfigError("these rows are clips of a protocol, several a video; pass the file to evaluate_probe")


def labels_of(features: Features) -> list[str]:
    """Return the column `label` of the index; raises InputError if there is none, or a row has none."""
    if not isinstance(features, Embeddings):
        raise InputError("the features come without labels; pass labels, one a row")
    labels = features.labels
    if missing := labels.count(None):
        raise InputError(f"{missing} of {len(labels)} rows have no label; leave them out, or pass labels, one a row")
    return [str(label) for label in labels]


def targets_of(labels: Sequence[str | int | float], kind: str) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes, sorted, and the number of each row's; or no names, and numbers."""
    if kind == "regression":
        try:
            values = np.array([float(label) for label in labels])
        except ValueError as error:
            raise ConfigError(
                f"labels must be numbers for kind='regression' ({error}); or pass kind='linear'"
            ) from error
        if not np.isfinite(values).all():
            raise InputError(f"label {int(np.argmin(np.isfinite(values)))} is not finite; leave it out")
        return [], values
    if kind not in ("linear", "knn"):
        raise ConfigError(
            f"kind={kind!r} must be one of linear, knn, regression; `train_probe` also fits attentive ones"
        )
    texts = [str(label) for label in labels]
    check_classes(texts)
    names, targets = np.unique(texts, return_inverse=True)
    return names.tolist(), targets


def check_source(features: Features, source: FeatureSource) -> None:
    """Raise ConfigError if features are known to be other ones than a probe reads."""
    if not isinstance(features, Embeddings):
        return
    check_are_views(features)
    if source.is_known and (changes := source.differences(FeatureSource.of_meta(features.meta))):
        raise ConfigError(
            f"these features are not what the probe reads ({'; '.join(changes[:4])}); embed with the probe's "
            "model and settings"
        )
