"""On Windows and macOS the package encodes, embeds, checks, trains and converts; what only Linux can is skipped.

The systems are pretended: see `support/other_systems`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from media import write_video
from tiny_models import save_tiny

SUPPORT = Path(__file__).parents[1] / "support"
SYSTEMS = ("win32", "darwin")

_LIBRARY = """
import dataclasses, logging, sys
from pathlib import Path
import numpy as np, torch

clips, out = Path(sys.argv[1]), Path(sys.argv[2])
paths = sorted(map(str, clips.iterdir()))

import vjepa_sdk
from tiny_models import save_tiny
from vjepa_sdk import VJEPA, check_files, embed_files, pretrain

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
model = VJEPA.from_pretrained(save_tiny(out / "model"), device="cpu")
expected = model.encode(paths)
VJEPA.from_pretrained("vjepa-tiny", device="cpu").encode(paths[0])

for workers in (0, 2):
    place = out / f"{workers}.npy"
    assert embed_files(paths[:2], place, model=str(out / "model"), num_workers=workers, device="cpu").rows == 2
    assert embed_files(paths[:2], place, model=str(out / "model"), num_workers=workers, device="cpu").already_complete
    np.testing.assert_allclose(np.load(place), expected[:2], atol=1e-5)
    embed_files(paths, place, model=str(out / "model"), num_workers=workers, device="cpu", overwrite=True)
    np.testing.assert_allclose(np.load(place), expected, atol=1e-5)
    assert not list(out.glob("*.work")) and not list(out.glob(".*")), list(out.iterdir())

found = check_files([clips], full=True)
assert [each.reason for each in found] == [None] * len(paths), found

from tiny_runs import run_config, metrics
config = run_config(clips, out / "run", steps=4)
config = dataclasses.replace(config, data=dataclasses.replace(config.data, num_workers=2))
assert pretrain(dataclasses.replace(config, steps=4)).finished
trained = VJEPA.from_pretrained(out / "run" / "model", device="cpu")
trained.save_pretrained(out / "again")
trained.save_pretrained(out / "again")
assert [line["step"] for line in metrics(out / "run")] == [1, 2, 3, 4]
print("all is well")
"""


_WRITERS = """
import shutil, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, torch

clips, out = Path(sys.argv[1]), Path(sys.argv[2])
paths = sorted(map(str, clips.iterdir()))

from goldens import DIRECTORY, model_config
from tiny_models import save_tiny
from tiny_runs import newest, run_config, run_in_two
from vjepa_sdk import SearchIndex, VJEPA, embed_files, predict_files, pretrain, train_probe
from vjepa_sdk.weights.convert import convert

model = str(save_tiny(out / "model"))
for name in ("rows.npy", "table.parquet"):
    embed_files(paths[:2], out / name, model=model, num_workers=0, device="cpu")
    assert embed_files(paths, out / name, model=model, num_workers=0, device="cpu", extend=True).rows == 3
assert len(SearchIndex.open(out / "rows.npy").search(np.load(out / "rows.npy")[0], k=2)) == 2

for number in range(12):
    place = out / "videos" / "ab"[number % 2] / f"{number}.mp4"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(paths[number % 3], place)
train_probe(out / "videos", out=out / "probe", model=model, device="cpu", num_workers=0, baseline=False)
assert len(predict_files(out / "probe", paths, num_workers=0, device="cpu").predictions) == 3

assert run_in_two(run_config(clips, out / "run", steps=6, save_every=1), step=4).finished
assert newest(out / "run").name == "step-00000006"

name = "vjepa2_tiny"
report = convert(DIRECTORY / f"{name}.pth.tar", out / "converted", arch=model_config(name))
file = str(DIRECTORY / f"{name}.pth.tar")
assert pretrain(run_config(clips, out / "started", model=model_config(name), steps=1, init_from=file)).finished
again = run_config(clips, out / "cached", model=model_config(name), steps=1, init_from=str(out / "started"))
assert pretrain(replace(again, data=replace(again.data, cache=str(out / "cache")))).finished
VJEPA.from_pretrained(out / "converted", device="cpu").save_pretrained(out / "saved", max_shard_size="20KB")
convert(out / "converted", out / "theirs", layout="transformers")
print("all is well")
"""


def _run(system: str, code: str, *arguments: Path, **variables: str) -> str:
    """Run code in a process that finds itself on another system; return what it prints."""
    places = (SUPPORT / "other_systems", SUPPORT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    environment = os.environ | {"PYTHON_OTHER_SYSTEM": system, "PYTHONPATH": os.pathsep.join(map(str, places))}
    environment |= variables
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(directory / f"{number}.mp4", num_frames=10 + number)
    return directory


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_library_works(system: str, clips: Path, tmp_path: Path) -> None:
    printed = _run(system, _LIBRARY, clips, tmp_path)
    assert printed.endswith("all is well\n")
    said = "worker processes need Linux or macOS: videos are decoded in this process"
    assert printed.count(said) == (system == "win32"), printed


def test_windows_never_deletes_or_replaces_what_is_open(clips: Path, tmp_path: Path) -> None:
    assert _run("win32", _WRITERS, clips, tmp_path).endswith("all is well\n")


_COMMANDS = """
import json, sys
from pathlib import Path

import vjepa_sdk.cli.app as app


def vjepa(*arguments):
    sys.argv = ["vjepa", *map(str, arguments)]
    try:
        app.main()
    except SystemExit as end:
        return end.code or 0


clips, out = Path(sys.argv[1]), Path(sys.argv[2])
print([vjepa("embed", clips, "--out", out / "rows.npy"), vjepa("check", clips), vjepa("models"), vjepa("doctor")])
"""


@pytest.mark.parametrize(
    ("system", "notes"),
    [
        (
            "win32",
            ("one at a time and without a deadline, whatever num_workers says", "without limits of memory and time"),
        ),
        ("darwin", ("decoding processes have no limit of memory, reach the network",)),
    ],
)
def test_commands_work_and_doctor_says_what_is_skipped(
    system: str, notes: tuple[str, ...], clips: Path, tmp_path: Path
) -> None:
    printed = _run(system, _COMMANDS, clips, tmp_path)
    assert printed.endswith("[0, 0, 0, 0]\n"), printed
    layers = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in printed.splitlines()}
    assert layers["decoding in processes with a deadline, without your tokens"] == (
        "no" if system == "win32" else "yes"
    )
    assert layers["their memory is limited"] == layers["they have no network"] == "no"
    assert "vjepa-sdk is tested on Linux, and built for this system without tests on it" in printed
    assert all(note in printed for note in notes), printed


_HUB = """
import sys
from pathlib import Path
from vjepa_sdk import VJEPA

out = Path(sys.argv[1])
for _ in range(2):
    assert VJEPA.from_pretrained("me/tiny", device="cpu").provenance["repository"] == "me/tiny"
weights, = (out / "home").glob("hub/models--me--tiny/snapshots/*/model.safetensors")
print("linked" if weights.is_symlink() else "copied")
weights.unlink()
weights.write_bytes(b"damaged")
VJEPA.from_pretrained("me/tiny", device="cpu")
assert VJEPA.from_pretrained("me/tiny", device="cpu", local_files_only=True).config.embed_dim == 24
"""


@pytest.mark.parametrize(("system", "kept"), [("win32", "copied\n"), ("darwin", "linked\n")])
def test_models_come_from_the_hub_and_damage_is_fetched_again(system: str, kept: str, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "cas") as hub:
        hub.add_directory("me/tiny", save_tiny(tmp_path / "model"))
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        assert _run(system, _HUB, tmp_path, **variables) == kept
