"""Check frozen dataclasses against plain data: types, ranges, unknown keys."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from ..errors import ConfigError

UNSET = "none"
"""How a TOML file or `--set` unsets what a recipe sets, since TOML has no null; texts cannot be unset."""

_CALLED_ELSEWHERE = {
    "learning_rate": ("lr",),
    "max_lr": ("lr",),
    "min_lr": ("final_lr",),
    "wd": ("weight_decay",),
    "warmup": ("warmup_steps",),
    "grad_clip": ("max_grad_norm",),
    "clip_grad": ("max_grad_norm",),
    "num_steps": ("steps",),
    "max_steps": ("steps",),
    "total_steps": ("steps",),
    "iterations": ("steps",),
    "bs": ("batch_size",),
    "workers": ("num_workers",),
    "image_size": ("img_size",),
    "resolution": ("img_size",),
    "crop_size": ("img_size",),
    "frames": ("num_frames",),
    "heads": ("num_heads",),
    "stride": ("frame_stride",),
    "ema": ("ema_start",),
    "momentum": ("ema_start",),
    "dtype": ("precision",),
    "amp": ("precision",),
    "gradient_checkpointing": ("activation_checkpointing",),
}
"""What other programs call keys of ours."""

_Config = TypeVar("_Config")


def from_dict(cls: type[_Config], data: Mapping[str, Any], *, where: str = "") -> _Config:
    """Build a configuration from plain data, refusing unknown keys and wrong types.

    Args:
        cls: one of the configuration classes.
        data: what a TOML or JSON file holds.
        where: prefix of keys in messages, such as `optim.`.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a wrong type or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in hints:
            if meant := find_key(cls, key):
                raise ConfigError(f"unknown key '{where}{key}'; did you mean '{where}{meant}'?")
            raise ConfigError(unknown(f"key '{where}{key}'", key, hints, prefix=where))
    values = {key: _coerce(hints[key], value, f"{where}{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") if where else error from None
    except TypeError:
        missing = [
            f.name
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        raise ConfigError(f"{where or cls.__name__ + ' '}lacks {', '.join(missing)}; add it") from None


def to_dict(config: object, *, spell_unset: bool = False) -> dict[str, Any]:
    """Return a configuration as plain data for JSON or TOML.

    Args:
        spell_unset: write `UNSET` for values that are None, where it can be read back; else all of them are left out.
    """
    out: dict[str, Any] = {}
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if value is not None:
            out[item.name] = _plain(value, spell_unset=spell_unset)
        elif spell_unset and str not in typing.get_args(hints[item.name]):
            out[item.name] = UNSET
    return out


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Compare plain data: `old -> new` by key, nested ones spelt out as `optim.lr` and `masks[0].num_blocks`."""
    before, after = _flat(old), _flat(new)
    return {
        key: f"{before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(data, Mapping):
        items = [(f"{prefix}.{key}".lstrip("."), value) for key, value in data.items()]
    elif isinstance(data, list) and any(isinstance(item, Mapping) for item in data):
        items = [(f"{prefix}[{number}]", value) for number, value in enumerate(data)]
    else:
        return {prefix: data}
    return {name: value for key, item in items for name, value in _flat(item, key).items()}


def _plain(value: Any, *, spell_unset: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value, spell_unset=spell_unset)
    if isinstance(value, tuple):
        return [_plain(item, spell_unset=spell_unset) for item in value]
    return value


def _coerce(hint: Any, value: Any, name: str) -> Any:
    """Turn nested tables into configurations and lists into tuples; leave the rest to `_check_types`."""
    if type(None) in typing.get_args(hint) and value is not None:
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
        if value == UNSET and hint is not str:
            return None
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value!r} must be a table; write [{name}]")
        return from_dict(hint, value, where=f"{name}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_coerce(inner, item, f"{name}[{i}]") for i, item in enumerate(value))
    # an integer beyond every float stays one and fails the type check
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    return value


def check_types(config: object) -> None:
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _matches(hint, value):
            raise ConfigError(f"{name}={value!r} must be {_describe(hint)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} must be a finite number")


def _matches(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_matches(argument, value) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_matches(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_matches, arguments, value))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is hint


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list of {_describe(arguments[0])}" + (
            "" if arguments[-1] is Ellipsis else f" with {len(arguments)} items"
        )
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ConfigError unless a value is one of a `Literal`."""
    if not _matches(choices, value):
        raise ConfigError(f"{name}={value!r} must be {_describe(choices)}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}={value} must lie between {low} and {high}; pass {low if value < low else high}")


def check_interval(name: str, value: tuple[float, float], low: float, high: float) -> None:
    if not low < value[0] <= value[1] <= high:
        raise ConfigError(f"{name}={value} must be (low, high) with {low} < low <= high <= {high}")


def check_multiple(name: str, value: int, unit_name: str, unit: int) -> None:
    if value % unit:
        below = value // unit * unit
        remedy = f"pass {below} or {below + unit}" if below else f"pass {unit}"
        raise ConfigError(f"{name}={value} must be a multiple of {unit_name}={unit}; {remedy}")


def find_key(cls: type[Any], name: str) -> str | None:
    """Return the key of a configuration that someone means by a name, such as `optim.lr` by `learning_rate`."""
    hints = typing.get_type_hints(cls)
    each: str
    for each in (name, *_CALLED_ELSEWHERE.get(name, ())):
        if each in hints:
            return each
        for section, hint in hints.items():
            if each in getattr(hint, "__dataclass_fields__", ()):
                return f"{section}.{each}"
    return None


def unknown(what: str, name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Say that a name is unknown, with the nearest known one or the list of all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{prefix}{near[0]}'?" if near else f"available: {', '.join(known)}"
    return f"unknown {what}; {hint}"
