"""Reach the hub: our name in every request, patience with what passes, errors that say what to do."""

from __future__ import annotations

import difflib
import email.utils
import errno
import functools
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from .._version import __version__
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError, VJEPAError, WeightsError, WriteError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

RepoType = Literal["model", "dataset"]

TRIES = 5
"""Of what the hub's client does not try again by itself."""
BACKOFF_SECONDS = 1.0
"""Before the second try, at most; doubles with every further one."""
PATIENCE_SECONDS = 60.0
"""No try begins later than this after the first."""
LONGEST_WAIT_SECONDS = 120.0
"""That a hub which is asked too often may ask for."""
TIMEOUT_SECONDS = 10.0

_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_RETRIED_BY_CLIENT = re.compile(r"/preupload/|\.git/info/lfs/|/xet-\w+-token/|/api/complete_multipart")
BAD_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
_ALLOW_HTTP = "VJEPA_ALLOW_HTTP"

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """What to fetch from the hub, and how; the arguments of `VJEPA.from_pretrained`."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | None = field(default=None, repr=False)
    local_files_only: bool = False
    force_download: bool = False


def hub_api(token: str | None) -> HfApi:
    """Return a client of the configured hub (`HF_ENDPOINT`) that gives our name and version.

    Raises:
        ConfigError: the hub would be reached without encryption, over a network.
    """
    from huggingface_hub import HfApi, constants

    is_here = is_loopback(constants.ENDPOINT)
    is_encrypted = urlsplit(constants.ENDPOINT).scheme == "https"
    if not (is_encrypted or is_here or is_offline() or os.environ.get(_ALLOW_HTTP) == "1"):
        raise ConfigError(
            f"HF_ENDPOINT={constants.ENDPOINT!r} is not encrypted: models could be replaced and your token read on the "
            f"way; use https://, or set {_ALLOW_HTTP}=1 if you trust the network"
        )
    _keep_in_cache()
    return HfApi(library_name="vjepa-sdk", library_version=__version__, token=token)


def _keep_in_cache() -> None:
    """Make the hub's client refuse answers that would lead it out of its cache.

    It makes file names of the etag and commit that a server states, unchecked (as of 2.4); a server could state
    `../../.bashrc`. Its own hooks do not keep ours: `set_client_factory` would replace what the user set, for a proxy
    say, and hooks on `get_session()` are gone once a broken connection makes it start another session.
    """
    from huggingface_hub import errors, file_download

    ask = file_download.get_hf_file_metadata
    if hasattr(ask, "is_guarded"):
        return

    @functools.wraps(ask)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            metadata = ask(*args, **kwargs)
            stated = (metadata.etag, metadata.commit_hash)
        except errors.RemoteEntryNotFoundError as error:
            _check_file_names(error.response.headers.get("X-Repo-Commit"))
            raise
        _check_file_names(*stated)
        return metadata

    checked.is_guarded = True  # type: ignore[attr-defined]
    file_download.get_hf_file_metadata = checked


def _check_file_names(*stated: str | None) -> None:
    from huggingface_hub.errors import FileMetadataError

    for name in stated:
        if name is not None and not re.fullmatch(r"[\w-]{1,128}", name, re.ASCII):
            raise FileMetadataError(f"{name!r} is no etag or commit")


def is_repository_id(text: str) -> bool:
    """Whether a text can be the id of a repository, such as `owner/name`."""
    pattern = r"[\w.-]{1,96}/[\w.-]{1,96}"
    return bool(re.fullmatch(pattern, text, re.ASCII)) and not any(part in text for part in ("--", ".."))


def check_repository_id(text: str) -> None:
    """Raise ConfigError unless a text can be the id of a repository."""
    if not is_repository_id(text):
        raise ConfigError(f"{text!r} must be a hub id such as owner/name")


def is_offline() -> bool:
    """Whether the environment (`HF_HUB_OFFLINE`) keeps us off the network."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, where nobody listens in."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def patiently(call: Callable[[], _Result], *, what: str, tries: int = TRIES, is_plain: bool = False) -> _Result:
    """Call until it succeeds, while what fails is likely to pass: a busy hub, a broken connection.

    Args:
        what: named in messages.
        is_plain: the requests are our own; the hub's client tries some of its again by itself.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    for attempt in range(1, tries):
        try:
            return call()
        except Exception as error:
            wait = _wait_seconds(error, attempt, is_plain=is_plain)
            if wait is None or (_told_seconds(error) is None and time.monotonic() + wait > give_up_at):
                raise
            # where there is no network one line says so, in the end
            level = logging.INFO if _is_unreached(error) else logging.WARNING
            logger.log(level, "%s: %s; trying again in %.1f s", what, reason_of(error), wait)
        time.sleep(wait)
    return call()


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    error = _root(error)
    if status_of(error) is not None:
        return status_of(error) in _PASSING_STATUS
    if BAD_CERTIFICATE in str(error):
        return False
    return isinstance(error, _httpx().TransportError) and not proxy_failed(error)


def proxy_failed(error: BaseException) -> bool:
    """Whether it is a proxy that failed."""
    return isinstance(error, _httpx().ProxyError)


def reason_of(error: BaseException) -> str:
    """Return one line on what went wrong, without the request's long address."""
    error = _root(error)
    status = status_of(error)
    text = str(getattr(error, "server_message", None) or ("" if status else error))
    return " ".join(f"{f'HTTP {status}' if status else type(error).__name__} {text}".split())[:300]


