"""A run that is killed, stopped or out of disk at any moment ends in the same bits as one that is not."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import Launcher, assert_same_run, launcher_in, metrics, run_config, wait_for_lines, write_clips

from vjepa_sdk import VJEPA, pretrain
from vjepa_sdk.config.documents import to_toml
from vjepa_sdk.training.checkpoint import load_latest


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launcher_in(tmp_path_factory.mktemp("launcher")) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert pretrain(run_config(clips, out)).finished
    return out


@pytest.fixture
def toml(clips: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(run_config(clips, tmp_path / "unused")))
    return path


def finish(launcher: Launcher, toml: Path, out: Path) -> None:
    """Run to the end, resuming what is there."""
    launcher.start_run(toml, out, *resume_option(out))
    assert launcher.end() == 0, launcher.output


def resume_option(out: Path) -> list[str]:
    return ["--resume"] if (out / "config.toml").exists() else []


def wait_for_save(out: Path) -> None:
    """Wait until a run has begun to save, or is done."""
    deadline = time.monotonic() + 120
    while not (out / "model" / "config.json").exists() and not list(out.glob("checkpoints/.step-*.tmp")):
        assert time.monotonic() < deadline, "the run makes no progress"


def num_lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_once(launcher: Launcher, toml: Path, out: Path, generator: random.Random) -> str:
    """Kill a run at a random moment of its progress; return where it was."""
    wanted = min(num_lines(out) + generator.randrange(4), 7)
    process = launcher.start_run(toml, out, *resume_option(out))
    if generator.random() < 0.5:
        wait_for_save(out)
        time.sleep(generator.uniform(0, 0.02))
    else:
        wait_for_lines(out, wanted)
        time.sleep(generator.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    status = launcher.end()
    assert status in (0, -signal.SIGKILL), launcher.output
    if status == 0:
        return "after the end"
    return "in a save" if list(out.glob("checkpoints/.step-*.tmp")) else "between saves"


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.soak)])
def test_run_killed_again_and_again_ends_in_the_same_bits(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path, count: int
) -> None:
    generator, places = random.Random(count), Counter[str]()
    while places["in a save"] + places["between saves"] < count:
        out = tmp_path / f"run{places.total()}"
        for _ in range(generator.randint(1, 4)):
            places[kill_once(launcher, toml, out, generator)] += 1
            if (found := load_latest(out / "checkpoints", set_aside=False)) is not None:
                # one interval, and another while a save is in flight
                assert num_lines(out) - found.step <= 2 * 3
        finish(launcher, toml, out)
        assert_same_run(out, whole)
    print(dict(places))
    if count == 100:
        assert places["in a save"] >= 10
        assert places["after the end"] <= 0.2 * places.total()


DIE = "from faults import Faults, die\nFaults({}, die)"
FAIL = "from faults import Faults, fail\nFaults({}, fail)"
NUM_CALLS = 150
"""More than a whole run makes."""


@pytest.mark.parametrize(
    "calls",
    [range(9, NUM_CALLS, 37), pytest.param(range(1, NUM_CALLS), marks=pytest.mark.soak)],
    ids=["some", "all"],
)
def test_run_killed_at_the_kth_call_ends_in_the_same_bits(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path, calls: range
) -> None:
    statuses = []
    for k in calls:
        out = tmp_path / str(k)
        launcher.start_run(toml, out, setup=DIE.format(k))
        statuses.append(launcher.end())
        assert statuses[-1] in (0, -signal.SIGKILL), launcher.output
        finish(launcher, toml, out)
        assert_same_run(out, whole)
    assert statuses[0] == -signal.SIGKILL
    assert len(calls) < 100 or statuses[-1] == 0, "raise NUM_CALLS"


@pytest.mark.parametrize(
    "calls",
    [range(9, NUM_CALLS, 37), pytest.param(range(1, NUM_CALLS), marks=pytest.mark.soak)],
    ids=["some", "all"],
)
def test_disk_that_fails_at_the_kth_call_damages_nothing(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path, calls: range
) -> None:
    for k in calls:
        out = tmp_path / str(k)
        launcher.start_run(toml, out, setup=FAIL.format(k))
        status = launcher.end()
        assert status in (0, 1, 2), launcher.output
        assert status == 0 or "No space left on device" in launcher.output
        assert "Traceback" not in launcher.output
        finish(launcher, toml, out)
        assert_same_run(out, whole)


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_signal_saves_and_asks_to_be_run_again(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path, count: int
) -> None:
    generator = random.Random(count)
    for number in range(count):
        out = tmp_path / str(number)
        process = launcher.start_run(toml, out)
        wait_for_lines(out, generator.randint(1, 6))
        os.kill(process, SIGNALS[number % 3])
        assert launcher.end() == 75, launcher.output
        found, step = load_latest(out / "checkpoints"), num_lines(out)
        assert found is not None and found.step == step
        assert f"stopped after step {step}; add --resume to go on" in launcher.output
        finish(launcher, toml, out)
        assert_same_run(out, whole)


SLOW_SAVES = """
import time
from vjepa_sdk.training import checkpoint
original = checkpoint.write_tensors
def slow(path, tensors):
    time.sleep(0.2)
    original(path, tensors)
