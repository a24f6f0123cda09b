"""Shared fixtures; tests import their helpers in `support` (`goldens`, `media`) by plain name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# tiny models gain nothing from threads, and tests of killed and resumed runs compare bits
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ["corpora", "loopback_hub"]


@pytest.fixture(autouse=True)
def _same_log_level() -> Iterator[None]:
    """Undo what a command line run inside this process sets: -q would silence the tests that come after it."""
    names = ("vjepa_sdk", "vjepa_sdk.training.plan.preflight", "vjepa_sdk.training.data.cache")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
