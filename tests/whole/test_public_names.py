"""What `vjepa_sdk` offers by name: each is there, is listed for type checkers too, and what it returns is offered."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import vjepa_sdk

NAMES = [name for name in vjepa_sdk.__all__ if name != "__version__"]


def test_every_name_is_defined_where_it_is_looked_up() -> None:
    places = {name: getattr(vjepa_sdk, name).__module__ for name in NAMES}
    assert places == {name: f"vjepa_sdk.{home}" for name, home in vjepa_sdk._HOMES.items()}


def test_type_checkers_are_told_the_same_names_from_the_same_homes() -> None:
    (block,) = [
        node
        for node in ast.parse(Path(vjepa_sdk.__file__).read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = [(node.module, alias) for node in block.body for alias in node.names]  # type: ignore[attr-defined]
    assert all(alias.asname == alias.name for _, alias in imports)  # else it is private to them
    assert {alias.name: module for module, alias in imports} == vjepa_sdk._HOMES


def test_no_name_is_that_of_a_wing() -> None:
    # importing anything from the wing would put the module in the place of the name
    assert not set(vjepa_sdk.__all__) & {module.name for module in pkgutil.iter_modules(vjepa_sdk.__path__)}


def test_a_star_import_brings_every_name() -> None:
    namespace: dict[str, object] = {}
    exec("from vjepa_sdk import *", namespace)
    assert set(NAMES) < namespace.keys()


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'VJEPPA'"):
        _ = vjepa_sdk.VJEPPA


def _classes(hint: object) -> Iterator[type]:
    """Yield the classes that a type is made of: those of `list[A] | None` are list, A and NoneType."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(vjepa_sdk, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_returns_is_offered_too(name: str) -> None:
    returned = typing.get_type_hints(getattr(vjepa_sdk, name))["return"]
    ours = {kind for kind in _classes(returned) if kind.__module__.startswith("vjepa_sdk.")}
    assert {kind.__name__ for kind in ours} <= set(NAMES)