checkpoint.write_tensors = slow
"""


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_second_signal_during_a_save_damages_nothing(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path, count: int
) -> None:
    generator = random.Random(count)
    for number in range(count):
        out = tmp_path / str(number)
        process = launcher.start_run(toml, out, setup=SLOW_SAVES)
        wait_for_lines(out, 1)
        os.kill(process, SIGNALS[number % 3])
        time.sleep(generator.uniform(0.05, 0.4))
        os.kill(process, signal.SIGTERM)
        # a signal that comes when all is done changes nothing
        assert launcher.end() in (130, 75, -signal.SIGTERM), launcher.output
        finish(launcher, toml, out)
        assert_same_run(out, whole)


HANGING_CLIP = """
import time
from vjepa_sdk.training.data import batches
original, calls = batches.ClipCutter.__call__, []
def hanging(self, request):
    calls.append(request)
    if len(calls) == 4:
        time.sleep(300)
    return original(self, request)
batches.ClipCutter.__call__ = hanging
"""


def test_signal_while_waiting_for_a_clip_saves_at_once(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path
) -> None:
    process = launcher.start_run(toml, out := tmp_path / "run", setup=HANGING_CLIP)
    wait_for_lines(out, 1)
    time.sleep(0.1)
    os.kill(process, signal.SIGTERM)
    assert launcher.end() == 75, launcher.output
    finish(launcher, toml, out)
    assert_same_run(out, whole)


SWALLOWING_DECODER = """
import os, signal
from vjepa_sdk.training.data import batches
from vjepa_sdk.errors import VideoDecodeError
original, calls = batches.ClipCutter.__call__, []
def swallowing(self, request):
    calls.append(request)
    try:
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, request)
    except KeyboardInterrupt:
        raise VideoDecodeError("what PyAV says when its reader is interrupted")
batches.ClipCutter.__call__ = swallowing
"""


def test_signal_while_a_clip_is_decoded_makes_no_bad_clip(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path
) -> None:
    launcher.start_run(toml, out := tmp_path / "run", setup=SWALLOWING_DECODER)
    assert launcher.end() == 75, launcher.output
    finish(launcher, toml, out)
    assert_same_run(out, whole)


FAILING_SAVES = """
from faults import fail
from vjepa_sdk.training import checkpoint
original, calls = checkpoint.write_tensors, []
def failing(path, tensors):
    calls.append(path)
    if len(calls) in {}:
        fail()
    original(path, tensors)
checkpoint.write_tensors = failing
"""


def test_training_goes_on_after_a_failed_save(launcher: Launcher, whole: Path, toml: Path, tmp_path: Path) -> None:
    launcher.start_run(toml, out := tmp_path / "run", setup=FAILING_SAVES.format({3}))
    assert launcher.end() == 0, launcher.output
    assert "step-00000003: cannot save (No space left on device); " in launcher.output
    assert "bytes are needed" in launcher.output and "training goes on" in launcher.output
    assert_same_run(out, whole)


def test_three_failed_saves_in_a_row_stop_the_run(launcher: Launcher, whole: Path, toml: Path, tmp_path: Path) -> None:
    toml.write_text(toml.read_text().replace("save_every = 3", "save_every = 1"))
    launcher.start_run(toml, out := tmp_path / "run", setup=FAILING_SAVES.format(set(range(7, 20))))
    assert launcher.end() == 1, launcher.output
    assert "3 saves in a row failed" in launcher.output
    found = load_latest(out / "checkpoints")
    assert found is not None and found.step == 2
    finish(launcher, toml, out)
    assert metrics(out) == metrics(whole)


def test_full_disk_at_the_first_save_stops_before_training(launcher: Launcher, toml: Path, tmp_path: Path) -> None:
    launcher.start_run(toml, out := tmp_path / "run", setup=FAILING_SAVES.format({1}))
    assert launcher.end() == 1, launcher.output
    assert "step-00000000: cannot save" in launcher.output
    assert metrics(out) == []


def test_full_disk_at_the_last_save_still_exports_the_model(
    launcher: Launcher, whole: Path, toml: Path, tmp_path: Path
) -> None:
    launcher.start_run(toml, out := tmp_path / "run", setup=FAILING_SAVES.format({7}))
    assert launcher.end() == 1, launcher.output
    assert "step-00000008: cannot save" in launcher.output
    assert VJEPA.from_pretrained(out / "model").provenance["steps"] == 8
    finish(launcher, toml, out)
    assert_same_run(out, whole)
