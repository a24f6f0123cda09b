"""The checks of a release find what they are for."""

from __future__ import annotations

import zipfile
from pathlib import Path

import distributions
import pytest

IN_GIT = ["README.md", "tests/test_a.py", "vjepa_sdk/__init__.py", "vjepa_sdk/viz/templates/page.css"]
BUILT = [*IN_GIT[2:], *(f"vjepa_sdk/{name}" for name in distributions.NEEDED), "vjepa_sdk-1.dist-info/METADATA"]


@pytest.fixture(autouse=True)
def _files_in_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "files_in_git", lambda: IN_GIT)  # the tests also run where git is not


def write_wheel(path: Path, *more: str, without: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name in (*BUILT, *more):
            if name != without:
                opened.writestr(name, name)
    return path


def test_a_wheel_of_the_package_alone_is_taken(tmp_path: Path) -> None:
    distributions.check_wheel(write_wheel(tmp_path / "a.whl"))


@pytest.mark.parametrize(
    "name",
    ["tests/test_a.py", "vjepa_sdk/notes.md", "vjepa_sdk/.env", "vjepa_sdk/samples/a.npy", "vjepa_sdk/cli/a.pyc"],
)
def test_a_wheel_with_a_foreign_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"holds what is not its own: \\['{name.removeprefix('vjepa_sdk/')}'"):
        distributions.check_wheel(write_wheel(tmp_path / "a.whl", name))


@pytest.mark.parametrize("name", ["pretrained/vjepa-tiny/model.safetensors", "py.typed", "viz/templates/page.css"])
def test_a_wheel_that_lacks_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"lacks \\['{name}'"):
        distributions.check_wheel(write_wheel(tmp_path / "a.whl", without=f"vjepa_sdk/{name}"))


def test_a_description_whose_links_lead_nowhere_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path / "a.whl", without="vjepa_sdk-1.dist-info/METADATA")
    with zipfile.ZipFile(tmp_path / "a.whl", "a") as opened:
        opened.writestr("vjepa_sdk-1.dist-info/METADATA", "[good](https://a.org) [here](#below) [bad](docs/a.md)")
    with pytest.raises(AssertionError, match=r"lead nowhere on PyPI: \['docs/a.md'\]"):
        distributions.check_wheel(tmp_path / "a.whl")


def test_a_wheel_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "MAX_WHEEL_BYTES", 100)
    with pytest.raises(AssertionError, match="bytes, 100 are allowed"):
        distributions.check_wheel(write_wheel(tmp_path / "a.whl"))


def test_builds_that_differ_in_a_byte_are_told(tmp_path: Path) -> None:
    builds = []
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "a.whl").write_bytes(b"same")
        (directory / "a.tar.gz").write_bytes(b"%d" % number)
        builds.append({path.name: path for path in directory.iterdir()})
    with pytest.raises(AssertionError, match="a.tar.gz: two builds differ"):
        distributions.check_same(*builds)
