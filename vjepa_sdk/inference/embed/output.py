"""Know what an output on disk was made of, and make the next one from finished parts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, NoReturn

from ...corpus.snapshot import Clip, clip_changes, inputs_digest, setting_changes
from ...errors import OutputError, ResumeError, VideoDecodeError
from ...features.columns import column_kinds
from ...features.embeddings import ERRORS, INDEX, INPUTS, META, sidecar
from ...features.formats import Row, check_suffix, iter_rows, json_line, write_features
from ...runtime.files import atomic_file, disk_errors, sha256_of, write_json
from ...runtime.ownership import is_file_here
from .columns import ListColumns, entries_of
from .ledger import stored_outcomes
from .shards import UNSHARDED
from .workspace import FEATURES, Part, Workspace

_META_KEYS = {"output", "plan", "rows", "failed", "sha256", "lists_sha256"}
_PLAN_KEYS = {"settings", "inputs_sha256"}
_TEMPORARY = len("..0123456789ab.tmp")  # what `atomic_path` puts around a name
_NAME_MAX = 255
"""Of systems that do not say, as Windows."""


@dataclass(frozen=True)
class Output:
    """A complete output of `vjepa embed`, as its own files describe it."""

    path: Path
    meta: dict[str, Any]

    @property
    def rows(self) -> int:
        """How many it has."""
        return int(self.meta["rows"])

    @property
    def failed(self) -> int:
        """Clips without rows."""
        return int(self.meta["failed"])

    @property
    def share(self) -> dict[str, Any]:
        """Which share of all inputs it is, see `shards.Share.facts`."""
        return dict(self.meta["plan"].get("share", UNSHARDED))

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of every row, None for formats in which rows may differ."""
        return next(row.shape for row in iter_rows(self.path)) if self.path.suffix == ".npy" else None

    def check(
        self,
        settings: Mapping[str, Any],
        *,
        extend: bool,
        share: Mapping[str, Any] | None = None,
        clips: Sequence[Clip] | None = None,
    ) -> None:
        """Refuse an output that was made differently.

        Args:
            settings: only those given are compared.
            extend: the caller wants to add to it, so that a refusal is one to go on.
            share: which one of all inputs it must be; None: whichever that is.
            clips: what it must have been made of; None: whatever that was.

        Raises:
            OutputError, or ResumeError to an extension: something differs; the message says what.
        """
        plan = self.meta["plan"]
        changes = setting_changes(plan["settings"], settings)
        changes += setting_changes(self.share, share or {})
        if clips is not None and plan["inputs_sha256"] != inputs_digest(clips):
            changes += clip_changes([clip for clip, _ in self._inputs()], clips)
        if changes:
            self._refuse(changes, extend=extend)

    def _refuse(self, changes: Sequence[str], *, extend: bool) -> NoReturn:
        what = f"{self.path}: exists and was made differently ({'; '.join(changes)})"
        if extend:
            raise ResumeError(f"{what}; restore that to extend it, or choose another --out")
        only_more = all(" added (" in change or " removed (" in change for change in changes)
        remedy = "--extend to add what is new, or --overwrite" if only_more else "--overwrite"
        raise OutputError(f"{what}; choose another --out, or pass {remedy}")

    def _inputs(self) -> list[tuple[Clip, int]]:
        """Return the clips with the number of rows that each gave.

        Raises:
            OutputError: the list is missing or damaged.
        """
        path = sidecar(self.path, INPUTS)
        found = []
        try:
            for line in path.read_bytes().splitlines():
                values = json.loads(line)
                found.append((values.pop("rows"), values))
            inputs = [(Clip(**values), rows) for rows, values in found]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{path}: is missing or damaged ({error}); pass --overwrite to start over") from error
        if inputs_digest(clip for clip, _ in inputs) != self.meta["plan"]["inputs_sha256"]:
            raise OutputError(f"{path}: does not belong to {self.path.name}; pass --overwrite to start over")
        return inputs

    def verify(self) -> None:
        """Raise OutputError unless the files are those that the meta file describes."""
        if (path := self.altered()) is not None:
            raise OutputError(
                f"{path}: is not the file that {sidecar(self.path, META)} describes; pass --overwrite to redo it"
            )

    def altered(self) -> Path | None:
        """Return the first file that is missing, or is not the one that the meta file describes."""
        digests = {self.path: self.meta["sha256"]}
        digests |= {sidecar(self.path, name): sha256 for name, sha256 in self.meta["lists_sha256"].items()}
        for path, sha256 in digests.items():
            if not path.exists() or sha256_of(path) != sha256:
                return path
        return None

    def extension(self, clips: Sequence[Clip]) -> Extension:
        """Find which clips are new. One that failed, and whose file has changed since, counts as new.

        Raises:
            ResumeError: the file of a clip that has rows has changed, or goes by another name now.
        """
        known = {clip.id: (clip, rows) for clip, rows in self._inputs()}
        new = [clip for clip in clips if clip.id not in known or known[clip.id][0] != clip]
        again = {clip.id: clip for clip in new if clip.id in known}
        if modified := [id for id in again if known[id][1]]:
            self._refuse(clip_changes([known[id][0] for id in modified], [again[id] for id in modified]), extend=True)
        if renamed := _renamed([clip for clip, _ in known.values()], [clip for clip in new if clip.id not in known]):
            old_id, new_id = renamed[0]
            self._refuse([f"inputs: {len(renamed)} under another name ({old_id} -> {new_id})"], extend=True)
        return Extension(self, new, [clip for clip, _ in known.values() if clip.id not in again], frozenset(again))


