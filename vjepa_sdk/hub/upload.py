"""Push files to the hub: exactly those that are named, in one commit, and none that holds a secret."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError
from ..weights.layout import CARD, HERE, WEIGHT_NAMES
from .client import TIMEOUT_SECONDS, RepoType, check_repository_id, hub_api, hub_errors, is_offline, patiently
from .secrets import refuse_secret_text, refuse_secrets

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_PICKLES = ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin", "*.ckpt", "*.tar", "*.joblib")
_SECRETS = (
    ".env*",
    "*.pem",
    "*.key",
    "*.p12",
    "id_*",
    ".netrc",
    ".git",
    ".ssh",
    ".aws",
    "*token*",
    "*credential*",
    "*secret*",
)


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where and how to push; the options of `push`."""

    branch: str | None = None
    private: bool = False
    create_pr: bool = False
    dry_run: bool = False
    keep_card: bool = False
    commit_message: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.branch is not None and self.create_pr:
            raise ConfigError("branch and create_pr exclude each other: a pull request has its own branch; pass one")


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What was pushed, or would be."""

    repository: str
    files: dict[str, int]
    """Names and sizes in bytes."""
    deleted: tuple[str, ...] = ()
    """Weights in the repository that these files replace."""
    left_out: dict[str, str]
    """What lay beside them and stays here, and why."""
    dry_run: bool = False
    """Nothing was sent."""
    changed: bool = False
    """There is a new commit; if not, the hub had the same files."""
    commit: str = ""
    url: str = ""
    """Page of the commit or the pull request."""


def push_directory(directory: Path, files: Mapping[str, Path], repository: str, options: PushOptions) -> PushReport:
    """Push the files of a model or probe directory, with the repository's id in the card; see `push_files`."""
    for path in files.values():
        _refuse_link(path)
    card = (directory / CARD).read_bytes()
    if not re.search(rb"\A---\n.*^license:", card, re.M | re.S):
        logger.warning("%s: names no licence, so nobody may use it; add `license:` to its top", directory / CARD)
    card = card.replace(f'"{HERE}"'.encode(), f'"{repository}"'.encode())
    return push_files({**files, CARD: card}, repository, options, replaces=WEIGHT_NAMES, beside=directory)


def push_files(
    files: Mapping[str, Path | bytes],
    repository: str,
    options: PushOptions,
    *,
    repo_type: RepoType = "model",
    replaces: re.Pattern[str] | None = None,
    beside: Path | None = None,
) -> PushReport:
    """Make the hub's copy of some files equal to ours, with one commit; none if it is already.

    Args:
        files: by name in the repository.
        repository: `owner/name`; made if it is not there.
        replaces: names of files in the repository that are deleted unless they are among these files.
        beside: directory whose other content is reported as left out.

    Raises:
        ConfigError: no such repository or no right to write, or a file that holds a secret.
        WriteError: somebody else changed the repository meanwhile.
        WeightsError: the hub cannot be reached.
    """
    check_repository_id(repository)
    for name, source in files.items():
        if isinstance(source, Path):
            _refuse_link(source)
        refuse_secrets(name, source)
    if options.commit_message is not None:
        refuse_secret_text("commit_message", options.commit_message)
    sizes = {
        name: len(source) if isinstance(source, bytes) else source.stat().st_size for name, source in files.items()
    }
    report = PushReport(
        repository=repository,
        files=sizes,
        left_out=_left_out(beside, files) if beside is not None else {},
        dry_run=options.dry_run,
    )
    if options.dry_run:
        return report
    if is_offline():
        raise ConfigError("HF_HUB_OFFLINE=1 keeps the hub away; unset it to push, or pass dry_run=True")
    target = _Target(repository, repo_type, hub_api(options.token), options)
    with hub_errors(repository, revision=options.branch, is_upload=True):
        target.make()
        return target.commit(files, replaces, report)


@dataclass(frozen=True)
class _Target:
    """The branch of a repository that a commit goes to."""

    repository: str
    repo_type: RepoType
    api: HfApi
    options: PushOptions

    def make(self) -> None:
        """Make repository and branch where they are not there."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info = self._patiently(
                partial(self.api.repo_info, self.repository, repo_type=self.repo_type, timeout=TIMEOUT_SECONDS)
            )
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            if self.options.create_pr:
                raise
            private = self.options.private or None  # None: as the owner's settings are
            self._patiently(
                partial(self.api.create_repo, self.repository, repo_type=self.repo_type, private=private, exist_ok=True)
            )
        else:
            if self.options.private and not info.private:
                raise ConfigError(
                    f"{self.repository}: is there and public; make it private in its settings, or push without private"
                )
        branch = self.options.branch
        if branch is not None and branch != "main":
            self._patiently(
                partial(self.api.create_branch, self.repository, repo_type=self.repo_type, branch=branch, exist_ok=True)
            )

    def _patiently(self, call: Callable[[], _Result]) -> _Result:
        return patiently(call, what=self.repository)

    def commit(
        self, files: Mapping[str, Path | bytes], replaces: re.Pattern[str] | None, report: PushReport
    ) -> PushReport:
        """Commit what differs, provided that nobody else commits meanwhile."""
        head = self._patiently(
            partial(
                self.api.repo_info,
                self.repository,
                repo_type=self.repo_type,
                revision=self.options.branch,
                timeout=TIMEOUT_SECONDS,
            )
        )
        there = {file.rfilename for file in getattr(head, "siblings", None) or ()}
        if self.options.keep_card and CARD in there:
            files = {name: source for name, source in files.items() if name != CARD}
        stale = tuple(sorted(name for name in there - files.keys() if replaces and replaces.fullmatch(name)))
        done = self._patiently(
            lambda: self.api.create_commit(
                self.repository,
                _operations(files, stale),
                repo_type=self.repo_type,
                revision=self.options.branch,
                create_pr=self.options.create_pr,
                parent_commit=head.sha,
                commit_message=self.options.commit_message or "Upload with vjepa-sdk",
            )
        )
        return replace(
            report,
            files={name: report.files[name] for name in files},
            deleted=stale,
            changed=done.oid != head.sha,
            commit=done.oid,
            url=done.pr_url or done.commit_url,
        )


def _operations(
    files: Mapping[str, Path | bytes], stale: Sequence[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in stale)]


def _left_out(directory: Path, files: Collection[str]) -> dict[str, str]:
    reasons = {}
    for path in sorted(directory.iterdir()):
        if path.name in files:
            continue
        if any(fnmatch(path.name.lower(), pattern) for pattern in _SECRETS):
            reasons[path.name] = "may hold secrets"
        elif path.is_dir():
            reasons[path.name] = "a directory"
        elif any(fnmatch(path.name.lower(), pattern) for pattern in _PICKLES):
            reasons[path.name] = "may hold a pickle, which nobody should load"
        else:
            reasons[path.name] = "not part of what is pushed"
    return reasons


def _refuse_link(path: Path) -> None:
    """Raise if a file is a link to somewhere else, which its owner may not mean to publish."""
    # the hub's cache: <repository>/snapshots/<commit>/<name> is a link to <repository>/blobs/<digest>
    homes = {path.parent.resolve()}
    if path.parent.parent.name == "snapshots":
        homes.add((path.parents[2] / "blobs").resolve())
    if path.is_symlink() and path.resolve().parent not in homes:
        raise ConfigError(f"{path}: is a link to a file elsewhere; copy the file if you want to publish it")
