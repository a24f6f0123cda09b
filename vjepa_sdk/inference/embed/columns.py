"""Carry what lists say of clips, such as labels, into an output's index, and keep it as new as the lists.

Such columns decide no feature. So they are no part of a job's plan: work goes on under changed labels, parts hold none,
and the index takes them from the lists when it is written. A complete output takes changed ones over at the next run.
Shares of a job note what lists say of all its clips, so that those are merged alone that agree.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...corpus.lists import ClipSource
from ...errors import OutputError
from ...features.columns import OURS, brought_along, column_kinds
from ...features.embeddings import ERRORS, INDEX, INPUTS, META, sidecar
from ...features.formats import Row, iter_rows, json_line, write_features
from ...runtime.files import atomic_file, canonical_json, disk_errors, sha256_of, write_json
from .workspace import FEATURES, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListColumns:
    """What lists say of clips."""

    by_id: Mapping[str, Mapping[str, Any]]
    """Of the clips of a job or share; one that is in no list is not here, and keeps what its row says."""
    facts: Mapping[str, Any] | None
    """The `names` of the columns of all inputs, in their order, and a `sha256` over what lists say of them, as they
    stand in the meta file; None: no list names any."""

    @classmethod
    def of(cls, sources: Iterable[ClipSource], *, inputs: Iterable[ClipSource]) -> ListColumns:
        """Return the columns of clips.

        Args:
            inputs: all of the job, of which the sources are a share or all.
        """
        found: dict[str, None] = {}
        digest, is_listed = hashlib.sha256(), False
        for source in inputs:
            if source.columns is not None:
                found.update(dict.fromkeys(source.columns))
                digest.update(canonical_json([source.id, source.columns]) + b"\n")
                is_listed = True
        facts = {"names": list(found), "sha256": digest.hexdigest()} if is_listed else None
        return cls({source.id: source.columns for source in sources if source.columns is not None}, facts)

    def names(self, old: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the columns of an index: those of the entries that are there, then those of the lists.

        Clips that failed and those of other shares bring theirs too, so that an index has the same whenever and
        wherever it is written.
        """
        found: dict[str, None] = {}
        for entry in old:
            found |= dict.fromkeys(self._values(entry))
        return list(found | dict.fromkeys(self.facts["names"] if self.facts is not None else ()))

    def entry(self, entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Return an entry with these columns; where nothing is known of it they are null."""
        values = self._values(entry)
        own = {name: value for name, value in entry.items() if name in OURS}
        return {**own, **{name: values.get(name) for name in names}}

    def _values(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        known = self.by_id.get(entry["id"])
        return brought_along(entry) if known is None else known


def entries_of(index: Path) -> Iterator[dict[str, Any]]:
    """Read an index row by row."""
    with open(index, "rb") as lines:
        for line in lines:
            yield json.loads(line)


def update_columns(out: Path, meta: Mapping[str, Any], work: Workspace, columns: ListColumns) -> bool:
    """Bring the columns of a complete output up to date with the lists of its clips, in one step with what holds them.

    Returns:
        Whether there was anything to change.

    Raises:
        OutputError: unfinished work is in the way.
        WriteError: the disk is full.
    """
    if columns.facts is None or columns.facts == meta.get("columns"):
        return False
    index = sidecar(out, INDEX)
    names = columns.names(entries_of(index))
    entries = ((columns.entry(entry, names), entry) for entry in entries_of(index))
    is_changed = any(canonical_json(new) != canonical_json(old) for new, old in entries)  # as text: 1 is not true there
    if not is_changed and "share" not in meta["plan"]:
        return False
    if work.read_plan() is not None:
        raise OutputError(
            f"{work.directory}: holds unfinished work, and the list says other things of clips than {index} by now; "
            "finish that work, or delete it"
        )
    with disk_errors(out):
        with atomic_file(work.directory / INDEX) as file:
            file.writelines(json_line(columns.entry(entry, names)) for entry in entries_of(index))
        for name in (ERRORS, INPUTS):
            _take_over(sidecar(out, name), work.directory / name)
        _write_features(out, meta, work)
        lists = {name: sha256_of(work.directory / name) for name in (INDEX, ERRORS, INPUTS)}
        sha256 = sha256_of(work.directory / FEATURES) if out.suffix == ".parquet" else meta["sha256"]
        new = {"columns": columns.facts, "sha256": sha256, "lists_sha256": lists}
        write_json(work.directory / META, {**meta, **new})
    logger.info("%s: columns are those of the list now", index)
    return True


def _write_features(out: Path, meta: Mapping[str, Any], work: Workspace) -> None:
    """Write the table anew, which holds columns of the index; files of other formats stay what they are."""
    if out.suffix != ".parquet":
        _take_over(out, work.directory / FEATURES)
        return
    shapes = [row.shape for row in iter_rows(out)]
    rows = (Row(*pair) for pair in zip(entries_of(work.directory / INDEX), iter_rows(out), strict=True))
    columns = column_kinds(work.directory / INDEX)
    with atomic_file(work.directory / FEATURES) as file:
        dtype = meta["settings"]["dtype"]
        write_features(file, rows, suffix=out.suffix, shapes=shapes, dtype=dtype, columns=columns)


def _take_over(source: Path, target: Path) -> None:
    """Let a file be in two places, without copying it where the disk can do that."""
    target.unlink(missing_ok=True)  # of an earlier run that was killed here
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as old, atomic_file(target) as new:
            shutil.copyfileobj(old, new)
