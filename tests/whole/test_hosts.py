"""Other programs are hosts: daemons, forks, directories that are gone, `python -O`, and those that embed Python."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import NUM_CLIPS
from tiny_models import IMAGE, VIDEO, save_tiny
from tiny_runs import run_config, write_clips

import vjepa_sdk
from vjepa_sdk import VJEPA, Probe, check_files, embed_files, pretrain, surprise_files
from vjepa_sdk.errors import ConfigError, InputError, WeightsError
from vjepa_sdk.runtime.devices import best_device
from vjepa_sdk.runtime.host import is_nowhere, python_executable
from vjepa_sdk.runtime.workers.pool import WorkerPool
from vjepa_sdk.weights.convert import convert

PACKAGE = Path(vjepa_sdk.__file__).parent
CPU = torch.device("cpu")


def run_program(text: str, tmp_path: Path, *arguments: object, options: tuple[str, ...] = (), threads: int = 2) -> str:
    """Run a program of its own, and return what it prints on both streams."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, *options, str(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout


def test_a_daemonic_process_decodes_in_processes_of_its_own(model: Path, clips: Path, tmp_path: Path) -> None:
    program = """
    import multiprocessing, sys
    from vjepa_sdk import embed_files

    def work(model, clips, out):
        print(multiprocessing.current_process().daemon, embed_files(clips, out, model=model, num_workers=1).rows)

    if __name__ == "__main__":
        child = multiprocessing.get_context("spawn").Process(target=work, args=sys.argv[1:], daemon=True)
        child.start()
        child.join()
    """
    assert f"True {NUM_CLIPS}\n" in run_program(program, tmp_path, model, clips, tmp_path / "feats.npy")


FORK = """
import multiprocessing, os, sys, time
import torch
from vjepa_sdk import VJEPA
from vjepa_sdk.runtime import forks

forks._PATIENCE_SECONDS = 2.0
model = VJEPA.from_pretrained(sys.argv[1], device="cpu")
PARENT

def work():
    clips = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)  # so few that one thread makes them
    for door in (lambda: model.embed_clips(clips), lambda: VJEPA.from_pretrained(sys.argv[1])):
        try:
            door()
            torch.zeros(1 << 20).add_(1)
            print("works", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)

START
"""
BY_OS = "if os.fork() == 0:\n    work()\n    os._exit(0)\nos.wait()"
BY_MULTIPROCESSING = """
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""
RUN = "torch.zeros(1 << 20).add_(1)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("start", [BY_OS, BY_MULTIPROCESSING])
def test_a_fork_after_torch_has_run_says_spawn_and_does_not_hang(start: str, model: Path, tmp_path: Path) -> None:
    text = run_program(FORK.replace("PARENT", RUN).replace("START", start), tmp_path, model)
    line = 'VJEPAError this process was forked from one in which torch has run, .*get_context("spawn")'
    assert text.count(line.split(".*")[0]) == 2 and line.split(".*")[1] in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    ("parent", "threads"), [("torch.set_num_threads(1)\n" + RUN, 2), (RUN, 1)], ids=["one thread", "one of all"]
)
def test_a_fork_that_waits_for_no_thread_works(parent: str, threads: int, model: Path, tmp_path: Path) -> None:
    program = FORK.replace("PARENT", parent).replace("START", BY_OS)
    assert run_program(program, tmp_path, model, threads=threads) == "works\nworks\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_before_torch_has_run_works(model: Path, tmp_path: Path) -> None:
    program = FORK.replace('model = VJEPA.from_pretrained(sys.argv[1], device="cpu")', "").replace("PARENT", "")
    program = program.replace("def work():", "def work():\n    model = VJEPA.from_pretrained(sys.argv[1])")
    assert run_program(program.replace("START", BY_OS), tmp_path, model) == "works\nworks\n"


GONE = """
import os, sys, tempfile
model, clips, out = sys.argv[1:]
AT
place = tempfile.mkdtemp()
os.chdir(place)
os.rmdir(place)
from vjepa_sdk import VJEPA, VJEPAError, check_files, embed_files
print(VJEPA.from_pretrained(model, device="cpu").encode(clips + "/0.mp4").shape)
for workers in (0, 1):
    print(embed_files(clips, out, model=model, num_workers=workers, overwrite=True).rows)
    print(len(check_files([clips], num_workers=workers)))
