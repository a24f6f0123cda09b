"""What one run of a job is to do, and whether unfinished work belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...config.choices import Precision
from ...corpus.snapshot import Clip, clip_changes, setting_changes
from ...errors import ResumeError
from .columns import ListColumns
from .options import EmbedOptions
from .output import Extension
from .shards import UNSHARDED, Slots
from .workspace import Workspace

OUTPUT_FORMAT = 2


@dataclass(frozen=True)
class Job:
    """What one run is to do."""

    options: EmbedOptions
    out: Path
    settings: dict[str, Any]
    """With the digest of the model."""
    clips: list[Clip]
    """To encode; for an extension the new ones."""
    columns: ListColumns
    """What lists say of clips, which is no part of the plan."""
    share: dict[str, Any]
    """Which share of all inputs they are, see `shards.Share.facts`."""
    slots: Slots
    """Of the clips in batches."""
    extension: Extension | None

    @property
    def extends(self) -> str | None:
        """The sha256 of the features that this job adds to."""
        return None if self.extension is None else str(self.extension.base.meta["sha256"])

    @property
    def described(self) -> dict[str, Any]:
        """What the meta file says of the plan, besides the inputs; a job over all says nothing of shares."""
        return {"settings": self.settings, **({"share": self.share} if self.share != UNSHARDED else {})}

    @property
    def plan(self) -> dict[str, Any]:
        """What makes two jobs the same in one environment, as plain data."""
        return {
            "format_version": OUTPUT_FORMAT,
            **self.described,
            "extends": self.extends,
            "inputs": [asdict(clip) for clip in self.clips],
        }

    def settled_precision(self, unfinished: Mapping[str, Any] | None) -> Precision:
        """Return the precision to compute in: `auto` is decided once for all rows of an output."""
        precision: Precision = self.options.precision
        if precision == "auto" and unfinished is not None:
            precision = unfinished["precision"]
        elif precision == "auto" and self.extension is not None:
            precision = self.extension.base.meta["environment"]["precision"]
        return precision

    def unfinished(self, work: Workspace, environment: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """Return the plan of unfinished work to go on with, None if there is none; refuse work with another plan.

        Args:
            environment: None where it is not known yet.
        """
        old = work.read_plan()
        if old is None:
            return None
        new = {"format_version": OUTPUT_FORMAT}
        changes = setting_changes({"format_version": old["format_version"]}, new)
        if not changes:  # another format may lack what is compared here
            changes += setting_changes(old["settings"], self.settings)
            changes += setting_changes(old.get("share", UNSHARDED), self.share)
            changes += setting_changes({"extends": old["extends"]}, {"extends": self.extends})
            changes += setting_changes(old["environment"], environment or {})
            changes += clip_changes([Clip(**clip) for clip in old["inputs"]], self.clips)
        if changes and not self.options.overwrite:
            raise ResumeError(
                f"{work.directory}: holds unfinished work with another plan ({'; '.join(changes)}); "
                "restore that, or pass --overwrite to start over"
            )
        return None if changes else old
