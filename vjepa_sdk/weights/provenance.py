"""Say where weights come from: origin, descent, licence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

logger = logging.getLogger(__name__)

_STATED: set[str] = set()
"""Names whose licence was stated in this process: once at the download, and not again when it is loaded."""


def origin_of(directory: str | Path) -> dict[str, str]:
    """Return `repository` and `commit` of a directory in the hub's cache; empty for any other."""
    directory = Path(directory).absolute()
    kind, _, name = directory.parent.parent.name.partition("--")
    if directory.parent.name != "snapshots" or kind not in ("models", "datasets"):
        return {}
    return {"repository": name.replace("--", "/"), "commit": directory.name}


def descended(provenance: Mapping[str, Any], *, licence: str | None = None) -> dict[str, Any]:
    """Return the provenance of a copy: what a model was fetched as becomes what the copy was made from.

    Raises:
        ConfigError: the weights are for non-commercial use, and the licence would allow more.
    """
    kept = dict(provenance)
    for now, then in (("repository", "base_model"), ("commit", "base_commit")):
        if now in kept:
            kept[then] = kept.pop(now)
    stated = kept.get("licence")
    if licence is not None and is_non_commercial(stated) and not is_non_commercial(licence):
        raise ConfigError(f"licence={licence!r} gives more rights than the weights' own, {stated}; leave it out")
    return kept if licence is None else {**kept, "licence": licence}


def is_non_commercial(licence: object) -> bool:
    """Whether a licence's identifier says so."""
    return isinstance(licence, str) and "-NC" in licence.upper()


def state_licence(name: str | Path, licence: object) -> None:
    """Warn of weights that are for non-commercial use only; once of each name."""
    if is_non_commercial(licence) and str(name) not in _STATED:
        _STATED.add(str(name))
        logger.warning("%s: these weights are licensed %s, for non-commercial use only", name, licence)
