"""What is said when something is wrong has the value, the rule and the remedy, and stands on the page of messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vjepa_sdk import Probe, read_video, sample_indices, semantic_search, surprise_metrics, train_config
from vjepa_sdk.config.training import OptimConfig
from vjepa_sdk.errors import ConfigError, InputError, VJEPAError
from vjepa_sdk.runtime.workers.pool import WorkerPool

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"
ROWS = np.eye(4, dtype=np.float32)
SAID: dict[str, tuple[type[VJEPAError], Callable[[], object]]] = {
    "--set 'steps' must be key=value; write for example optim.lr=3e-4": (
        ConfigError,
        lambda: train_config(overrides=["steps"]),
    ),
    "--set 'steps.a=1': 'steps' is not a section; set it in a --config file": (
        ConfigError,
        lambda: train_config(overrides=["steps=1", "steps.a=1"]),
    ),
    "betas=(0.9, 1.0) must lie in [0, 1); the usual ones are (0.9, 0.999)": (
        ConfigError,
        lambda: OptimConfig(betas=(0.9, 1.0)),
    ),
    "a path must be str or os.PathLike, got int": (InputError, lambda: read_video(3)),  # type: ignore[arg-type]
    "'' is not a path: it is empty or contains a null character": (InputError, lambda: read_video("")),
    "num_available=0 and num_frames=4 must both be at least 1": (InputError, lambda: sample_indices(0, 4)),
    "class_weight='even' must be 'balanced' or None": (
        ConfigError,
        lambda: Probe.fit(ROWS, ["a", "a", "b", "b"], class_weight="even"),  # type: ignore[arg-type]
    ),
    "queries have 2 numbers and rows 4; use one model for both": (
        InputError,
        lambda: semantic_search(ROWS[:1, :2], ROWS),
    ),
    "scores, labels and video_ids of shapes [(3,), (2,)] must be [n] each": (
        InputError,
        lambda: surprise_metrics([1.0, 2.0, 3.0], [0, 1]),
    ),
    "num_workers=-1 must be at least 0": (ConfigError, lambda: WorkerPool(len, num_workers=-1, deadline_seconds=1)),
}


@pytest.mark.parametrize("text", SAID)
def test_wrong_values_are_named_with_the_rule(text: str) -> None:
    kind, wrong = SAID[text]
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        wrong()


@pytest.mark.parametrize("text", SAID)
def test_what_is_said_stands_on_the_page_with_its_exit_code(text: str) -> None:
    kind = SAID[text][0].__name__
    shown = re.findall(rf"^- `+ ?(.+?) ?`+ \*{kind}, exit code 2\*$", PAGE.read_text(encoding="utf-8"), re.M)
    assert any(re.fullmatch(re.escape(each).replace("…", ".+"), text) for each in shown)
