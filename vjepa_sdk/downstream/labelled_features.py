"""Get the features of labelled clips: encode them in one resumable pass, or find them in a file of features."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.find import FoundClips
from ..errors import ConfigError, InputError, InUseError, OutputError, ResumeError, StoppedError, WriteError, printable
from ..features.embeddings import ERRORS, Embeddings, embedding_files, sidecar
from ..features.source import FeatureSource
from ..hub.locate import load_embeddings
from ..inference.baselines import num_pixel_values
from ..inference.embed.job import run_job
from ..inference.embed.model import find_model, model_sha256
from ..inference.embed.options import Baselines, EmbedOptions
from ..inference.embed.output import is_output
from ..weights.description import read_shape
from .fit import Table
from .labels import LabelledClip
from .probe_options import EncodeOptions
from .rows import views_of
from .streaming import Failure, StreamedTokens, ViewEncoder, untrained_like

TRAINED, PIXELS = "trained", "pixels"
_FEATURES = "features.npy"


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of labelled clips, and what they are compared with."""

    clips: list[LabelledClip]
    """Those that have features."""
    video: np.ndarray
    """int64 `[rows]`: number of the clip that a row is of."""
    kinds: Mapping[str, Table]
    """`[rows, ...]` of the encoder (`trained`), and where they were asked for `random-0`, ... and `pixels`."""
    source: FeatureSource
    failed: list[Failure]
    """Clips without features: `id`, `path`, `reason`."""

    @property
    def random(self) -> list[Table]:
        """Features of the same network with random weights, once for each initialisation."""
        return [rows for name, rows in self.kinds.items() if name.startswith("random")]