for door in (
    lambda: embed_files("clips", out, model=model),
    lambda: embed_files(clips, "feats.npy", model=model),
    lambda: check_files(["clips"]),
    lambda: VJEPA.from_pretrained(model, device="cpu").encode("0.mp4"),
    lambda: VJEPA.from_pretrained(model, device="cpu").save_pretrained("copy"),
):
    try:
        door()
    except VJEPAError as error:
        print(str(error).partition("(")[0].split(";")[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be deleted here")
@pytest.mark.parametrize("at", ["", "import vjepa_sdk; from vjepa_sdk import embed_files"])
def test_a_working_directory_that_is_gone_stops_no_absolute_path(
    at: str, model: Path, clips: Path, tmp_path: Path
) -> None:
    text = run_program(GONE.replace("AT", at), tmp_path, model, clips, tmp_path / "feats.npy", threads=1)
    assert text.splitlines() == [
        "(24,)", *[str(NUM_CLIPS)] * 4,
        "clips: does not exist", "feats.npy.work: cannot write ", "clips: does not exist", "0.mp4: does not exist",
        "copy: cannot write the model ",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be deleted here")
def test_the_command_line_works_in_a_directory_that_is_gone(model: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats.npy"
    program = f"""
    import os, subprocess, sys, tempfile
    place = tempfile.mkdtemp()
    os.chdir(place)
    os.rmdir(place)
    for arguments in (["embed", {str(clips)!r}, "--out", {str(out)!r}, "--model", {str(model)!r}], ["check", "clips"]):
        print(subprocess.run([sys.executable, "-m", "vjepa_sdk", *arguments]).returncode, flush=True)
    """
    text = run_program(program, tmp_path, threads=1)
    assert f"{NUM_CLIPS} rows\n0\n" in text and "clips: does not exist; check the spelling" in text
    assert "Traceback" not in text and text.endswith("2\n")


def test_a_directory_is_known_to_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_nowhere()


def test_nothing_depends_on_assertions(model: Path, clips: Path, tmp_path: Path) -> None:
    program = """
    import sys
    from vjepa_sdk import VJEPA, embed_files
    model, clips, out = sys.argv[1:]
    print(__debug__, embed_files(clips, out, model=model, num_workers=1).rows)
    VJEPA.from_pretrained(model, device="cpu").save_pretrained(out + ".model")
    """
    text = run_program(program, tmp_path, model, clips, tmp_path / "feats.npy", options=("-O",), threads=1)
    assert text.endswith(f"False {NUM_CLIPS}\n")


def assertions() -> Iterator[tuple[Path, ast.Assert]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                yield path, node


def test_assertions_only_tell_a_type_checker_what_is_known() -> None:
    for path, node in assertions():
        calls = [call for call in ast.walk(node.test) if isinstance(call, ast.Call)]
        assert all(isinstance(call.func, ast.Name) and call.func.id == "isinstance" for call in calls), (
            f"{path}:{node.lineno}"
        )


@pytest.mark.parametrize("executable", [None, "", "/usr/bin/uwsgi", "/opt/blender/blender"])
def test_a_program_that_embeds_python_is_not_started_again(
    executable: str | None, model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.delattr(sys, "argv")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(ConfigError, match="num_workers=2 needs a Python to start, and sys.executable=.* is none; pass"):
        WorkerPool(len, num_workers=2, deadline_seconds=1.0)  # type: ignore[arg-type]
    assert embed_files(clips, tmp_path / "feats.npy", model=model, num_workers=0).rows == NUM_CLIPS
    torch.save({"encoder": {}}, tmp_path / "official.pt")
    with pytest.raises(WeightsError, match="run `vjepa convert` in a shell"):
        convert(tmp_path / "official.pt", tmp_path / "out")


@pytest.mark.parametrize(
    "executable", ["/usr/bin/python3.12", "python.exe", "pypy3", "/opt/hfs/bin/hython", "/nix/.python3.12-wrapped"]
)
def test_pythons_are_known_by_their_names(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert python_executable() == executable
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert python_executable() is None


def test_a_device_of_torch_is_accepted_by_every_door(model: Path, clips: Path, tmp_path: Path) -> None:
    assert VJEPA.from_pretrained(model, device=CPU).device == CPU
    assert VJEPA.untrained(VIDEO, device=CPU).device == CPU
    assert embed_files(clips, tmp_path / "feats.npy", model=model, num_workers=0, device=CPU).rows == NUM_CLIPS
    assert embed_files(clips, tmp_path / "feats.npy", model=model, num_workers=0, device="cpu").already_complete
    probe = Probe.fit(np.eye(4, dtype=np.float32), ["a", "a", "b", "b"], C=1.0).save_pretrained(tmp_path / "probe")
    assert next(iter(Probe.from_pretrained(probe, device=CPU).probe.state_dict().values())).device == CPU
    (tmp_path / "clips").mkdir()
    config = run_config(write_clips(tmp_path / "clips"), tmp_path / "run", device=CPU, steps=1)
    assert config.device == "cpu" and pretrain(config).finished
    found = surprise_files(sorted(clips.iterdir())[-1:], model=model, num_workers=0, device=CPU, fps=10)
    assert len(found.videos) == 1


@pytest.mark.parametrize("device", ["cpu", "cpu:0", CPU, torch.device("cpu", 0)])
def test_names_and_devices_are_the_same(device: Any) -> None:
    assert best_device(device) == CPU


@pytest.mark.parametrize("device", [torch.device("meta"), "nowhere", 3])
def test_a_device_that_is_not_here_is_refused(device: Any) -> None:
    with pytest.raises(ConfigError, match="device=.* is not available here; pass one of cpu"):
        best_device(device)


WAYS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda paths: (path for path in paths),
    "map": lambda paths: map(str, paths),
    "keys": lambda paths: dict.fromkeys(paths).keys(),
    "array": lambda paths: np.array([str(path) for path in paths]),
    "objects": lambda paths: np.array(paths, dtype=object),
}


@pytest.mark.parametrize("way", WAYS)
def test_any_iterable_of_paths_is_a_batch(way: str, model: Path, clips: Path, tmp_path: Path) -> None:
    paths = sorted(clips.iterdir())[:3]
    loaded = VJEPA.from_pretrained(model, device="cpu")
    expected = loaded.encode(paths)
    assert expected.shape == (3, 24)
    np.testing.assert_array_equal(loaded.encode(WAYS[way](paths)), expected)
    assert embed_files(WAYS[way](paths), tmp_path / "feats.npy", model=model, num_workers=0).rows == 3
    assert len(check_files(WAYS[way](paths), num_workers=0)) == 3
    assert len(vjepa_sdk.find_clips(WAYS[way](paths)).named) == 3


def test_an_iterable_of_images_is_a_video_or_a_batch_as_a_list_is(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (0, 60, 120, 180)]
    models = [save_tiny(tmp_path / str(config.num_frames), config) for config in (VIDEO, IMAGE)]
    video, image = (VJEPA.from_pretrained(each, device="cpu") for each in models)
    assert video.encode(iter(frames)).shape == (24,)
    assert image.encode(iter(frames)).shape == (4, 24)


@pytest.mark.parametrize("thing", [{"a.mp4": 1}, 3, None])
def test_what_is_neither_a_video_nor_a_batch_is_refused(thing: object, model: Path) -> None:
    with pytest.raises(InputError, match="is not a video"):
        VJEPA.from_pretrained(model, device="cpu").encode(thing)
    with pytest.raises(InputError, match="empty list"):
        VJEPA.from_pretrained(model, device="cpu").encode(iter(()))


@pytest.mark.parametrize("state", ["enable", "disable"])
def test_the_garbage_collector_is_left_as_the_host_has_it(state: str, tmp_path: Path) -> None:
    program = f"import gc; gc.{state}(); from vjepa_sdk import VJEPA; print(gc.isenabled())"
    assert run_program(program, tmp_path) == f"{state == 'enable'}\n"


def test_the_command_line_ends_without_a_search_for_garbage(tmp_path: Path) -> None:
    program = """
    import atexit, gc
    atexit.register(lambda: print(gc.get_freeze_count() > 1000))
    from vjepa_sdk.cli.app import main
    main()
    """
    assert run_program(program, tmp_path, "models", "--cached").endswith("True\n")
