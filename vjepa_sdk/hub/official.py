"""Models that are published as a checkpoint file alone: fetch it once, convert it, keep the model directory.

    vjepa-official/NAME/                in the hub's cache
        record.json                     sha256 and size of the file when it was first used
        FILE.part, FILE.part.json       while it is fetched
        FILE                            until it is converted
        work/                           while it is converted
        snapshots/SHA256/               the model directory, named by the file's digest; it appears by one rename
        verified/SHA256.json            digests of its files, by which it is known to be whole
        SHA256.report.json              what became of every tensor of the file
        .lock                           held by the process that fetches or converts

A process that is killed at any moment leaves what the next one goes on from. The file is a pickle and is read only by
the confined process of `vjepa convert`; it is deleted afterwards, unless VJEPA_KEEP_OFFICIAL=1 asks to keep it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.registry import ModelInfo
from ..errors import ConfigError, InUseError, WeightsError, WriteError
from ..runtime.files import disk_errors, sha256_of, sync_directory, write_json
from ..runtime.lock import Lock
from ..weights.layout import CONFIG_NAME
from ..weights.provenance import state_licence
from .cache import CachedCommit, Digest
from .client import HubOptions, is_offline
from .resumable import Download

if TYPE_CHECKING:
    from ..weights.convert import ConversionReport

logger = logging.getLogger(__name__)

_KEEP = "VJEPA_KEEP_OFFICIAL"


def fetch_official(info: ModelInfo, hub: HubOptions) -> Path:
    """Return the directory of a model that is published as a file, after fetching and converting it the first time.

    Raises:
        ConfigError: a revision, which a file does not have; or `force_download` without a network.
        WeightsError: it is not here and must not be fetched, cannot be fetched, or is not what is expected.
        WriteError: the disk has no room for the file and its converted copy, or cannot be written.
    """
    from huggingface_hub import constants

    if hub.revision is not None:
        raise ConfigError(f"{info.name}: is a file, which has no revision={hub.revision!r}; leave revision out")
    model = OfficialModel(info, Path(hub.cache_dir or constants.HF_HUB_CACHE).expanduser().absolute())
    may_fetch = not (hub.local_files_only or is_offline())
    if hub.force_download and not may_fetch:
        raise ConfigError("force_download=True needs the network; leave out local_files_only and HF_HUB_OFFLINE")
    if not hub.force_download and (found := model.verified()) is not None:
        model.tidy()
        return found
    if not may_fetch and not model.file.exists():
        raise model.missing()
    with model.alone():
        # another process may have made it meanwhile
        if not hub.force_download and (found := model.verified()) is not None:
            return found
        if hub.force_download:
            model.download.discard_part()
            model.file.unlink(missing_ok=True)
        if not model.file.exists():
            model.fetch()
        return model.convert(model.check_digest())


@dataclass(frozen=True)
class OfficialModel:
    """A model that is published as a file, and its place in the cache."""

    info: ModelInfo
    cache: Path

    @property
    def storage(self) -> Path:
        """The model's own directory in the cache."""
        return self.cache / "vjepa-official" / self.info.name

    @property
    def file(self) -> Path:
        """Where the official file is, from when it is whole to when it is converted."""
        return self.storage / self.info.url.rpartition("/")[2]

    @property
    def download(self) -> Download:
        """How the file is fetched."""
        return Download(self.info.name, self.info.url, self.file, self.info.num_bytes)

    def is_there(self) -> bool:
        """Whether the converted model is there; a look at names, not at content."""
        found = self._noted()
        return found is not None and (found.directory / CONFIG_NAME).is_file()

    def verified(self) -> Path | None:
        """Return the converted model if it is there and whole; a file that was damaged is deleted."""
        found = self._noted()
        return found.directory if found is not None and found.is_verified() else None

    def missing(self) -> WeightsError:
        """Return the error of one who may not use the network."""
        have = self.download.arrived_bytes
        part = f", of which {have:,} bytes are there" if have else ""
        return WeightsError(
            f"{self.info.name}: is not in {self.storage}, and needs {self.info.url} ({_size(self.info)}{part}); load "
            "it once with a network, without local_files_only and HF_HUB_OFFLINE; or fetch that file elsewhere, put it "
            "into that directory, and load again"
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time fetch and convert; others wait for it."""
        try:
            self.storage.mkdir(parents=True, exist_ok=True)
            lock = _patient_lock(self.info.name, self.storage / ".lock")
        except InUseError:
            raise
        except OSError as error:
            raise WriteError(
                f"{self.info.name}: {self.storage} cannot be used ({error.strerror or error}); pass cache_dir= or set "
                "HF_HOME to a directory that you may write to"
            ) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def fetch(self) -> None:
        """Fetch the official file."""
        state_licence(self.info.name, self.info.licence)
        logger.info(
            "%s: fetching %s (%s, licence %s) into %s; it is converted once, and then deleted",
            self.info.name, self.info.url, _size(self.info), self.info.licence, self.storage,
        )  # fmt: skip
        self.download.fetch(lambda coming: self._check_room(coming + 2 * self.info.converted_bytes))

    def check_digest(self) -> str:
        """Return the sha256 of the official file, after comparing it with what is known, or recording it.

        Raises:
            WeightsError: it is another one than is known, or than at the first use.
        """
        found, record = sha256_of(self.file), self._record()
        go_on = (
            f"if you trust it all the same, run `vjepa convert {self.file} DIRECTORY --arch {self.info.name}` and pass "
            "that directory; else delete it, and it is fetched again"
        )
        if self.info.sha256 and found != self.info.sha256:
            raise WeightsError(
                f"{self.info.name}: {self.file} has sha256 {found}, expected {self.info.sha256}. That one is "
                f"second-hand: the publisher states none, so it may have replaced the file; {go_on}"
            )
        first = record.get("sha256", found) if record.get("url") == self.info.url else found
        if not self.info.sha256 and found != first:
            raise WeightsError(
                f"{self.info.name}: {self.file} has sha256 {found}, and had {first} when it was first used here, on "
                f"{record.get('first_used')}: it was replaced; {go_on}. Delete {self._record_path} to take the new one"
            )
        if record.get("sha256") != found or record.get("url") != self.info.url:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            facts = {"url": self.info.url, "sha256": found, "bytes": self.file.stat().st_size, "first_used": today}
            with disk_errors(self._record_path):
                write_json(self._record_path, facts)
            if not self.info.sha256:
                logger.info("%s: no digest is known; sha256 %s is recorded", self.info.name, found)
        return found

    def convert(self, digest: str) -> Path:
        """Turn the official file into a model directory, in the process that `vjepa convert` uses, and delete it."""
        from ..weights.convert import convert

        work, made = self._work, self._directory(digest)
        with disk_errors(self.storage):
            shutil.rmtree(work, ignore_errors=True)
            self._check_room(2 * self.info.converted_bytes)
            work.mkdir()
            logger.info("%s: converting %s", self.info.name, self.file.name)
            report = convert(self.file, work / "model", arch=self.info.name)
            write_json(_report_path(made.directory), {**dataclasses.asdict(report), "out": ""})
            shutil.rmtree(made.directory, ignore_errors=True)
            made.directory.parent.mkdir(exist_ok=True)
            os.replace(report.out, made.directory)
            sync_directory(made.directory.parent)
            made.note({path.name: Digest("sha256", sha256_of(path)) for path in sorted(made.directory.iterdir())})
            if not made.is_verified():  # a note may fail, but here it decides what the next load finds
                raise WriteError(f"{self.storage}: cannot be written; check the disk and run again")
            self._discard_sources()
        return made.directory

    def tidy(self) -> None:
        """Delete what a process left that was killed when all was done but this; unless another one is at work."""
        if self._work.exists():
            # a cache of somebody else may be read-only
            with contextlib.suppress(InUseError, OSError), Lock(self.storage / ".lock"):
                self._discard_sources()

    def _discard_sources(self) -> None:
        """Delete the file, and what was made on the way; `work` last, by which `tidy` knows that this was not done."""
        for unfinished in (*self.storage.glob(".*.tmp"), *self.storage.glob("verified/.*.tmp")):
            unfinished.unlink(missing_ok=True)
        self.download.discard_part()
        if os.environ.get(_KEEP) != "1":
            self.file.unlink(missing_ok=True)
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def _work(self) -> Path:
        return self.storage / "work"

    @property
    def _record_path(self) -> Path:
        return self.storage / "record.json"

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _directory(self, digest: str) -> CachedCommit:
        return CachedCommit(self.storage, digest)

    def _noted(self) -> CachedCommit | None:
        """Return where the model of the recorded file is, unless another file is asked for by now."""
        record = self._record()
        digest = record.get("sha256")
        is_known = isinstance(digest, str) and digest.isalnum() and digest == (self.info.sha256 or digest)
        return self._directory(str(digest)) if is_known and record.get("url") == self.info.url else None

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.storage).free
        if needed > free:
            raise WriteError(
                f"{self.info.name}: needs {needed:,} bytes in {self.storage}, for the file and its converted copy, and "
                f"{free:,} are free; free some space, pass cache_dir= or set HF_HOME to a larger disk"
            )


def read_report(directory: Path, out: Path) -> ConversionReport:
    """Return what the conversion of a cached model did, for a copy of it in `out`."""
    from ..weights.convert import ConversionReport

    facts = json.loads(_report_path(directory).read_bytes())
    mapped = {name: tuple(sources) for name, sources in facts.pop("mapped").items()}
    return ConversionReport(**{**facts, "mapped": mapped, "out": out})


def _report_path(directory: Path) -> Path:
    return directory.parents[1] / f"{directory.name}.report.json"


def _patient_lock(name: str, path: Path) -> Lock:
    """Wait until the lock is free, and hold it."""
    waits = False
    while True:
        lock = Lock(path)
        try:
            return lock.__enter__()
        except InUseError as error:
            if not waits:
                logger.warning("%s: %s", name, str(error).replace("wait for it or choose another output", "waiting"))
            waits = True


def _size(info: ModelInfo) -> str:
    return f"{'' if info.num_bytes else 'about '}{info.checkpoint_bytes / 1e9:.2f} GB"
