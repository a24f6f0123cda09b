"""What a command line can be refused for before torch is loaded: callbacks of options and arguments."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import typer

from ..corpus.find import missing
from ..errors import InputError, printable


def known_model(context: typer.Context, model: str | None) -> str | None:
    """Refuse what is no model's name, directory or hub id.

    Raises:
        ConfigError: as `locate_model`.
    """
    if model is not None and not context.resilient_parsing:
        from ..hub.locate import check_model_name

        check_model_name(model)
    return model


def existing_inputs(context: typer.Context, inputs: list[str] | None) -> list[str] | None:
    """Refuse paths that do not exist, as `find_clips` does; patterns and lists are for that. None are none.

    Raises:
        InputError: one does not exist.
    """
    if not context.resilient_parsing:
        for name in inputs or ():
            check_exists(name)
    return inputs


def check_exists(name: str) -> None:
    """Raise InputError unless a path exists; patterns, and lists that are named with an @, are for `find_clips`."""
    if not (os.path.lexists(str(Path(name))) or glob.has_magic(name) or name.startswith("@")):
        raise missing(name)


def existing_video(context: typer.Context, video: str) -> str:
    """Refuse a path that does not exist.

    Raises:
        InputError: it does not exist.
    """
    if not context.resilient_parsing and not os.path.exists(video):
        raise missing(video)
    return video


def existing_videos(context: typer.Context, videos: list[str]) -> list[str]:
    """Refuse paths that do not exist.

    Raises:
        InputError: one does not exist.
    """
    return [existing_video(context, video) for video in videos]


def existing_labels(context: typer.Context, labels: Path | None) -> Path | None:
    """Refuse a list of labels, or a directory of classes, that does not exist; None is none.

    Raises:
        InputError: it does not exist.
    """
    if not context.resilient_parsing and labels is not None and not labels.exists():
        raise InputError(f"{printable(labels)}: does not exist; pass a list of labels or a directory of classes")
    return labels
