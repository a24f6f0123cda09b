"""Keep what became of the clips of a job: in memory until it is due, then in parts on disk.

The rows of a clip with many windows may lie in several parts, so that neither memory nor what a kill costs grows with
the length of a video. Should such a clip fail later, the rows it has do not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ...config.choices import Dtype
from ...errors import VideoDecodeError
from ...features.formats import Row, check_shapes, from_bytes, json_line, to_bytes
from .options import EmbedOptions
from .workspace import Part, Workspace

PART_SECONDS, PART_BYTES = 5.0, 64 << 20  # what a kill may cost; they have no influence on the output


@dataclass(frozen=True)
class Outcome:
    """What became of one clip: its rows, or its line among the errors."""

    rows: tuple[Row, ...]
    failure: dict[str, Any] | None
    is_last: bool = True
    """Whether it has no more rows than these."""


class Ledger:
    """Take what became of clips, and commit it to parts from time to time.

    Args:
        num_clips: of the job.
        parts: those an earlier run has finished.
        row_shape: what rows must have because they are added to others, None for any.
        work: where parts go.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        options: EmbedOptions,
        out: Path,
        parts: Sequence[Part],
        row_shape: tuple[int, ...] | None,
        work: Workspace,
    ) -> None:
        self._num_clips, self._options, self._out = num_clips, options, out
        self._row_shape, self._work = row_shape, work
        self.parts = list(parts)
        self.failed = sum(part.facts["failed"] for part in parts)
        """Clips without rows, in this run and those before."""
        self.num_taken = 0
        """Clips that this run has finished."""
        self._stored = {part.first: part.end for part in parts if part.end is not None}
        self._shapes = {tuple(shape) for part in parts for shape in part.facts["shapes"]}
        """Of rows in parts."""
        self._whole: dict[int, Outcome] = {}
        self._open: dict[int, list[Row]] = {}
        """Rows that are not on disk, of clips of which more are to come."""
        self._pending_bytes = 0
        self._pending_since = time.monotonic()

    @property
    def finished(self) -> set[int]:
        """Numbers of the clips that are in parts with all their rows."""
        return {number for part in self.parts if part.end is None for number in range(part.first, part.last)}

    @property
    def is_complete(self) -> bool:
        """Whether every clip is in a part."""
        return len(self.finished) == self._num_clips

    @property
    def rows_on_disk(self) -> int:
        """Of all clips that have not failed."""
        return sum(part.facts["rows"] for part in _counting(self.parts))

    def num_stored(self, number: int) -> int:
        """Return how many rows of an unfinished clip are in parts."""
        return self._stored.get(number, 0)

    def add(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the clips from number `first` on, each with all it has."""
        self._guard([outcome.failure for outcome in outcomes if outcome.failure is not None])
        for number, outcome in enumerate(outcomes, start=first):
            self._take(number, outcome)
            self._pending_bytes += _num_bytes(outcome.rows)
        self._commit_if_due()

    def add_rows(self, number: int, piece: Outcome) -> None:
        """Take some rows of one clip, which follow those taken before.

        Args:
            piece: its failure, if it has one, makes all rows of the clip void.
        """
        self._guard([piece.failure] if piece.failure is not None else [])
        rows = self._open.setdefault(number, [])
        rows += piece.rows
        self._pending_bytes += _num_bytes(piece.rows)
        if piece.is_last:
            del self._open[number]
            self._take(number, Outcome(() if piece.failure is not None else tuple(rows), piece.failure))
        self._commit_if_due()

    def commit(self) -> None:
        """Write what is pending: neighbours that are whole in one part, and what there is of the others."""
        for first, outcomes in _runs(self._whole):
            self._write(outcomes, first=first)
        self._whole = {}
        for number, rows in self._open.items():
            if rows:
                begin = self.num_stored(number)
                self._stored[number] = begin + len(rows)
                self._write([Outcome(tuple(rows), None)], first=number, begin=begin, end=begin + len(rows))
                self._open[number] = []
        self._pending_bytes, self._pending_since = 0, time.monotonic()

    def check_failures(self) -> None:
        """Refuse to go on if an earlier run was allowed more failures."""
        self._guard([])

    def _take(self, number: int, whole: Outcome) -> None:
        """Take the end of a clip, or all of it."""
        self.failed += whole.failure is not None
        self.num_taken += 1
        if begin := self.num_stored(number):
            self._write([whole], first=number, begin=begin)
        else:
            self._whole[number] = whole

    def _commit_if_due(self) -> None:
        if self._pending_bytes >= PART_BYTES or time.monotonic() - self._pending_since >= PART_SECONDS:
            self.commit()

    def _write(self, outcomes: Sequence[Outcome], *, first: int, begin: int = 0, end: int | None = None) -> None:
        rows = [row for outcome in outcomes for row in outcome.rows]
        shapes = sorted({row.values.shape for row in rows})
        self._shapes.update(shapes)
        check_shapes(self._out, [*self._shapes, *([self._row_shape] if self._row_shape else [])])
        failed = sum(outcome.failure is not None for outcome in outcomes)
        facts = {"rows": len(rows), "failed": failed, "shapes": shapes}
        last, data = first + len(outcomes), _pack(outcomes, self._options.dtype)
        self.parts.append(self._work.commit(first=first, last=last, begin=begin, end=end, data=data, facts=facts))

    def _guard(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Stop at a failure, or at too many, as the options say; the clips it happened to are tried again."""
        if failures and self._options.on_error == "stop":
            self.commit()
            raise VideoDecodeError(
                f"{failures[0]['path']}: {failures[0]['reason']}; remove it, or pass on_error='skip'"
            )
        failed, total, share = self.failed + len(failures), self._num_clips, self._options.failure_share
        if failed > share * total:
            self.commit()
            example = f", for example {failures[0]['path']}: {failures[0]['reason']}" if failures else ""
            raise VideoDecodeError(
                f"{failed} of {total} clips failed, --max-failures {self._options.max_failures} "
                f"allows {int(share * total)}{example}"
            )


def _runs(outcomes: Mapping[int, Outcome]) -> Iterator[tuple[int, list[Outcome]]]:
    """Yield those whose numbers follow each other together, with the number of the first."""
    numbers = sorted(outcomes)
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], [outcomes[number] for number in members]


