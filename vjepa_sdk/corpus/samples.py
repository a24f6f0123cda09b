"""The videos that come with the package: twelve rendered clips, to try things on without any of one's own."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "samples", _PACKAGE.parent / "examples" / "clips")
"""In an installed package, and in a checkout, from which the first is made."""


def sample_videos() -> list[Path]:
    """Return paths of twelve clips of 1.6 seconds, 60 kB together, in which a shape moves one of eight ways.

    Raises:
        InputError: the installation lacks them.
    """
    for place in _PLACES:
        if found := sorted(place.glob("*.mp4")):
            return found
    raise InputError(f"{_PLACES[0]}: the sample videos are not there; install vjepa-sdk again")
