"""What the reference says of a public name: something, about every argument, under names that exist, and it runs."""

from __future__ import annotations

import builtins
import doctest
import inspect
import re
from collections.abc import Iterator

import pytest

import vjepa_sdk
from vjepa_sdk import errors

_SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Example|Source):\n((?:    .*\n|\n)*)", re.M)
_ELSEWHERE = re.compile(r"(?:as for|those of|as in|see|and) `([\w.]+)`")
_ENTRY = re.compile(r"^    (\w[\w.*, ]*): ", re.M)


def _callables() -> Iterator[tuple[str, object]]:
    """Yield public functions, and public methods of public classes, as they are defined."""
    for name in sorted(set(vjepa_sdk.__all__) - {"__version__"}):
        found = getattr(vjepa_sdk, name)
        if not inspect.isclass(found):
            yield name, found
            continue
        for base in found.__mro__:
            if base.__module__.startswith("vjepa_sdk."):
                for member, value in vars(base).items():
                    inner = getattr(value, "__func__", value)
                    if not member.startswith("_") and (inspect.isfunction(inner) or isinstance(value, property)):
                        yield f"{name}.{member}", inner


CALLABLES = dict(_callables())


def _section(text: str, title: str) -> str:
    return next((match[2] for match in _SECTION.finditer(f"{text}\n") if match[1] == title), "")


def _parameters(name: str) -> set[str]:
    return set(inspect.signature(CALLABLES[name]).parameters) - {"self", "cls"}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted({*CALLABLES, *vjepa_sdk.__all__} - {"__version__"}))
def test_every_public_name_says_what_it_is(name: str) -> None:
    found = CALLABLES[name] if name in CALLABLES else getattr(vjepa_sdk, name)
    text = inspect.getdoc(found) or ""
    assert text.strip(), f"{name} has no docstring"
    assert not text.startswith(f"{name}("), f"{name} has the docstring that dataclasses make"


@pytest.mark.parametrize("name", sorted(name for name, found in CALLABLES.items() if inspect.isfunction(found)))
def test_arguments_that_are_described_exist_and_all_are(name: str) -> None:
    parameters, text = _parameters(name), inspect.getdoc(CALLABLES[name]) or ""
    entries = _ENTRY.findall(_section(text, "Args"))
    described = {word.strip().lstrip("*") for entry in entries for word in entry.split(",")}
    assert described <= parameters, f"{name} describes {sorted(described - parameters)}, which it does not take"
    elsewhere = {word for other in _ELSEWHERE.findall(text) if other in CALLABLES for word in _parameters(other)}
    missing = {word for word in parameters - described - elsewhere if not re.search(rf"\b{word}\b", text)}
    # of one or two the name, the type and the sentence are enough
    assert len(parameters) <= 2 or not missing, f"{name} does not describe {sorted(missing)}"


def test_errors_that_are_described_exist() -> None:
    for name, found in CALLABLES.items():
        for kinds in _ENTRY.findall(_section(inspect.getdoc(found) or "", "Raises")):
            for kind in kinds.split(", "):
                assert hasattr(errors, kind) or hasattr(builtins, kind), f"{name} raises {kind}, which is no error"


@pytest.mark.parametrize(
    "name", sorted(name for name, found in CALLABLES.items() if ">>>" in (inspect.getdoc(found) or ""))
)
def test_examples_of_docstrings_run(name: str) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(CALLABLES[name], name, globs={"vjepa_sdk": vjepa_sdk})
    assert doctest.DocTestRunner().run(test).failed == 0
