"""Fetch repositories from the hub into its cache: whole, verified, and only the files that are asked for.

The hub's client compares sizes alone. Here the digest of every file is compared with the one that the hub states: the
sha256 of large files, git's sha1 of small ones. What differs is deleted, fetched once more, and then refused.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, WeightsError, WriteError, naming
from .cache import COMMIT, CachedCommit, Digest, discard, stated_digest
from .client import (
    TIMEOUT_SECONDS,
    TRIES,
    HubOptions,
    RepoType,
    check_repository_id,
    hub_api,
    hub_errors,
    is_offline,
    is_passing,
    patiently,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

Choice = Callable[[Mapping[str, int]], list[str]]
"""Given the files at the top of a repository and their sizes, names those to fetch."""

Check = Callable[[Path], None]
"""Looks at the directory in which a commit's `*.json` are, and raises if the rest need not be fetched."""

_STALE_SECONDS = 24 * 3600
_SLACK_BYTES = 1 << 20
"""A download is stopped at twice its size and this: what was received before a connection broke may count again."""
_WRONG_SIZE = "Consistency check failed"
"""What the hub's client says of a file that is shorter or longer than announced, in an OSError like any other."""
_FORGED = "the hub, or something on the way to it, is faulty or forges; try again later, or pass another revision"


@dataclass(frozen=True)
class _Listed:
    """One file as the hub describes it."""

    size: int
    digest: Digest | None


class _DamagedError(WeightsError):
    """A file is not what the hub says it is."""


def _no_check(_: Path) -> None:
    """Fetch whatever is chosen."""


def fetch(
    repository: str,
    hub: HubOptions,
    *,
    choose: Choice,
    check: Check = _no_check,
    repo_type: RepoType = "model",
    known_sha256: Mapping[str, str] | None = None,
) -> CachedCommit:
    """Return a commit's files, from the cache if they are there and verified, else from the hub.

    Without network the cache is used, with a warning. A commit that is cached and verified needs no network at all.

    Args:
        repository: `owner/name`.
        hub: without a `revision`, the branch `main` is meant.
        choose: picks the files; nothing else is fetched.
        check: called when `*.json` are there, and before anything larger is fetched.
        known_sha256: by file, digests that are known beforehand and that the hub must state too.

    Raises:
        ConfigError: no such repository or revision, or no right to it.
        WeightsError: it cannot be fetched, or is not what the hub says it is.
        WriteError: the disk is full.
    """
    from huggingface_hub import constants

    check_repository_id(repository)
    revision = hub.revision or constants.DEFAULT_REVISION
    if not re.fullmatch(r"[\w][\w./-]*", revision, re.ASCII) or ".." in revision:
        raise ConfigError(f"{repository}: revision={revision!r} must be a branch, tag or commit")
    cache = Path(hub.cache_dir or constants.HF_HUB_CACHE).expanduser()
    wanted = _Revision(repository, repo_type, revision, cache, hub_api(hub.token))
    if hub.local_files_only or is_offline():
        if hub.force_download:
            raise ConfigError("force_download=True needs the network; leave out local_files_only and HF_HUB_OFFLINE")
        return wanted.cached(choose)
    if COMMIT.fullmatch(revision) and not hub.force_download and wanted.at(revision).is_verified():
        return wanted.at(revision)
    return wanted.fetched(choose, check, known_sha256 or {}, hub.force_download)


