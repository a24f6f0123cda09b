"""Read and write configurations as TOML and JSON, bounded and strict."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .schema import UNSET, to_dict

MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 32


def with_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `section.key=value` settings (values in TOML syntax, bare words as strings) to plain data."""
    result = copy.deepcopy(dict(data))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override!r} must be key=value; write for example optim.lr=3e-4")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, name = key.strip().split(".")
        table = result
        for section in sections:
            if table.get(section, UNSET) == UNSET:
                table[section] = {}
            table = table[section]
            if not isinstance(table, dict):
                raise ConfigError(f"--set {override!r}: {section!r} is not a section; set it in a --config file")
        table[name] = value
    return result


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of at most 1 MiB as plain data."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror}); check the path") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: a configuration has at most {MAX_CONFIG_BYTES} bytes; this is another kind of file")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def read_json(path: str | Path, *, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object: of at most 1 MiB, no key twice, nested at most 32 deep, no NaN."""
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(raw) > max_bytes:
        raise ConfigError(f"{path}: a configuration has at most {max_bytes} bytes; this is another kind of file")
    try:
        data = json.loads(raw, object_pairs_hook=without_duplicates, parse_constant=_refuse_constant)
        _check_depth(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold an object, got {type(data).__name__}")
    return data


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build the object of a JSON parser; raise ValueError if a key appears twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        # parsers differ in which of the two they take
        raise ValueError("a key appears twice")
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check_depth(data: object) -> None:
    level, depth = [data], 0
    while level := [item for value in level for item in _items(value)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _items(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def to_toml(config: object) -> str:
    """Return a configuration as TOML text; it says the same over any recipe."""
    import tomli_w

    return tomli_w.dumps(to_dict(config, spell_unset=True))
