"""Build sdist and wheel twice, and check what a release must hold: `python tests/release/distributions.py OUT`.

What must hold: both times the same bytes, from two copies of the files in git that differ in place, modes and times; in
the wheel the package, its model, its sample clips and nothing else; metadata that an index takes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 20_000_000
MAX_SDIST_BYTES = 60_000_000
SUFFIXES = {"": {".css", ".jinja", ".js", ".py", ".typed"}, "pretrained": {".json", ".md", ".safetensors"}}
SUFFIXES |= {"samples": {".csv", ".mp4"}}
"""What may lie in a wheel, by the directory of the package; all others count as the package itself."""
NEEDED = (
    "py.typed",
    "pretrained/vjepa-tiny/model.safetensors",
    "pretrained/vjepa-tiny/config.json",
    "samples/labels.csv",
)


def files_in_git() -> list[str]:
    """Return the files that a clone has, with changes that are not committed yet."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def build(copy: Path, out: Path, *, umask: int) -> dict[str, Path]:
    """Build both files from a new copy of the checkout; return them by name."""
    when = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files_in_git():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", out, "."],
        cwd=copy,
        env={**os.environ, "SOURCE_DATE_EPOCH": when.stdout.strip()},
        umask=umask,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return {path.name: path for path in sorted(out.iterdir())}


def check_same(first: dict[str, Path], second: dict[str, Path]) -> None:
    """Compare two builds byte by byte."""
    assert first.keys() == second.keys() and len(first) == 2, (sorted(first), sorted(second))
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), f"{name}: two builds differ"


def check_wheel(wheel: Path) -> None:
    """Check size and content of a wheel."""
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES, (
        f"{wheel.name}: {wheel.stat().st_size:,} bytes, {MAX_WHEEL_BYTES:,} are allowed"
    )
    with zipfile.ZipFile(wheel) as opened:
        names = [PurePosixPath(name) for name in opened.namelist()]
        metadata = next(opened.read(str(name)).decode() for name in names if name.name == "METADATA")
    lost = re.findall(r"\]\(((?!https?:|#)[^)]+)\)", metadata)
    assert not lost, f"{wheel.name}: links of its description lead nowhere on PyPI: {lost}"
    inside = [name.relative_to("vjepa_sdk") for name in names if name.parts[0] == "vjepa_sdk"]
    outside = [name for name in names if name.parts[0] != "vjepa_sdk" and not name.parts[0].endswith(".dist-info")]
    foreign = [name for name in inside if name.suffix not in SUFFIXES.get(name.parts[0], SUFFIXES[""])]
    assert not outside + foreign, f"{wheel.name} holds what is not its own: {[str(name) for name in outside + foreign]}"
    missing = [name for name in NEEDED if PurePosixPath(name) not in inside]
    assert not missing, f"{wheel.name} lacks {missing}"
    own = {PurePosixPath(name).relative_to("vjepa_sdk") for name in files_in_git() if name.startswith("vjepa_sdk/")}
    assert own <= set(inside), f"{wheel.name} lacks {sorted(map(str, own - set(inside)))}"


def check_sdist(sdist: Path) -> None:
    """Check size and content of an sdist: files of the checkout, what the builder adds, and no link."""
    assert sdist.stat().st_size <= MAX_SDIST_BYTES, f"{sdist.name}: {sdist.stat().st_size:,} bytes"
    with tarfile.open(sdist) as opened:
        members = opened.getmembers()
    assert all(member.isfile() for member in members), f"{sdist.name} holds more than files"
    names = {member.name.partition("/")[2] for member in members}
    foreign = names - set(files_in_git()) - {"PKG-INFO"}
    assert not foreign, f"{sdist.name} holds what is not in git: {sorted(foreign)}"


def main(out: Path) -> None:
    """Build, compare, check, and print a digest of each file."""
    assert not out.exists() or not any(out.iterdir()), f"{out} must be empty or absent"
    with tempfile.TemporaryDirectory() as name:
        first = build(Path(name, "one"), out.resolve(), umask=0o022)
        second = build(Path(name, "elsewhere", "two"), Path(name, "dist"), umask=0o077)
        check_same(first, second)
    for path in first.values():
        (check_wheel if path.suffix == ".whl" else check_sdist)(path)
        print(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes", flush=True
        )
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *first.values()], check=True)
    wheels = [path for path in first.values() if path.suffix == ".whl"]
    subprocess.run([sys.executable, "-m", "check_wheel_contents", *wheels], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
