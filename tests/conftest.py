"""Shared fixtures; files in this directory import their helpers (`goldens`, `media`) by plain name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub

# tiny models gain nothing from threads, and tests of killed and resumed runs compare bits
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


class Clock:
    """A clock on which waiting takes no time; it notes the waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock() -> Clock:
    """Return the clock that the hub's client goes by in tests with a hub."""
    return Clock()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[LoopbackHub]:
    """Run a hub on the loopback interface, and make it the one that the client in this process knows."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from vjepa_sdk import hub_client

    with LoopbackHub(tmp_path / "cas") as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # the test of xet has a process of its own
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for module in (_http, file_download, hub_client):
            monkeypatch.setattr(module, "time", clock)
        yield server
