"""List the clips that a dataset names: a directory, a CSV, a text list or an array of paths."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import InputError
from .find import find_clips, find_stills, find_videos
from .lists import read_rows


def list_clips(path: str | Path, *, split: str | None = None, images: bool = False) -> list[Path]:
    """List the clips of a dataset in the order of its list, or sorted.

    Args:
        path: a directory, searched recursively; or a CSV with the header `path[,split,label,group]`; or the official
            headerless `.csv` or a `.txt`, one `path`, `path label` or `path::label` a line, with numbers as labels;
            or an `.npy` array of paths. Labels are ignored. Paths in a file are relative to it, and may name videos
            and stills.
        split: only rows whose column `split` has this value.
        images: a directory gives its stills; one without any gives its videos, of which an image model takes frames.

    Raises:
        InputError: nothing there, or a list without usable rows. Single files that are missing are no error: training
            counts them as bad clips.
    """
    source = Path(path)
    suffix = source.suffix.lower()
    if split is not None and suffix != ".csv":
        raise InputError(f"split={split!r} needs a CSV with a column 'split', got {source}; leave it out")
    if suffix not in (".csv", ".txt", ".npy"):
        return find_stills([source]) if images else _videos_in(source)
    if not source.is_file():
        raise InputError(f"{source}: no such file; pass a directory or a list of clips")
    names = _names_in_array(source) if suffix == ".npy" else _names_in_text(source, split)
    if not names:
        raise InputError(f"{source}: lists no clips")
    paths = [source.parent / name for name in names]
    if not any(clip.is_file() for clip in paths):
        raise InputError(
            f"{source}: none of its {len(paths)} clips exists, for example {paths[0]}; paths are relative to the list"
        )
    return paths


def _videos_in(directory: Path) -> list[Path]:
    """List a directory's videos; one that holds stills alone is not taken for clips in silence."""
    try:
        return find_videos([directory])
    except InputError as error:
        if not any(folder.images for folder in find_clips([directory], links="named").folders):
            raise
        raise InputError(
            f"{directory}: holds images and no video; train on stills with an image model such as --preset ijepa-tiny, "
            "list them in a CSV to repeat each as a clip, or make videos of frames first"
        ) from error


def _names_in_array(source: Path) -> list[str]:
    remedy = "save it with np.save(path, np.array(paths, dtype=str))"
    try:
        with open(source, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind in "US" and array.ndim == 1:
            return [os.fsdecode(name) for name in array.tolist()]
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise InputError(f"{source}: is no array, or one of Python objects, which are not read; {remedy}") from error
    raise InputError(f"{source}: must hold one row of paths as text, got {array.dtype} {list(array.shape)}; {remedy}")


def _names_in_text(source: Path, split: str | None) -> list[str]:
    rows = [row for _, row in read_rows(source)]
    if split is None or not rows:
        return [row["path"] for row in rows]
    if "split" not in rows[0]:
        raise InputError(
            f"{source}: has no column 'split'; its columns are {', '.join(rows[0])}, and split={split!r} needs the "
            "header path[,split,label,group]"
        )
    names = [row["path"] for row in rows if row["split"] == split]
    if not names:
        splits = ", ".join(sorted({row["split"] or "" for row in rows}))
        raise InputError(f"{source}: lists no clips with split={split!r}; its splits are {splits}")
    return names
