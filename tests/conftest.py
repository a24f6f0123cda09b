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
    logger = logging.getLogger("vjepa_sdk")
    level = logger.level
    yield
    logger.setLevel(level)
