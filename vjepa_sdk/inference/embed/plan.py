"""What one run of a job is to do, and whether unfinished work belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.choices import Precision
from ...corpus.snapshot import Clip, clip_changes, setting_changes
from ...errors import ResumeError
from ...features.formats import json_line
from .columns import ListColumns
from .options import EmbedOptions
from .output import Extension
from .shards import UNSHARDED, Slots
from .workspace import Workspace, lines_sha256

OUTPUT_FORMAT = 2
PLAN_FORMAT = 3
_OLDER_PLAN = 2
"""In which the plan itself lists the clips; work that began with it is finished with it."""


@dataclass(frozen=True)
class Job:
    """What one run is to do."""

    options: EmbedOptions
    out: Path
    settings: dict[str, Any]
    """With the digest of the model."""
    model_stamps: dict[str, list[int]] | None
    """By which that digest is known again, see `model.ModelDigest`."""
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
        described: dict[str, Any] = {"settings": self.settings}
        if self.model_stamps is not None:
            described["model_stamps"] = self.model_stamps
        if self.share != UNSHARDED:
            described["share"] = self.share
        return described

    @property
    def plan(self) -> dict[str, Any]:
        """What makes two jobs the same in one environment, besides their clips, as plain data."""
        return {"format_version": PLAN_FORMAT, **self.described, "extends": self.extends}

    @property
    def units(self) -> Iterator[bytes]:
        """The clips, as lines beside the plan."""
        return (json_line(clip.to_dict()) for clip in self.clips)

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
        is_known = old["format_version"] in (PLAN_FORMAT, _OLDER_PLAN)
        changes = [] if is_known else [f"format_version: {old['format_version']} -> {PLAN_FORMAT}"]
        if is_known:  # another format may lack what is compared here
            changes += setting_changes(old["settings"], self.settings)
            changes += setting_changes(old.get("share", UNSHARDED), self.share)
            changes += setting_changes({"extends": old["extends"]}, {"extends": self.extends})
            changes += setting_changes(old["environment"], environment or {})
            changes += self._changed_clips(old, work)
        if changes and not self.options.overwrite:
            raise ResumeError(
                f"{work.directory}: holds unfinished work with another plan ({'; '.join(changes)}); "
                "restore that, or pass --overwrite to start over"
            )
        return None if changes else old

    def _changed_clips(self, old: Mapping[str, Any], work: Workspace) -> list[str]:
        if old["format_version"] == _OLDER_PLAN:
            return clip_changes([Clip(**clip) for clip in old["inputs"]], self.clips)
        if old["units_sha256"] == lines_sha256(self.units):
            return []
        old_clips = [Clip(**clip) for clip in work.read_units()]
        return clip_changes(old_clips, self.clips) or ["inputs: in another order"]
