"""Encode what is searched for as the rows of an index were encoded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.choices import Tail
from ..errors import ConfigError, InputError, ResumeError, printable
from ..hub.client import HubOptions
from ..hub.locate import locate_model
from ..inference.embed.model import model_sha256
from .nearest import unit

if TYPE_CHECKING:
    from ..inference.vjepa import VJEPA

_FRAGMENT = re.compile(r"(?P<path>.+)#t=(?:npt:)?(?P<start>\d+(?:\.\d+)?)?(?:,(?P<end>\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Query:
    """One encoded query."""

    name: str | None
    """As it was asked for; None for vectors, and for the mean of several."""
    path: str
    """Of its file; empty without one."""
    vectors: np.ndarray
    """`[W, D]`: one vector, or one for each window."""
    start_seconds: tuple[float | None, ...]
    """Where each of them starts in the file."""


def averaged(queries: Sequence[Query], *, mean: np.ndarray | None) -> Query:
    """Make one query of several: the mean of their directions, each of which is that of its windows.

    Args:
        mean: of the index, from which directions are seen; None: from zero.

    Raises:
        InputError: a vector is zero or not finite.
    """
    directions = np.stack([unit(each.vectors, mean=mean, name="query").mean(axis=0) for each in queries])
    direction = unit(directions, name="query").mean(axis=0) + (0.0 if mean is None else mean)
    name, path = (queries[0].name, queries[0].path) if len(queries) == 1 else (None, "")
    return Query(name, path, direction[None], (None,))


def encode_query(query: str | os.PathLike[str], model: VJEPA, settings: Mapping[str, Any]) -> Query:
    """Encode a video or image, or a part of one such as `a.mp4#t=3,5`.

    Args:
        settings: those of the index: sampling, windows, scaling to length 1.

    Raises:
        InputError: not a video, or no such part of it.
        VideoDecodeError: a file that cannot be decoded.
    """
    import torch

    from ..video.inputs import is_image

    name = os.fspath(query)
    path, start, end = part_of(name)
    if not os.path.exists(path):
        raise InputError(f"{printable(path)}: does not exist; pass a video, an image, or a part such as a.mp4#t=3,5")
    if settings["window_seconds"] is not None and not is_image(path):
        # what would fill no window is still asked for
        tail: Tail = "overlap" if settings["tail"] == "drop" else settings["tail"]
        windows = model.extract(
            path,
            window_seconds=settings["window_seconds"],
            num_frames=settings["num_frames"],
            stride_seconds=settings["stride_seconds"],
            start_seconds=start,
            end_seconds=end,
            tail=tail,
            source_fps=settings["source_fps"],
            decoder=settings["decoder"],
            show_progress_bar=False,
        )
        vectors, starts = windows.embeddings, tuple(map(float, windows.start_seconds))
    else:
        loader = model.clip_loader(
            num_frames=settings["num_frames"],
            fps=None if settings["window_seconds"] is not None else settings["fps"],
            source_fps=settings["source_fps"],
            decoder=settings["decoder"],
        )
        loader = replace(loader, sampling=replace(loader.sampling, start_seconds=start, end_seconds=end))
        pixels, about = loader(path)
        vectors, starts = model.embed_clips(torch.from_numpy(pixels[None])).cpu().numpy(), (about["start_seconds"],)
    if settings["normalize_embeddings"]:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Query(name, path, vectors, starts)


def part_of(query: str) -> tuple[str, float | None, float | None]:
    """Split a query into its path, and the seconds of the media fragment `#t=start,end` (W3C Media Fragments URI 1.0).

    A file whose very name ends like that is the file.
    """
    match = _FRAGMENT.fullmatch(query)
    if match is None or os.path.lexists(query) or (match["start"] is None and match["end"] is None):
        return query, None, None
    start, end = (None if match[name] is None else float(match[name]) for name in ("start", "end"))
    if start is not None and end is not None and start >= end:
        raise InputError(f"{query}: must end after it starts; exchange {start:g} and {end:g}")
    return match["path"], start, end


def find_model_of(
    meta: Mapping[str, Any], *, model: str | os.PathLike[str] | None = None, name: str = "the index"
) -> Path:
    """Return the directory of the model that made features.

    Args:
        meta: of the features.
        model: where the model is now; None: where it was.
        name: what errors call the features.

    Raises:
        ConfigError: there is no such model.
        ResumeError: it is another one.
    """
    made = meta["model"]
    revision = made["provenance"].get("commit") if model is None else None
    try:
        directory = locate_model(made["name"] if model is None else model, HubOptions(revision=revision))
    except ConfigError as error:
        raise ConfigError(
            f"{name}: the model that made it is not found; pass --model with its place ({error})"
        ) from error
    if model_sha256(directory) != made["sha256"]:
        raise ResumeError(
            f"{name}: was made by another model than {made['name'] if model is None else model} is now; "
            "restore it, or embed again"
        )
    return directory
