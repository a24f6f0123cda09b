"""What is generated of the documentation is what the code says now."""

from __future__ import annotations

import difflib

import generate
import pytest


@pytest.mark.parametrize("name", generate.WRITTEN)
def test_generated_files_are_those_of_the_code(name: str) -> None:
    path = generate.REFERENCE / name
    there, made = path.read_text(encoding="utf-8").splitlines(), generate.WRITTEN[name]().splitlines()
    changes = "\n".join(difflib.unified_diff(there, made, "is there", "should be", lineterm="", n=0))
    assert not changes, (
        f"docs/reference/{name}: run `python docs/sitegen/generate.py`, and tell users in CHANGELOG.md\n{changes}"
    )
