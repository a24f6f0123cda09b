"""The public surface as text, one fact a line: names, signatures, fields, commands, options, exit codes, file formats.

A test compares it with docs/reference/public-surface.txt, so that a change of it is a decision.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import command_tree

import vjepa_sdk
from vjepa_sdk import errors
from vjepa_sdk.cli import exit_codes
from vjepa_sdk.config.model import MODEL_FORMAT
from vjepa_sdk.config.schema import to_dict
from vjepa_sdk.features.video_features import FEATURES_FORMAT
from vjepa_sdk.inference.embed.plan import OUTPUT_FORMAT
from vjepa_sdk.weights.evaluation import EVALUATION_FORMAT


def surface() -> str:
    """Return all of it."""
    parts = {"python": _python(), "errors": _errors(), "command line": _command_line(), "exit codes": _exit_codes()}
    parts["files"] = _files()
    return "\n".join(f"[{title}]\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts.items())


def _signature(what: object) -> str:
    """Return a signature with annotations as they are written, whatever version of Python writes it."""
    signature = inspect.signature(what)  # type: ignore[arg-type]
    words, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words, starred = [*words, "*"], True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        word = f"{mark}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            word += f": {_written(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            word += f" = {_default(parameter.default)}"
        words.append(word)
    returned = signature.return_annotation
    return f"({', '.join(words)})" + ("" if returned is signature.empty else f" -> {_written(returned)}")


def _written(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: object) -> str:
    is_plain = value is None or isinstance(value, str | int | float | bool | tuple | frozenset)
    return repr(value) if is_plain else "..."


def _python() -> Iterator[str]:
    for name in sorted(set(vjepa_sdk.__all__) - {"__version__"}):
        found = getattr(vjepa_sdk, name)
        if inspect.isclass(found):
            yield from _class(name, found)
        else:
            yield f"def {name}{_signature(found)}"


def _class(name: str, found: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in found.__bases__ if base is not object)
    if dataclasses.is_dataclass(found):
        yield f"dataclass {name}({bases})"
        yield from (f"  {name}.{field.name}{_field(field)}" for field in dataclasses.fields(found) if field.repr)
    else:
        own = vars(found).get("__init__") if "Protocol" not in bases else None
        yield f"class {name}({bases})" + (f": __init__{_signature(own)}" if own else "")
    for base in reversed(found.__mro__):
        if base.__module__.startswith("vjepa_sdk."):
            yield from sorted(_members(name, base))


def _field(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f": {_written(field.type)} = {_default(field.default)}"
    return f": {_written(field.type)}" + (" = ..." if field.default_factory is not dataclasses.MISSING else "")


def _members(name: str, found: type) -> Iterator[str]:
    for member, value in vars(found).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"  {name}.{member} -> {_written(inspect.signature(value.fget).return_annotation)}"  # type: ignore[arg-type]
        elif isinstance(value, classmethod | staticmethod):
            kind = type(value).__name__
            yield f"  {kind} {name}.{member}{_signature(value.__func__)}"
        elif inspect.isfunction(value):
            yield f"  {name}.{member}{_signature(value)}"


def _errors() -> Iterator[str]:
    for name, found in sorted(vars(errors).items()):
        if inspect.isclass(found) and issubclass(found, errors.VJEPAError):
            yield f"{name}({', '.join(base.__name__ for base in found.__bases__)})"


def _command_line() -> Iterator[str]:
    for command in command_tree.commands():
        yield command.name
        for parameter in command.parameters:
            kind = f" {parameter.kind}" if parameter.kind else ""
            default = "" if parameter.default is None else f" = {parameter.default}"
            needed = " (required)" if parameter.is_required else ""
            yield f"  {', '.join(parameter.names)}{kind}{default}{needed}"


def _exit_codes() -> Iterator[str]:
    for name in ("COMPLETE", "FAILED", "USAGE", "SOME_SKIPPED", "IN_USE", "RESUME_REFUSED", "GUARDED", "STOPPED"):
        yield f"{getattr(exit_codes, name)} {name}"
    for kind, code in exit_codes.EXIT_CODES:
        yield f"{code} for {kind.__name__}"


def _files() -> Iterator[str]:
    yield f"model directory, probe directory: format_version {MODEL_FORMAT}"
    yield f"output of `vjepa embed`: format_version {OUTPUT_FORMAT}"
    yield f"`VideoFeatures.save`: format_version {FEATURES_FORMAT}"
    yield f"evaluation.json: format_version {EVALUATION_FORMAT}"
    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "feats.npy")
        vjepa_sdk.embed_files(vjepa_sdk.sample_videos()[0], out, num_workers=0, device="cpu")
        for path in sorted(out.parent.iterdir()):
            if path.suffix == ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                yield from (f"{path.name} {key}" for key in (json.loads(lines[0]) if lines else {}))
            elif path.suffix == ".json":
                yield from _keys(path.name, json.loads(path.read_text(encoding="utf-8")))
        config = json.loads((vjepa_sdk.list_models()[0].directory / "config.json").read_text(encoding="utf-8"))
        yield from _keys("config.json", config)
    yield from _keys("config.toml", to_dict(vjepa_sdk.train_config(preset="vjepa2.1-vitl16")))


def _keys(prefix: str, found: Mapping[str, object]) -> Iterator[str]:
    for key, value in sorted(found.items()):
        yield f"{prefix} {key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from _keys(f"{prefix} {key}[]", value[0])
        # what the machine was, and how this one model was made, are notes
        if isinstance(value, dict) and key not in ("environment", "provenance"):
            yield from _keys(f"{prefix} {key}", value)