class FeatureCache:
    """Directory beside a probe in which its features are made, so that a run that is stopped can go on.

    Raises:
        OutputError: something else is in its place or in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / _FEATURES
        names = {_FEATURES, *(sidecar(self.path, name).name for name in ("index.jsonl", "errors.jsonl"))}
        names |= {sidecar(self.path, name).name for name in ("inputs.jsonl", "meta.json")} | {f"{_FEATURES}.work"}
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            raise OutputError(f"{directory}: is in the place of a probe's cache; move it away, or choose another --out")
        found = [*directory.iterdir()] if directory.is_dir() else []
        strange = [entry for entry in found if entry.name not in names or entry.is_symlink()]
        if self.path in found and not is_output(self.path):
            strange.append(self.path)
        if strange:
            raise OutputError(
                f"{directory}: holds {printable(min(strange).name)}, which is no file of a probe's cache; move it "
                "away, or choose another --out"
            )

    def remove_if_empty(self) -> None:
        """Delete the directory if nothing came to be in it."""
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def remove(self) -> None:
        """Delete the features, and the directory."""
        for path in embedding_files(self.path).values():
            path.unlink()
        with suppress(OSError):  # what somebody has put there meanwhile stays
            self.directory.rmdir()


def encode_labelled(
    clips: Sequence[LabelledClip], cache: FeatureCache, options: EmbedOptions, *, overwrite: bool
) -> Embeddings:
    """Encode clips, or go on with that; rows are as `options` say.

    Args:
        overwrite: start over if the cache holds features of other clips or settings.

    Raises:
        StoppedError: a signal came.
        ResumeError, OutputError: the cache holds features of other clips or settings.
        VideoDecodeError: all clips failed, or too many.
    """
    cache.directory.mkdir(parents=True, exist_ok=True)
    found = FoundClips(named=[clip.source for clip in clips])
    try:
        result = run_job(options, found, cache.path)
    except (ResumeError, OutputError) as error:
        cache.remove_if_empty()
        # a full disk, or a run that is alive, is no reason to start over
        if not overwrite or isinstance(error, InUseError | WriteError):
            raise
        cache.directory.mkdir(parents=True, exist_ok=True)
        result = run_job(replace(options, overwrite=True), found, cache.path)
    if result.interrupted:
        raise StoppedError(f"{cache.path}: {result.rows} rows so far; run the same command again to go on")
    return load_embeddings(cache.path, memory_map=True)


def gather(
    labelled: Sequence[LabelledClip],
    cache: FeatureCache,
    encode: EncodeOptions,
    *,
    random_inits: int,
    overwrite: bool,
) -> LabelledFeatures:
    """Encode labelled clips, and in the same pass what they are compared with.

    Args:
        random_inits: networks with random weights; 0: neither those nor raw pixels.
        overwrite: see `encode_labelled`.
    """
    baselines = Baselines(trained=True, random_inits=random_inits) if random_inits else None
    options = encode.embedding() if baselines is None else encode.compared(baselines)
    embeddings = views_of(encode_labelled(labelled, cache, options, overwrite=overwrite))
    rows, owners = match(labelled, embeddings, cache.path)
    source, kinds = FeatureSource.of_meta(embeddings.meta), {TRAINED: embeddings.features}
    if baselines is not None:
        tubelet = read_shape(find_model(encode.embedding())).config.tubelet_size
        kinds = take_apart(embeddings, baselines, tubelet_size=tubelet)
        if encode.clip_set is not None:
            del kinds[PIXELS]  # too many numbers for logistic regression
    kept, video, _ = keep_clips(labelled, owners)
    return LabelledFeatures(
        kept,
        video,
        {n: v[rows] if len(rows) < len(v) else v for n, v in kinds.items()},
        source,
        failures_of(cache.path),
    )


def stream(labelled: Sequence[LabelledClip], encoder: ViewEncoder, *, random_inits: int) -> LabelledFeatures:
    """Return features of labelled clips that are made whenever they are asked for."""
    clips = [clip.source for clip in labelled]
    trained = StreamedTokens(encoder, clips)
    others = {
        f"random-{seed}": StreamedTokens(encoder, clips, untrained_like(encoder.model, seed))
        for seed in range(random_inits)
    }
    return LabelledFeatures(list(labelled), trained.owners, {TRAINED: trained, **others}, encoder.source, [])


def look_up(
    labelled: Sequence[LabelledClip],
    features: Path,
    cache: FeatureCache,
    encode: EncodeOptions,
    *,
    random_inits: int,
    overwrite: bool,
) -> LabelledFeatures:
    """Take the features of labelled clips from a file; only what they are compared with is encoded.

    Raises:
        ResumeError: the model that the file names is another one now.
        InputError: the file holds none of the clips.
    """
    embeddings = load_embeddings(features, memory_map=True)
    source = FeatureSource.of_meta(embeddings.meta)
    rows, owners = match(labelled, embeddings, features)
    kept, video, without = keep_clips(labelled, owners)
    known = {str(failure["id"]): failure for failure in failures_of(features)}
    failed = [
        known.get(clip.source.id)
        or {"id": clip.source.id, "path": clip.source.path, "reason": f"{features.name} has no row of it"}
        for clip in without
    ]
    kinds = {TRAINED: embeddings.features[rows]}
    if random_inits:
        again = encode.of_source(source)
        directory = find_model(again.embedding())
        if model_sha256(directory) != source.model["sha256"]:
            raise ResumeError(
                f"{features}: was made by another model than {source.model['name']} is now; restore it, or pass "
                "baseline=False (--no-baseline)"
            )
        baselines = Baselines(trained=False, random_inits=random_inits)
        options = again.compared(baselines, normalize_embeddings=bool(source.settings["normalize_embeddings"]))
        others = encode_labelled(kept, cache, options, overwrite=overwrite)
        other_rows, _ = match(kept, others, cache.path)
        check_same_rows(embeddings, rows, others, other_rows)
        tubelet = read_shape(directory).config.tubelet_size
        kinds |= {n: v[other_rows] for n, v in take_apart(others, baselines, tubelet_size=tubelet).items()}
    return LabelledFeatures(kept, video, kinds, source, failed)


def failures_of(path: Path) -> list[dict[str, Any]]:
    """Return the clips that failed in an output of `vjepa embed`: `id`, `path` and `reason`."""
    errors = sidecar(path, ERRORS)
    return [json.loads(line) for line in errors.read_bytes().splitlines()] if errors.is_file() else []


def take_apart(embeddings: Embeddings, baselines: Baselines, *, tubelet_size: int) -> dict[str, np.ndarray]:
    """Return what rows with baselines hold, by name."""
    settings, rows = embeddings.meta["settings"], embeddings.features
    last = num_pixel_values(settings["pooling"], num_frames=settings["num_frames"], tubelet_size=tubelet_size)
    names = [TRAINED] * baselines.trained + [f"random-{seed}" for seed in range(baselines.random_inits)]
    width = (rows.shape[-1] - last) // len(names) if names else 0
    kinds = {name: rows[..., number * width : (number + 1) * width] for number, name in enumerate(names)}
    return {**kinds, PIXELS: rows[..., rows.shape[-1] - last :]}


def match(clips: Sequence[LabelledClip], embeddings: Embeddings, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of labelled clips in features, by id, then by path.

    Returns:
        Row numbers int64 `[rows]`, sorted, and the number of the clip that each is of.

    Raises:
        InputError: none of the clips has a row.
    """
    by_id = {clip.source.id: number for number, clip in enumerate(clips)}
    spans: dict[tuple[str, float | None], int] = {}
    for number, clip in enumerate(clips):
        spans[os.path.realpath(clip.source.path), clip.source.start_seconds] = number
    rows, owners = [], []
    for row, entry in enumerate(embeddings.index):
        path = os.path.realpath(entry["path"])
        owner = by_id.get(entry["id"])
        if owner is None:
            owner = spans.get((path, None), spans.get((path, entry["start_seconds"])))
        if owner is not None:
            rows.append(row)
            owners.append(owner)
    if not rows:
        raise InputError(
            f"{printable(where)}: holds no row of the {len(clips)} labelled clips, such as "
            f"{printable(clips[0].source.path)}; its rows are of such as {printable(embeddings.index[0]['path'])}"
        )
    return np.array(rows), np.array(owners)


def keep_clips(
    clips: Sequence[LabelledClip], video: np.ndarray
) -> tuple[list[LabelledClip], np.ndarray, list[LabelledClip]]:
    """Return the clips that have rows, `video` in their numbers, and the clips without.

    Raises:
        InputError: a class lost all its clips.
    """
    kept, places = np.unique(video, return_inverse=True)
    with_rows = set(kept.tolist())
    without = [clip for number, clip in enumerate(clips) if number not in with_rows]
    before, after = Counter(clip.label for clip in clips), Counter(clips[number].label for number in kept)
    gone = sorted(label for label in before if label not in after)
    if gone and len(before) < len(clips):  # of numbers, each may be a label of its own
        raise InputError(
            f"no clip labelled {printable(gone[0])} has features, all {before[gone[0]]} failed; see the reasons above, "
            "or leave the class out"
        )
    return [clips[number] for number in kept], places, without


def check_same_rows(one: Embeddings, rows: np.ndarray, other: Embeddings, other_rows: np.ndarray) -> None:
    """Raise ConfigError unless rows of two files are of the same clips and windows, in the same order."""
    first, second = (
        [_span(found.index[row]) for row in numbers] for found, numbers in ((one, rows), (other, other_rows))
    )
    if first != second:
        raise ConfigError(
            f"{len(first)} rows of features do not match the {len(second)} that the baselines have now: files changed "
            "since; embed them again, or pass baseline=False (--no-baseline)"
        )


def _span(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return os.path.realpath(entry["path"]), entry["start_seconds"], entry.get("window")