def _renamed(old: Sequence[Clip], new: Sequence[Clip]) -> list[tuple[str, str]]:
    """Return the ids of clips that are the same file by another path: moved, or named from another directory."""
    known = {_look(clip): clip for clip in old if clip.edges_sha256}
    pairs = [(known[_look(clip)], clip) for clip in new if _look(clip) in known]
    # a true copy lies beside the original
    return [(a.id, b.id) for a, b in pairs if not os.path.exists(a.path) or os.path.samefile(a.path, b.path)]


def _look(clip: Clip) -> tuple[object, ...]:
    return clip.size, clip.mtime_ns, clip.edges_sha256, clip.start_seconds, clip.end_seconds


@dataclass(frozen=True)
class Extension:
    """What an output gains; its rows stay as they are."""

    base: Output
    clips: list[Clip]
    """To be encoded."""
    kept: list[Clip]
    """Of the output, in its order."""
    replaced: frozenset[str]
    """Ids of clips that failed then and are tried again."""

    @property
    def num_failed(self) -> int:
        """Clips of the output that have no rows and are not tried again."""
        return self.base.failed - len(self.replaced)


def check_output(out: Path) -> Path:
    """Refuse outputs that cannot work, before anything is imported or fetched."""
    check_suffix(out)
    if out.is_dir():
        raise OutputError(f"{out}: is a directory; name a file in it")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: its directory does not exist; make it with mkdir -p {out.parent}")
    _check_name(out)
    owner = (_read_meta(out) or {}).get("output", out.name)
    if owner != out.name and out.with_name(str(owner)).exists():
        raise OutputError(f"{sidecar(out, INDEX)}: belongs to {owner}; choose another name for {out.name}")
    return out


