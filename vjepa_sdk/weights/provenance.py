"""Say where weights come from: origin, descent, licence."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

logger = logging.getLogger(__name__)

_STATED: set[str] = set()
"""Names whose licence was stated in this process: once at the download, and not again when it is loaded."""
MODIFIED = "modified after they were loaded"
UNKNOWN = "perhaps modified: what they were loaded from is gone or has changed"


def origin_of(directory: str | Path) -> dict[str, str]:
    """Return `repository` and `commit` of a directory in the hub's cache; empty for any other."""
    directory = Path(directory).absolute()
    kind, _, name = directory.parent.parent.name.partition("--")
    if directory.parent.name != "snapshots" or kind not in ("models", "datasets"):
        return {}
    return {"repository": name.replace("--", "/"), "commit": directory.name}


def descended(
    provenance: Mapping[str, Any],
    *,
    licence: str | None = None,
    stated: Mapping[str, Any] | None = None,
    modified: bool | None = False,
    name: str | None = None,
) -> dict[str, Any]:
    """Return the provenance of a copy: what a model was fetched as becomes what the copy was made from.

    How the weights were made is true of those that were loaded. Of others the copy says that they are modified, and of
    what: it keeps the licence, and the frame rate that the model expects.

    Args:
        licence: of the copy; None: `stated` or the weights' own.
        stated: facts that the copy's maker adds or puts right, as plain JSON data.
        modified: whether the copy's weights are other ones; None: it cannot be told.
        name: of the model that was loaded, said where it is not known from the hub.

    Raises:
        ConfigError: the weights are for non-commercial use, and the licence would allow more; or `stated` is no JSON.
    """
    kept = dict(provenance)
    for now, then in (("repository", "base_model"), ("commit", "base_commit")):
        if now in kept:
            kept[then] = kept.pop(now)
    if modified is not False:
        base = kept.get("base_model", kept.get("architecture", name if name is not None else kept.get("made_by")))
        kept = {key: kept[key] for key in ("base_commit", "fps", "licence") if key in kept}
        kept = {"weights": MODIFIED if modified else UNKNOWN, **({} if base is None else {"base_model": base}), **kept}
    owed, facts = kept.get("licence"), _plain(stated)
    licence = licence if licence is not None else facts.get("licence")
    if licence is not None and is_non_commercial(owed) and not is_non_commercial(licence):
        raise ConfigError(f"licence={licence!r} gives more rights than the weights' own, {owed}; leave it out")
    return {**kept, **facts, **({} if licence is None else {"licence": licence})}


def _plain(stated: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(stated, Mapping | None):
        raise ConfigError(f"provenance={stated!r} must be a mapping; pass for example {{'made_by': 'my own loop'}}")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(stated or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"provenance={stated!r} must be plain JSON data ({error}); pass texts and numbers") from None
    return plain


def is_non_commercial(licence: object) -> bool:
    """Whether a licence's identifier says so."""
    return isinstance(licence, str) and "-NC" in licence.upper()


def state_licence(name: str | Path, licence: object) -> None:
    """Warn of weights that are for non-commercial use only; once of each name."""
    if is_non_commercial(licence) and str(name) not in _STATED:
        _STATED.add(str(name))
        logger.warning("%s: these weights are licensed %s, for non-commercial use only", name, licence)