def stored_outcomes(work: Workspace, parts: Sequence[Part]) -> Iterator[Outcome]:
    """Read back, in order, what became of the clips; one with rows in several parts comes in as many pieces."""
    for part in _counting(parts):
        yield from _unpack(work.read(part), is_last=part.end is None)


def _counting(parts: Sequence[Part]) -> list[Part]:
    """Leave out the rows of clips that failed later."""
    failed = {part.first for part in parts if part.begin and part.facts["failed"]}
    return [part for part in parts if part.end is None or part.first not in failed]


def _pack(outcomes: Sequence[Outcome], dtype: Dtype) -> list[bytes]:
    """Return a part's content: one line of JSON, then the values of the rows."""
    header = {
        "dtype": dtype,
        "clips": [
            {"failure": outcome.failure, "rows": [[row.entry, row.values.shape] for row in outcome.rows]}
            for outcome in outcomes
        ],
    }
    return [json_line(header), *(to_bytes(row.values, dtype) for outcome in outcomes for row in outcome.rows)]


def _unpack(data: bytes, *, is_last: bool) -> Iterator[Outcome]:
    start = data.index(b"\n") + 1
    header = json.loads(data[:start])
    for clip in header["clips"]:
        rows = []
        for entry, shape in clip["rows"]:
            rows.append(Row(entry, values := from_bytes(data, header["dtype"], shape=shape, offset=start)))
            start += values.nbytes
        yield Outcome(tuple(rows), clip["failure"], is_last)


def _num_bytes(rows: Sequence[Row]) -> int:
    return sum(row.values.nbytes for row in rows)
