"""Tell which files of a directory are a model or a probe that was written here; without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..config.documents import read_json
from ..config.model import MODEL_FORMAT
from ..errors import ConfigError
from ..runtime.ownership import check_files, is_file_here
from .layout import CARD, CONFIG_NAME, INDEX_NAME, PREDICTIONS, WEIGHT_NAMES, WEIGHTS_NAME

RESERVED = re.compile(f"{re.escape(CONFIG_NAME)}|{re.escape(CARD)}|{WEIGHT_NAMES.pattern}")
"""Names that the files of a model directory have."""
PROBE_RESERVED = re.compile(f"{RESERVED.pattern}|{re.escape(PREDICTIONS)}")


def check_model_place(directory: Path) -> None:
    """Raise OutputError unless a model can be saved there: a directory of ours, or one without files of these names."""
    check_files(directory, reserved=RESERVED, written=model_written)


def model_written(directory: Path) -> set[str]:
    """Return the names of the files of a model that was written here; none without a `config.json` of ours."""
    data = _read_ours(directory)
    if "model" not in data or "probe" in data:
        return set()
    names = {CONFIG_NAME, CARD, WEIGHTS_NAME, INDEX_NAME}
    shards = _read(directory / INDEX_NAME).get("weight_map")
    if isinstance(shards, dict):
        names |= {name for name in shards.values() if isinstance(name, str)}
    return names


def probe_written(directory: Path) -> set[str]:
    """Return the names of the files of a probe that was written here; none without a `config.json` of ours."""
    return {CONFIG_NAME, CARD, WEIGHTS_NAME, PREDICTIONS} if "probe" in _read_ours(directory) else set()


def _read_ours(directory: Path) -> dict[str, Any]:
    data = _read(directory / CONFIG_NAME)
    return data if data.get("format_version") == MODEL_FORMAT else {}


def _read(path: Path) -> dict[str, Any]:
    if not is_file_here(path):
        return {}
    try:
        return read_json(path)
    except ConfigError:
        return {}