@dataclass(frozen=True)
class _Revision:
    """One revision of a repository, and the cache its files go into."""

    repository: str
    repo_type: RepoType
    revision: str
    cache: Path
    api: HfApi

    @property
    def storage(self) -> Path:
        return self.cache / f"{self.repo_type}s--{self.repository.replace('/', '--')}"

    def at(self, commit: str) -> CachedCommit:
        return CachedCommit(self.storage, commit)

    def fetched(
        self, choose: Choice, check: Check, known_sha256: Mapping[str, str], force_download: bool
    ) -> CachedCommit:
        """Return the commit that the hub names, after fetching what of it is not in the cache."""
        in_cache = None if force_download else self._cached_commit()
        try:
            with hub_errors(self.repository, revision=self.revision):
                tries = TRIES if in_cache is None else 1
                commit, listed = patiently(self._listing, what=self.repository, tries=tries)
        except WeightsError as error:
            if in_cache is None or not is_passing(error):
                raise
            logger.warning("%s; using commit %s from the cache", error, in_cache)
            return self.cached(choose)
        if self.revision != commit:
            logger.info("%s: %s is commit %s; pass it as revision to pin it", self.repository, self.revision, commit)
        found = self.at(commit)
        if force_download or not found.is_verified():
            with naming(self.repository):
                names = choose({name: file.size for name, file in listed.items()})
            chosen = {name: listed[name] for name in names}
            found.note(self._fetch_all(commit, chosen, check, known_sha256, force_download))
        if self._cached_commit() != commit:
            found.name_branch(self.revision)
        return found

    def cached(self, choose: Choice) -> CachedCommit:
        """Return what is in the cache; what was not verified is, as far as the cache tells its digest."""
        commit = self._cached_commit()
        if commit is None:
            raise WeightsError(
                f"{self.repository}: {self.revision} is not in the cache {self.cache}; fetch it once with a network, "
                "without local_files_only and HF_HUB_OFFLINE"
            )
        whole = self.at(commit)
        if whole.is_verified():
            return whole
        # what else the commit has is not known here, so these notes do not count with a network
        found = replace(whole, is_whole=False)
        if found.is_verified():
            return found
        files = {path.name: path for path in found.directory.iterdir() if path.is_file()}
        incomplete = WeightsError(
            f"{self.repository}: its copy in {self.cache} is not complete; fetch it with a network"
        )
        try:
            names = choose({name: path.stat().st_size for name, path in files.items()})
        except (ConfigError, WeightsError):
            raise incomplete from None
        if all(name.endswith(".json") for name in names):
            raise incomplete
        digests = {name: stated_digest(files[name]) for name in names}
        for name, stated in digests.items():
            if (actual := stated.of(files[name])) != stated:
                discard(files[name])
                raise WeightsError(
                    f"{self.repository}: {name} in the cache has {actual} instead of {stated} and was deleted; fetch "
                    "it with a network"
                )
        found.note(digests)
        return found

    def _listing(self) -> tuple[str, dict[str, _Listed]]:
        """Return the commit that the revision names and the files at its top: one request."""
        info = self.api.repo_info(
            self.repository,
            repo_type=self.repo_type,
            revision=self.revision,
            timeout=TIMEOUT_SECONDS,
            files_metadata=True,
        )
        if not COMMIT.fullmatch(info.sha or ""):
            raise ValueError(f"commit {info.sha!r} must have 40 hexadecimal digits")
        files = {}
        for file in getattr(info, "siblings", None) or ():
            if "/" not in file.rfilename and "\\" not in file.rfilename:
                digest = Digest("git-sha1", file.blob_id) if file.blob_id else None
                files[file.rfilename] = _Listed(
                    file.size or 0, Digest("sha256", file.lfs.sha256) if file.lfs else digest
                )
        return str(info.sha), files

    def _fetch_all(
        self,
        commit: str,
        files: Mapping[str, _Listed],
        check: Check,
        known_sha256: Mapping[str, str],
        force_download: bool,
    ) -> dict[str, Digest]:
        _collect_garbage(self.storage)
        self._check_room(commit, files, force_download)
        digests: dict[str, Digest] = {}
        # another kind of model, or one that asks for code, is told before gigabytes are fetched
        ordered = sorted(files.items(), key=lambda item: (not item[0].endswith(".json"), item[1].size))
        num_small = sum(name.endswith(".json") for name in files)
        for number, (name, file) in enumerate(ordered):
            if number == num_small:
                check(self.at(commit).directory)
            known = Digest("sha256", known_sha256[name]) if name in known_sha256 else None
            if known and file.digest and file.digest.algorithm == "sha256" and known != file.digest:
                raise WeightsError(
                    f"{self.repository}: {name} has {file.digest}, must have {known}. That one is second-hand, and may "
                    "be wrong; to take what the hub has, pass revision='main' (--revision main)"
                )
            digests[name] = self._fetch_file(name, commit, _Listed(file.size, known or file.digest), force_download)
        return digests

    def _fetch_file(self, name: str, commit: str, stated: _Listed, force_download: bool) -> Digest:
        try:
            return self._fetch_once(name, commit, stated, force_download)
        except _DamagedError as error:
            logger.warning("%s; fetching it once more", error)
            return self._fetch_once(name, commit, stated, True)

    def _fetch_once(self, name: str, commit: str, stated: _Listed, force_download: bool) -> Digest:
        download = partial(self._download, name, commit, stated.size, force_download)
        try:
            with hub_errors(self.repository, revision=commit):
                path = patiently(download, what=f"{self.repository}: {name}")
        except WeightsError as error:
            if _WRONG_SIZE not in str(error.__cause__):
                raise
            raise _DamagedError(f"{error}; {_FORGED}") from error
        digest = stated.digest or stated_digest(path)
        if (found := digest.of(path)) != digest:
            discard(path)
            raise self._forged(name, found, digest)
        return digest

    def _forged(self, name: str, found: Digest, stated: Digest) -> _DamagedError:
        return _DamagedError(f"{self.repository}: {name} has {found}, must have {stated}, and was deleted; {_FORGED}")

    def _download(self, name: str, commit: str, size: int, force_download: bool) -> Path:
        too_long = _DamagedError(f"{self.repository}: {name} has more bytes than the {size:,} stated; {_FORGED}")
        return Path(
            self.api.hf_hub_download(
                self.repository,
                name,
                repo_type=self.repo_type,
                revision=commit,
                cache_dir=self.cache,
                force_download=force_download,
                tqdm_class=_bounded(size, too_long) if size else None,  # a mirror may not know the size
            )
        )

    def _check_room(self, commit: str, files: Mapping[str, _Listed], force_download: bool) -> None:
        """Refuse a download that does not fit, before it begins."""
        needed = 0
        for name, file in files.items():
            places = [self.storage / "snapshots" / commit / name]
            places += [self.storage / "blobs" / file.digest.digits] if file.digest else []
            needed += file.size if force_download or not any(place.exists() for place in places) else 0
        place = next(path for path in (self.cache.absolute(), *self.cache.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise WriteError(
                f"{self.repository}: needs {needed:,} bytes in {self.cache}, {free:,} are free; free some space, pass "
                "cache_dir= or set HF_HOME to a larger disk"
            )

    def _cached_commit(self) -> str | None:
        """Return the commit that the cache has for the revision."""
        commit = self.revision
        if not COMMIT.fullmatch(commit):
            try:
                commit = (self.storage / "refs" / commit).read_text().strip()
            except OSError:
                return None
        is_there = COMMIT.fullmatch(commit) and (self.storage / "snapshots" / commit).is_dir()
        return commit if is_there else None


def _bounded(size: int, error: Exception) -> type[Any]:
    """Return the client's progress bar, but one that stops a download which does not end: its disk would fill up."""
    from huggingface_hub.utils.tqdm import tqdm

    class BoundedBar(tqdm):
        received = 0.0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            if self.received > 2 * size + _SLACK_BYTES:
                raise error
            shown: bool | None = super().update(n)
            return shown

    return BoundedBar


def _collect_garbage(storage: Path) -> None:
    """Delete what downloads that were killed long ago left behind."""
    for path in (storage / "blobs").glob("*.incomplete"):
        # another process may finish or delete it now, and a shared cache may be read-only
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - _STALE_SECONDS:
                path.unlink()