def _check_name(out: Path) -> None:
    """Refuse a name that leaves no room for those of the files beside it, and of temporary ones."""
    beside = [f"{out.name}.work", out.name, *(sidecar(out, name).name for name in (INDEX, ERRORS, INPUTS, META))]
    longest = max(len(os.fsencode(name)) for name in beside) + _TEMPORARY
    most = os.pathconf(out.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else _NAME_MAX
    if longest > most:
        raise OutputError(
            f"{out}: its name is {longest - most} bytes too long for the files beside it; choose a shorter one"
        )


def existing_output(out: Path, *, remedy: str = "choose another --out, or pass --overwrite") -> Output | None:
    """Return the complete output at a path, None if nothing is there; refuse what is not ours."""
    meta = _read_meta(out)
    if not os.path.lexists(out):
        if meta is None:
            _refuse_sidecars(out)
        return None
    if meta is None:
        raise OutputError(f"{out}: exists and was not made by `vjepa embed`; {remedy}")
    return Output(out, meta)


def is_output(out: Path) -> bool:
    """Whether `vjepa embed` made the output at a path."""
    return _read_meta(out) is not None


def _refuse_sidecars(out: Path) -> None:
    """Raise OutputError if files lie where those beside an output will, and are not what an earlier run left."""
    for name in (INDEX, ERRORS, INPUTS, META):
        path = sidecar(out, name)
        if os.path.lexists(path) and not (name == ERRORS and _is_list_of_errors(path)):
            raise OutputError(
                f"{path}: exists and was not made by `vjepa embed`; choose another --out, or pass --overwrite"
            )


def _is_list_of_errors(path: Path) -> bool:
    """Whether a file is the list of reasons that stays where all clips failed."""
    try:
        with open(path, "rb") as file:
            return is_file_here(path) and all(json.loads(line).keys() >= {"id", "path", "reason"} for line in file)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _read_meta(out: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads(sidecar(out, META).read_bytes())
        is_ours = meta.keys() >= _META_KEYS and meta["plan"].keys() >= _PLAN_KEYS
    except (OSError, ValueError, AttributeError):
        return None
    return meta if is_ours else None


def write_output(
    out: Path,
    work: Workspace,
    parts: Sequence[Part],
    *,
    clips: Sequence[Clip],
    columns: ListColumns,
    extension: Extension | None,
    about: Mapping[str, Any],
) -> None:
    """Assemble the output from the parts, and move it into place.

    Args:
        clips: those of the parts.
        columns: what lists say of clips.
        extension: what the output is added to, None if it is new.
        about: what the meta file says besides counts and checksums.
    """
    parts = sorted(parts, key=lambda part: (part.first, part.begin))
    base = extension.base if extension is not None else None
    with disk_errors(out):
        old_shapes = [row.shape for row in iter_rows(base.path)] if base is not None else []
        counts = _write_lists(work, parts, clips=clips, columns=columns, extension=extension, first_row=len(old_shapes))
        shapes = [*old_shapes, *counts.shapes]
        if not shapes and "share" not in about["plan"]:  # a share without rows is one of those that make the whole
            give_up(out, work)
        with atomic_file(work.directory / FEATURES) as file:
            new = (row.values for outcome in stored_outcomes(work, parts) for row in outcome.rows)
            values = chain(iter_rows(base.path) if base is not None else (), new)
            rows = (Row(*pair) for pair in zip(entries_of(work.directory / INDEX), values, strict=True))
            kinds = column_kinds(work.directory / INDEX)
            dtype = about["settings"]["dtype"]
            write_features(file, rows, suffix=out.suffix, shapes=shapes, dtype=dtype, columns=kinds)
        kept = extension.kept if extension is not None else []
        meta = {
            **about,
            "output": out.name,
            "clips": len(kept) + len(clips),
            "rows": len(shapes),
            "failed": counts.failed,
            "plan": {**about["plan"], "inputs_sha256": inputs_digest([*kept, *clips])},
            "sha256": sha256_of(work.directory / FEATURES),
            "lists_sha256": {name: sha256_of(work.directory / name) for name in (INDEX, ERRORS, INPUTS)},
        }
        write_json(work.directory / META, meta)
    finish(out, work)


def finish(out: Path, work: Workspace) -> None:
    """Move an output that is complete but for this into place."""
    work.replace_output([*((name, sidecar(out, name)) for name in (INDEX, ERRORS, INPUTS, META)), (FEATURES, out)])


@dataclass(frozen=True)
class _Counts:
    shapes: list[tuple[int, ...]]
    """Of the new rows."""
    failed: int
    """Clips without rows, old and new."""


def _write_lists(
    work: Workspace,
    parts: Sequence[Part],
    *,
    clips: Sequence[Clip],
    columns: ListColumns,
    extension: Extension | None,
    first_row: int,
) -> _Counts:
    """Write index, errors and inputs: what an output that is extended has already, and then what is new."""
    shapes: list[tuple[int, ...]] = []
    failed = 0
    old = sidecar(extension.base.path, INDEX) if extension is not None else None
    names = columns.names(entries_of(old) if old is not None else ())
    with (
        atomic_file(work.directory / INDEX) as index,
        atomic_file(work.directory / ERRORS) as errors,
        atomic_file(work.directory / INPUTS) as inputs,
    ):
        if extension is not None:
            base, dropped = extension.base.path, extension.replaced
            index.writelines(json_line(columns.entry(entry, names)) for entry in entries_of(sidecar(base, INDEX)))
            failed += _copy_lines(sidecar(base, ERRORS), errors, without=dropped)
            _copy_lines(sidecar(base, INPUTS), inputs, without=dropped)
        left, num_before = iter(clips), 0
        for outcome in stored_outcomes(work, parts):
            if outcome.failure is not None:
                errors.write(json_line(outcome.failure))
                failed += 1
            for row in outcome.rows:
                index.write(json_line(columns.entry({"row": first_row + len(shapes), **row.entry}, names)))
                shapes.append(row.values.shape)
            if outcome.is_last:
                inputs.write(json_line({**vars(next(left)), "rows": len(shapes) - num_before}))
                num_before = len(shapes)
        if next(left, None) is not None:
            raise OutputError(f"{work.directory}: holds fewer clips than its plan; run again to redo what is missing")
    return _Counts(shapes, failed)


def _copy_lines(source: Path, target: IO[bytes], *, without: frozenset[str]) -> int:
    lines = [line for line in source.read_bytes().splitlines(keepends=True) if json.loads(line)["id"] not in without]
    target.writelines(lines)
    return len(lines)


def give_up(out: Path, work: Workspace) -> None:
    """Report that every clip failed; the list of reasons stays, unless an older output stands there."""
    failures = [json.loads(line) for line in (work.directory / ERRORS).read_bytes().splitlines()]
    hint = ""
    if not os.path.lexists(out):
        os.replace(work.directory / ERRORS, sidecar(out, ERRORS))
        hint = f"; {sidecar(out, ERRORS)} lists all reasons"
    work.clear()  # so that the next run tries them all again
    raise VideoDecodeError(
        f"all {len(failures)} clips failed, for example {failures[0]['path']}: {failures[0]['reason']}{hint}"
    )
