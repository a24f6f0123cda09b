"""What the documentation says is so: its code runs, its output is the output, its links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image
from tiny_models import save_tiny

import vjepa_sdk
from vjepa_sdk import train_config
from vjepa_sdk.cli import app, exit_codes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
LINKED = [
    *PAGES,
    *REFERENCE,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")),
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n\Z")
_WITHIN = re.compile(r"<!-- numbers within (0\.\d+): [^>]+ -->\n\Z")
_NUMBER = re.compile(r"\d+\.\d+")
_NEEDS = re.compile(r"<!-- needs: (\w+) -->\n\Z")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    is_run: bool
    needs: str
    """A package that is no dependency, without which the block is not run; empty for none."""
    output: str
    """Of a python block: the `text` block right after it, empty if there is none."""
    tolerance: float = 0.0
    """How far numbers with decimals may be off: the last digits of a fit are those of a machine."""


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences):
        output = ""
        for after in fences[number + 1 : number + 2]:
            if after[1] == "text" and not text[fence.end() : after.start()].strip():
                output = after[2]
        line = text.count("\n", 0, fence.start()) + 1
        needs = _NEEDS.search(text[: fence.start()])
        within = _WITHIN.search(text[: fence.start()])
        is_run = _NOT_RUN.search(text[: fence.start()]) is None
        tolerance = float(within[1]) if within else 0.0
        yield Block(fence[1], fence[2], line, is_run, needs[1] if needs else "", output, tolerance)


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, each with the output shown under it."""
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command.removeprefix("pip install . && "), output  # it is installed


