"""Shared fixtures; files in this directory import their helpers (`goldens`, `media`) by plain name."""

from __future__ import annotations

import os

# tiny models gain nothing from threads, and tests of killed and resumed runs compare bits
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ["corpora", "loopback_hub"]