@contextmanager
def hub_errors(repository: str, *, revision: str | None = None, is_upload: bool = False) -> Iterator[None]:
    """Turn whatever the hub's client raises in the block into one of our errors, with the remedy."""
    try:
        with _as_quiet_as_we_are():
            yield
    except VJEPAError:
        raise
    except Exception as error:  # a server may answer anything, and its client then raises KeyError, AssertionError, ...
        raise _explained(_root(error), repository, revision, is_upload) from error


@contextmanager
def _as_quiet_as_we_are() -> Iterator[None]:
    """Keep the client's bars and remarks off stderr while our own warnings are: with `-q`."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if logger.isEnabledFor(logging.WARNING):
        yield
        return
    theirs = logging.getLogger("huggingface_hub")
    level = theirs.level
    # a user who set HF_HUB_DISABLE_PROGRESS_BARS has decided already
    has_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    theirs.setLevel(logging.ERROR)
    if has_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        theirs.setLevel(level)
        if has_bars:
            enable_progress_bars()


def _explained(error: BaseException, repository: str, revision: str | None, is_upload: bool) -> VJEPAError:
    from huggingface_hub import constants, errors

    status, page = status_of(error), f"{constants.ENDPOINT}/{repository}"
    login = "pass token= or run `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(f"{repository}: is gated; accept its terms at {page}, then {login}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{repository}: has no revision {revision!r}; pass a branch, tag or commit")
    if status == 401 and "Invalid credentials" in str(error):
        return ConfigError(f"{repository}: the hub does not accept the token (401); renew it, then {login}")
    if is_upload and status == 401:
        return ConfigError(f"{repository}: the hub does not know who pushes (401); {login}, with the right to write")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return ConfigError(
            f"{repository}: no such repository on the hub, or a private one{_nearest(repository)}; {login}"
        )
    if status == 403:
        right = "write" if is_upload else "read"
        return ConfigError(f"{repository}: the token has no right to {right} it (403); ask its owner, or {login}")
    if status == 412:
        return WriteError(f"{repository}: was changed by somebody else meanwhile; nothing was pushed; push again")
    if status == 429:
        told = _told_seconds(error)
        wait = f"wait {told:.0f} s and" if told is not None else "wait a while and"
        return WeightsError(f"{repository}: the hub is asked too often (429); {wait} try again")
    if BAD_CERTIFICATE in str(error):
        return WeightsError(
            f"{repository}: {constants.ENDPOINT} shows a certificate that is not trusted; if your network has its "
            "own, set SSL_CERT_FILE to it"
        )
    if proxy_failed(error):
        return WeightsError(f"{repository}: the proxy failed ({reason_of(error)}); check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(f"{repository}: the disk of the hub's cache is full; free some space or set HF_HOME")
    if isinstance(error, OSError) and error.filename is not None and not is_upload:
        return WriteError(
            f"{repository}: the hub's cache cannot be used ({error.strerror}: {error.filename}); pass cache_dir= or "
            "set HF_HOME to a directory that you may write to"
        )
    if is_passing(error) or isinstance(error, errors.OfflineModeIsEnabled):
        remedy = "check the network, or use a copy: `vjepa` takes a directory, and HF_HUB_OFFLINE=1 the cache"
        return WeightsError(
            f"{repository}: the hub at {constants.ENDPOINT} cannot be reached ({reason_of(error)}); {remedy}"
        )
    if isinstance(error, errors.FileMetadataError) or (
        status is None and not isinstance(error, OSError | RuntimeError)
    ):
        return WeightsError(
            f"{repository}: {constants.ENDPOINT} does not answer like a hub ({reason_of(error)}); check HF_ENDPOINT, "
            "and that no proxy or login page stands in between"
        )
    doing = "pushed" if is_upload else "fetched"
    return WeightsError(f"{repository}: cannot be {doing} ({reason_of(error)}); try again")


def _nearest(repository: str) -> str:
    known = [model.source for model in KNOWN_MODELS.values() if model.is_on_hub]
    near = difflib.get_close_matches(repository, known, n=1, cutoff=0.8)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != repository else ""


def _root(error: BaseException) -> BaseException:
    """Return the answer or broken connection that an error of the client was made from, if there is one."""
    from huggingface_hub.errors import FileMetadataError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _httpx().HTTPError | FileMetadataError):
            return cause
        cause = cause.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an answer that was an error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _wait_seconds(error: BaseException, attempt: int, *, is_plain: bool) -> float | None:
    """Return how long to wait after a failed try, None if trying again is no use."""
    if not is_passing(error) or (not is_plain and _was_retried(error)):
        return None
    told = _told_seconds(error)
    if told is not None:
        return told if told <= LONGEST_WAIT_SECONDS else None
    # the whole range, so that many clients do not come back at once
    return random.uniform(0, BACKOFF_SECONDS * 2 ** (attempt - 1))


def _is_unreached(error: BaseException) -> bool:
    return isinstance(_root(error), _httpx().ConnectError | _httpx().ConnectTimeout)


def _was_retried(error: BaseException) -> bool:
    """Whether the hub's client gave a request up after several tries of its own, which ours would multiply.

    huggingface_hub 2.0 to 2.4 try six times, over 23 s or for as long as a hub that is asked too often says: of a push
    what prepares and sends large files, of a download the HEAD, and the GET after 408, 429 and a broken connection.
    They try once, and leave it to us: requests for facts, for a repository or branch, the commit itself, the HEAD with
    `force_download`, and the GET of a file after 5xx and after a connection that was reset.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    failed, httpx = _root(error), _httpx()
    request = getattr(failed, "response", failed).request  # type: ignore[union-attr]
    if request.method == "HEAD":
        return isinstance(error, LocalEntryNotFoundError)
    if request.method == "GET" and "/api/" not in request.url.path:
        breaks = httpx.ConnectError | httpx.TimeoutException | httpx.RemoteProtocolError
        return status_of(failed) in (408, 429) or isinstance(failed, breaks)
    return request.method == "PUT" or bool(_RETRIED_BY_CLIENT.search(request.url.path))


def _told_seconds(error: BaseException) -> float | None:
    """Return the wait that a hub which is asked too often asks for."""
    error = _root(error)
    if status_of(error) != 429:
        return None
    headers = error.response.headers  # type: ignore[attr-defined]
    told = str(headers.get("Retry-After", "")).strip()
    if told.isdigit():
        return float(told)
    if date := email.utils.parsedate_tz(told):
        return max(0.0, email.utils.mktime_tz(date) - time.time())
    # as in: RateLimit: "api";r=0;t=55
    limit = re.search(r"\br=0\b.*\bt=(\d+)", str(headers.get("RateLimit", "")).replace(" ", ""))
    return float(limit[1]) if limit else None


def _httpx() -> ModuleType:
    """Return what the hub's client sends requests with; which package that is differs between its versions."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    module: ModuleType = httpx
    return module