def check_output(given: str, shown: str, where: str, *, tolerance: float = 0.0) -> None:
    """Compare what is printed with what is shown, if anything is; a line `...` stands for any lines."""
    if not shown.strip():
        return
    lines = [r"(?:.*\n)*" if line == "..." else re.escape(line) + r"\n" for line in shown.rstrip("\n").split("\n")]
    numbers = [float(number) for number in _NUMBER.findall(shown)] if tolerance else []
    if numbers:
        lines = [re.sub(r"\d+\\\.\d+", r"(\\d+\\.\\d+)", re.sub(r"(\\ )+", r"\\s+", line)) for line in lines]
    found = re.fullmatch("".join(lines), given)
    assert found, f"{where} prints\n{given}\nand not\n{shown}"
    for number, expected in zip(found.groups(), numbers, strict=bool(numbers)):
        assert abs(float(number) - expected) <= tolerance, f"{where} prints {number} instead of {expected}:\n{given}"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the repository, in which `vjepa` is this package."""
    shutil.copytree(ROOT / "examples", tmp_path / "root" / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    scripts = [Path(sys.executable).parent]
    if not (scripts[0] / "vjepa").exists():
        (script := tmp_path / "bin" / "vjepa").parent.mkdir()
        package = Path(vjepa_sdk.__file__).parent.parent
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{package}" exec "{sys.executable}" -m vjepa_sdk "$@"\n')
        script.chmod(0o755)
        scripts.insert(0, script.parent)
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, scripts), os.environ["PATH"]]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside; threads that wait would take the processor
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_runs_and_prints_what_is_shown(page: Path, copy: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page):
        where = f"{name_of(page)}:{block.line}"
        if not block.is_run or (block.needs and not importlib.util.find_spec(block.needs)):
            continue
        if block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, where, "exec"), namespace)
            check_output(printed.getvalue(), block.output, where, tolerance=block.tolerance)
        elif block.language in ("console", "bash"):
            for command, shown in commands_of(block):
                done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{where}: $ {command}\n{done.stderr}"
                check_output(done.stdout, shown, where, tolerance=block.tolerance)
        elif block.language == "toml":
            (copy / "example.toml").write_text(block.text)
            assert train_config(path=copy / "example.toml")
        else:
            assert block.language == "text", f"{where}: a block in {block.language!r} is not checked"


@pytest.mark.parametrize("package", ["faiss", "lancedb", "pyarrow"])
def test_recipes_for_other_packages_are_run_where_these_are(package: str) -> None:
    assert any(block.needs == package for page in PAGES for block in blocks_of(page))
    pytest.importorskip(package, reason=f"{package} is not installed, its recipe was not run")


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for text, target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{name_of(page)}: [{text}]({target})"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings}, target


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_linked_classes_and_functions_exist(page: Path) -> None:
    for text, target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.endswith(".py") and "vjepa_sdk" in Path(target).parts and text.startswith("`"):
            parts = Path(target).with_suffix("").parts
            expected = ".".join(parts[parts.index("vjepa_sdk") :])
            home = importlib.import_module(expected)
            for name in text.strip("`()").split("."):
                assert hasattr(home, name), f"{name_of(page)}: {text} is not in {target}"
                home = getattr(home, name)
            module = getattr(home, "__module__", None)
            assert module == expected, f"{name_of(page)}: {text} is defined in {module}"


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_commands_and_options_exist_even_in_blocks_that_are_not_run(page: Path) -> None:
    known = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    calls = re.findall(r"^\$ (vjepa .*)$", text, re.M) + re.findall(r"`(vjepa [^`\n]+)`", text)
    for call in calls:
        _, name, *arguments = call.split()
        assert name in known, f"{name_of(page)}: there is no `vjepa {name}`"
        command = known[name]
        if hasattr(command, "commands") and arguments:
            assert arguments[0] in command.commands, f"{name_of(page)}: there is no `vjepa {name} {arguments[0]}`"
            command = command.commands[arguments[0]]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {argument for argument in arguments if argument.startswith("--")} <= options, call


def test_exit_codes_are_those_of_the_command_line() -> None:
    listed = re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    codes = (
        exit_codes.COMPLETE,
        exit_codes.FAILED,
        exit_codes.USAGE,
        exit_codes.SOME_SKIPPED,
        exit_codes.IN_USE,
        exit_codes.RESUME_REFUSED,
        exit_codes.GUARDED,
    )
    assert [int(code) for code in listed] == [*codes, exit_codes.STOPPED, 130]


def test_the_picture_of_masks_is_what_the_example_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_masks.py", str(tmp_path / "masks.png")])
    runpy.run_path(str(ROOT / "examples" / "draw_masks.py"), run_name="__main__")
    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
        for path in (tmp_path / "masks.png", ROOT / "docs" / "masks.png")
    )
    assert drawn.shape == shown.shape
    # fonts and palettes may differ a little between versions of Pillow, masks may not
    assert np.abs(drawn - shown).mean() < 2


@pytest.mark.parametrize("among", ["clips", "feats.npy"])
def test_search_finds_the_query_itself_first(
    among: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "model")
    clips = copy / "examples" / "clips"
    if among == "feats.npy":
        vjepa_sdk.embed_files(clips, copy / among, model=str(model), num_workers=0)
        capsys.readouterr()
    place = clips if among == "clips" else copy / among
    query = str(clips / "03_down-left.mp4")
    monkeypatch.setattr(sys, "argv", ["search_videos.py", query, str(place), "--model", str(model)])
    runpy.run_path(str(ROOT / "examples" / "search_videos.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["1", "+1.000", query]


def test_decord_returns_other_frames_of_open_groups_and_cannot_read_gif(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    from media import read_numbers, write_video

    from vjepa_sdk.errors import VideoDecodeError
    from vjepa_sdk.video.reader import read_video

    options = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0"}
    path = write_video(tmp_path / "open.mp4", num_b_frames=3, num_frames=40, options=options)
    wanted = list(range(40))
    assert read_numbers(np.concatenate([read_video(path, [i]) for i in wanted])) == wanted
    assert read_numbers(np.concatenate([read_video(path, [i], decoder="decord") for i in wanted])) != wanted
    with pytest.raises(VideoDecodeError, match="cannot be read by decord"):
        read_video(write_video(tmp_path / "a.gif", codec="gif", pixel_format="rgb8"), decoder="decord")
