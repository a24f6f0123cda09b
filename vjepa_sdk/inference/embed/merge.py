"""Make one output of the shares of a job, as that job over all inputs would have written it."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...corpus.lists import ClipSource
from ...corpus.snapshot import Clip, sorted_inputs_digest
from ...errors import InputError, OutputError, ResumeError, printable
from ...features.columns import column_kinds
from ...features.embeddings import ERRORS, INDEX, INPUTS, META, sidecar
from ...features.formats import Row, check_shapes, json_line, open_rows, write_features
from ...runtime.files import atomic_file, disk_errors, sha256_of, write_json
from ...video.safety import PathLike
from .output import check_output, existing_output, finish, give_up
from .shards import ListDigest, Shard, share_of
from .share_parts import (
    CARRIED,
    SECONDS,
    SharePart,
    check_columns,
    check_environments,
    check_set,
    check_unaltered,
    read_parts,
)
from .workspace import FEATURES, Workspace


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """What shares were merged into."""

    out: Path
    parts: int
    rows: int
    failed: int
    """Clips without; `errors_path` says why."""
    already_complete: bool = False
    """The output was made of these parts before; nothing was done."""

    @property
    def errors_path(self) -> Path:
        """List of the clips that failed, with reasons."""
        return sidecar(self.out, ERRORS)


def merge_embeddings(
    parts: PathLike | Iterable[PathLike],
    out: str | os.PathLike[str],
    *,
    allow_mixed: bool = False,
    overwrite: bool = False,
) -> MergeResult:
    """Make one output of all shares of a job, once it is proven that they are all of it and belong together.

    Features, index, errors and inputs are the same bytes as those of the job without shards, on one kind of machine,
    labels and other columns of lists included;
    `merged_from` in the meta file says what they were made of. Rows are copied one by one. A kill at any moment leaves
    the parts as they are, and nothing or the finished output.

    Args:
        parts: what `embed_files(..., shard=...)` wrote, of any formats: paths, or patterns such as `parts/*.npy`; not
            more than files may be open at a time (`ulimit -n`).
        out: as for `embed_files`; the suffix decides the format.
        allow_mixed: take parts that were made by other versions, devices or numbers of threads than the first, whose
            last bits can differ.
        overwrite: replace an existing output, or unfinished work of `embed_files`.

    Raises:
        InputError: a part is missing, doubled, unfinished, damaged, of another job, or has other labels of a list than
            the rest; the message names it.
        OutputError: the output exists and was made of something else, or cannot be written; a full disk.
        InUseError: another live run works on this output.
        ResumeError: unfinished work of `embed_files` is in its place.
        VideoDecodeError: all clips of all parts failed.
    """
    path = check_output(Path(out))
    with Workspace(path.with_name(f"{path.name}.work")) as work:
        if work.is_committed:  # a run was killed while it moved its output into place
            finish(path, work)
        if work.read_plan() is not None and not overwrite:
            raise ResumeError(
                f"{work.directory}: holds unfinished work of `vjepa embed`; finish it, or pass --overwrite"
            )
        found = read_parts(parts, path)
        check_set(found)
        if not allow_mixed:
            check_environments(found)
        check_columns(found)
        check_unaltered(found)
        merged_from = [part.described for part in found]
        output = None if overwrite else existing_output(path)
        is_there = output is not None
        if output is None:
            _check_room(path, found)
            work.clear()
            _write(path, work, found)
            output = existing_output(path)
            assert output is not None  # it was written
        elif output.meta.get("merged_from") == merged_from:
            output.verify()
        else:
            raise OutputError(
                f"{path}: exists and was made of something else; choose another --out, or pass --overwrite"
            )
    return MergeResult(out=path, parts=len(found), rows=output.rows, failed=output.failed, already_complete=is_there)


def _check_room(out: Path, parts: Sequence[SharePart]) -> None:
    """Refuse what cannot fit; formats differ in size by little."""
    needed, free = sum(part.output.path.stat().st_size for part in parts), shutil.disk_usage(out.parent).free
    if needed > free:
        raise OutputError(f"{out}: needs {needed:,} bytes, {free:,} are free; free some space")


class _Place(NamedTuple):
    """Where one clip of the job lies in the parts."""

    order: tuple[str, float, float, str]
    part: int
    line: int
    """In the list of inputs, as the offset of its first byte."""
    first_row: int
    """In the part."""
    num_rows: int

    @property
    def rows(self) -> range:
        """Of the part."""
        return range(self.first_row, self.first_row + self.num_rows)


def _places(parts: Sequence[SharePart]) -> list[_Place]:
    """Return the clips of all parts in the order of the job.

    Raises:
        InputError: a clip is in the wrong share, was changed between two of them, or the parts do not hold all.
    """
    places = []
    for number, part in enumerate(parts):
        offset = first = 0
        for line in _lines(sidecar(part.output.path, INPUTS)):
            clip, count = _read_input(line)
            if not part.shard.holds(clip.id):
                where = Shard(part.shard.count, share_of(clip.id, part.shard.count))
                raise InputError(f"{part}: holds {printable(clip.id)}, which belongs to share {where}; make it again")
            places.append(_Place(_source(clip).place, number, offset, first, count))
            offset, first = offset + len(line), first + count
    places.sort()
    digest, before = ListDigest(), None
    for place in places:
        clip = _clip_at(parts, place)
        digest.add(_source(clip))
        if before is not None and before[0].path == clip.path and _look(before[0]) != _look(clip):
            raise InputError(
                f"{parts[place.part]}: was made of another state of {printable(clip.path)} than {before[1]}; "
                "make the older of them again, with --overwrite"
            )
        before = clip, parts[place.part]
    share = parts[0].output.share
    if digest.facts != {name: share[name] for name in digest.facts}:
        raise InputError(
            f"{parts[0]}: the parts hold {digest.count:,} clips that are not the {share['all_inputs']:,} inputs of its "
            "job; make all shares again, with --overwrite"
        )
    return places


def _clip_at(parts: Sequence[SharePart], place: _Place) -> Clip:
    clip, _ = _read_input(_line_at(sidecar(parts[place.part].output.path, INPUTS), place.line))
    return clip


def _source(clip: Clip) -> ClipSource:
    id = clip.path if clip.id == clip.path else clip.id  # one text in memory, not two
    return ClipSource(path=clip.path, id=id, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)


def _look(clip: Clip) -> tuple[int, str]:
    return clip.size, clip.edges_sha256  # the time may differ between copies on two machines


def _read_input(line: bytes) -> tuple[Clip, int]:
    """Return a clip and how many rows it has."""
    values = json.loads(line)
    count = values.pop("rows")
    return Clip(**values), count


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _line_at(path: Path, offset: int) -> bytes:
    # opened for each line: there may be more parts than files that may be open
    with open(path, "rb") as file:
        file.seek(offset)
        return file.readline()


def _offsets(path: Path) -> array[int]:
    """Return where each line begins."""
    offsets = array("Q", [0])
    for line in _lines(path):
        offsets.append(offsets[-1] + len(line))
    return offsets[:-1]


def _write(out: Path, work: Workspace, parts: Sequence[SharePart]) -> None:
    """Assemble the output, and move it into place."""
    places, first = _places(parts), parts[0].output.meta
    with disk_errors(out):
        failed = _write_lists(work, parts, places)
        num_rows = sum(place.num_rows for place in places)
        if not num_rows:
            give_up(out, work)
        _write_features(out, work, parts, places)
        meta = {
            **{name: first[name] for name in (*CARRIED, "columns") if name in first},
            **{name: round(sum(part.output.meta[name] for part in parts), 3) for name in SECONDS},
            "output": out.name,
            "clips": len(places),
            "rows": num_rows,
            "failed": failed,
            "plan": {
                "settings": first["plan"]["settings"],
                "inputs_sha256": sorted_inputs_digest(
                    _clip_at(parts, place) for place in sorted(places, key=lambda place: place.order[-1])
                ),
            },
            "sha256": sha256_of(work.directory / FEATURES),
            "lists_sha256": {name: sha256_of(work.directory / name) for name in (INDEX, ERRORS, INPUTS)},
            "merged_from": [part.described for part in parts],
        }
        write_json(work.directory / META, meta)
    finish(out, work)


def _write_features(out: Path, work: Workspace, parts: Sequence[SharePart], places: Sequence[_Place]) -> None:
    """Copy the rows one by one; the index is there already."""
    with ExitStack() as stack, atomic_file(work.directory / FEATURES) as file:
        readers = [stack.enter_context(open_rows(part.output.path)) for part in parts]

        def rows() -> Iterator[np.ndarray]:
            return (readers[place.part](row) for place in places for row in place.rows)

        distinct: dict[tuple[int, ...], tuple[int, ...]] = {}  # a million rows share one tuple
        shapes = [distinct.setdefault(row.shape, row.shape) for row in rows()]
        check_shapes(out, distinct)
        entries = (json.loads(line) for line in _lines(work.directory / INDEX))
        found = (Row(entry, values) for entry, values in zip(entries, rows(), strict=True))
        dtype = parts[0].output.meta["settings"]["dtype"]
        kinds = column_kinds(work.directory / INDEX)
        write_features(file, found, suffix=out.suffix, shapes=shapes, dtype=dtype, columns=kinds)


def _write_lists(work: Workspace, parts: Sequence[SharePart], places: Sequence[_Place]) -> int:
    """Write index, errors and inputs; return how many clips failed."""
    lists = {name: [sidecar(part.output.path, name) for part in parts] for name in (INDEX, ERRORS, INPUTS)}
    row_lines = [_offsets(path) for path in lists[INDEX]]
    failures = [{json.loads(line)["id"]: line for line in _lines(path)} for path in lists[ERRORS]]
    number = failed = 0
    with (
        atomic_file(work.directory / INDEX) as index,
        atomic_file(work.directory / ERRORS) as errors,
        atomic_file(work.directory / INPUTS) as inputs,
    ):
        for place in places:
            inputs.write(_line_at(lists[INPUTS][place.part], place.line))
            failure = failures[place.part].get(place.order[-1])
            if failure is not None:
                errors.write(failure)
                failed += 1
            for row in place.rows:
                entry = json.loads(_line_at(lists[INDEX][place.part], row_lines[place.part][row]))
                index.write(json_line({**entry, "row": number}))
                number += 1
    return failed
