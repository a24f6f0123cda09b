"""What is generated of the documentation is what the code says now."""

from __future__ import annotations

import difflib
import re

import generate
import pytest


@pytest.mark.parametrize("name", generate.WRITTEN)
def test_generated_files_are_those_of_the_code(name: str) -> None:
    path = generate.DOCS / name
    there, made = path.read_text(encoding="utf-8").splitlines(), generate.WRITTEN[name]().splitlines()
    changes = "\n".join(difflib.unified_diff(there, made, "is there", "should be", lineterm="", n=0))
    assert not changes, f"docs/{name}: run `python docs/sitegen/generate.py`, and tell users in CHANGELOG.md\n{changes}"


def test_commands_of_the_gallery_are_run_on_the_page_that_is_named() -> None:
    gallery = (generate.DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- not run: run on (\S+) -->\n```console\n(\$ .*)\n```", gallery)
    assert len(shown) >= 6
    for page, command in shown:
        text = (generate.DOCS / page).read_text(encoding="utf-8")
        assert re.search(rf"(?<!-->\n)```console\n(?:.*\n)*?{re.escape(command)}\n", text), (
            f"{page} does not run {command}"
        )
