"""Read what the shares of a job wrote, and prove that they are all of it and belong together."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...corpus.snapshot import setting_changes
from ...errors import InputError, printable
from ...features.embeddings import META, sidecar
from ...features.formats import check_suffix
from ...runtime.files import canonical_json
from ...video.safety import PathLike, check_is_path
from .output import Output, existing_output
from .plan import OUTPUT_FORMAT
from .shards import UNSHARDED, Shard, read_shard
from .workspace import has_plan

CARRIED = ("format_version", "model", "settings", "preprocess", "environment")
"""What the meta file of the merged output takes over from the first part."""
SECONDS = ("seconds", "clips_seconds", "decode_wait_seconds")
"""What it adds up."""
_DESCRIBED = ("output", "rows", "failed", "seconds", "environment", "sha256", "lists_sha256")


@dataclass(frozen=True)
class SharePart:
    """What one share of a job wrote."""

    shard: Shard
    output: Output

    def __str__(self) -> str:
        return printable(self.output.path)

    @property
    def job(self) -> dict[str, Any]:
        """What must be the same in all parts."""
        share, plan = self.output.share, self.output.meta["plan"]
        return {
            "shares": self.shard.count,
            **{name: share[name] for name in UNSHARDED if name != "shard"},
            # a part may be older than a setting whose default is None
            **{name: value for name, value in plan["settings"].items() if value is not None},
        }

    @property
    def described(self) -> dict[str, Any]:
        """What the meta file of the merged output says of it."""
        meta = self.output.meta
        return {"shard": str(self.shard), **{name: meta[name] for name in _DESCRIBED}}


def read_parts(parts: PathLike | Iterable[PathLike], out: Path) -> list[SharePart]:
    """Return the parts that paths and patterns name, by share, each once; `out` is none of them.

    Raises:
        InputError: one is missing, unfinished or no share.
    """
    paths: dict[Path, Path] = {}
    for item in [parts] if isinstance(parts, str | os.PathLike) else parts:
        check_is_path(item)
        name = str(Path(item))
        if os.path.lexists(name) or not glob.has_magic(name):
            found = [name]
        elif not (found := sorted(glob.glob(name, recursive=True))):
            raise InputError(f"{printable(name)}: no file matches this pattern")
        paths |= {Path(each).resolve(): Path(each) for each in found}
    if not paths:
        raise InputError("parts is empty; pass what `vjepa embed --shard` wrote")
    if out.resolve() in paths:
        raise InputError(f"{printable(out)}: is the output and a part at once; name them apart")
    return sorted(map(_read_part, paths.values()), key=lambda part: part.shard)


def _read_part(path: Path) -> SharePart:
    """Read what a part says of itself; its files are looked at later."""
    check_suffix(path)
    name = printable(path)
    if has_plan(path.with_name(f"{path.name}.work")):
        raise InputError(f"{name}: is not finished; run its `vjepa embed` again to go on")
    if not os.path.lexists(path):
        raise InputError(f"{name}: does not exist; `vjepa embed --shard` writes it")
    output = existing_output(path, remedy="leave it out")
    assert output is not None  # it exists
    if output.meta["output"] != path.name:
        raise InputError(
            f"{name}: {sidecar(path, META).name} belongs to {printable(output.meta['output'])}; leave it out"
        )
    if output.meta.get("format_version") != OUTPUT_FORMAT:
        raise InputError(f"{name}: has format {output.meta.get('format_version')}, not {OUTPUT_FORMAT}; make it again")
    if not output.meta.keys() >= {*_DESCRIBED, *CARRIED, *SECONDS}:
        raise InputError(f"{name}: {sidecar(path, META).name} is damaged; make it again, with --overwrite")
    if output.share["shard"] is None:
        raise InputError(f"{name}: is no share, it was made without --shard; leave it out")
    return SharePart(read_shard(str(output.share["shard"])), output)


def check_set(parts: Sequence[SharePart]) -> None:
    """Raise InputError unless these are all shares of one job, each once."""
    keys = [canonical_json(part.job) for part in parts]
    usual = Counter(keys).most_common(1)[0][0]
    first = parts[keys.index(usual)]
    for part, key in zip(parts, keys, strict=True):
        if key != usual:
            changes = setting_changes(first.job, {**dict.fromkeys(first.job), **part.job})
            raise InputError(
                f"{part}: is not of the same job as {first} ({'; '.join(changes)}); make it again as that was"
            )
    for part, other in pairwise(parts):
        if part.shard == other.shard:
            raise InputError(f"{part} and {other}: both are share {part.shard}; leave one out")
    there = {part.shard.index for part in parts}
    count = first.shard.count
    if missing := [str(Shard(count, index)) for index in range(1, count + 1) if index not in there]:
        raise InputError(
            f"{first}: {len(missing)} of its job's {count} shares are missing ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); pass them too, or make them with `vjepa embed --shard {missing[0]}`"
        )


def check_columns(parts: Sequence[SharePart]) -> None:
    """Raise InputError if the list of a part's job said other things of the clips than that of most parts."""
    found = [part.output.meta.get("columns") for part in parts]
    keys = [canonical_json(each) for each in found]
    usual = keys.index(Counter(keys).most_common(1)[0][0])
    for part, columns, key in zip(parts, found, keys, strict=True):
        if key != keys[usual]:
            names = [", ".join((each or {}).get("names", ())) or "none" for each in (found[usual], columns)]
            change = f"{names[0]} -> {names[1]}" if names[0] != names[1] else f"other values of {names[0]}"
            raise InputError(
                f"{part}: its list had other columns than that of {parts[usual]} ({change}); run the `vjepa embed` of "
                "each with the same list again, which takes them over and encodes nothing"
            )


def check_environments(parts: Sequence[SharePart]) -> None:
    """Raise InputError if a part was made by other versions, or on another kind of processor, than the first."""
    first = parts[0]
    for part in parts:
        if changes := setting_changes(first.output.meta["environment"], part.output.meta["environment"]):
            raise InputError(
                f"{part}: was made in another environment than {first} ({'; '.join(changes)}), which can change the "
                "last bits of features; make it again in that, or pass --allow-mixed"
            )


def check_unaltered(parts: Sequence[SharePart]) -> None:
    """Raise InputError unless the files of all parts are those that were written."""
    for part in parts:
        if (file := part.output.altered()) is not None:
            raise InputError(
                f"{printable(file)}: is not the file that {sidecar(part.output.path, META).name} describes; "
                f"make share {part.shard} again, with --overwrite"
            )
