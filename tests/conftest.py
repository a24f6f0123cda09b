"""Shared fixtures; tests import their helpers in `support` (`goldens`, `media`) by plain name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# tiny models gain nothing from threads, and tests of killed and resumed runs compare bits
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ["corpora", "durations", "loopback_hub"]


@pytest.fixture(autouse=True)
def _same_log_level() -> Iterator[None]:
    """Undo what a command line run inside this process sets: -q would silence the tests that come after it."""
    from vjepa_sdk.cli.options import SPEAK_TO_ALL

    names = ("vjepa_sdk", *(f"vjepa_sdk.{name}" for name in SPEAK_TO_ALL))
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def _no_licence_was_stated() -> None:
    """Let every test hear of licences anew: a process says each once."""
    from vjepa_sdk.weights import provenance

    provenance._STATED.clear()
