"""Fetch one large file from a plain server, over as many connections and processes as it takes.

What has arrived lies in `NAME.part`, and `NAME.part.json` says of what it is a part: the server's validator (ETag or
Last-Modified) and the size. A later request asks for the rest with `Range` and `If-Range`; a server whose file has
changed meanwhile sends it whole, and so it is begun anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from .._version import __version__
from ..errors import ConfigError, VJEPAError, WeightsError, WriteError
from ..runtime.files import sync_directory, sync_file, write_json
from ..runtime.progress import progress_bar
from .client import (
    BAD_CERTIFICATE,
    TIMEOUT_SECONDS,
    TRIES,
    is_loopback,
    is_passing,
    patiently,
    proxy_failed,
    reason_of,
    status_of,
)

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_REDIRECTS = 5
_CHECKPOINTS = (b"PK\x03\x04", b"\x80\x02")
"""How `torch.save` begins a file: a zip archive, or a pickle of protocol 2."""


@dataclass(frozen=True)
class Download:
    """A file to fetch."""

    what: str
    """Named in messages."""
    url: str
    path: Path
    """Where it goes; it appears there whole."""
    num_bytes: int = 0
    """That it must have; 0: not known."""

    @property
    def part(self) -> Path:
        """Where what has arrived is."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def arrived_bytes(self) -> int:
        """How much of it can be gone on from."""
        return _Part.found(self).num_bytes

    def discard_part(self) -> None:
        """Delete what has arrived of a file that is not whole, or is no longer needed."""
        for path in (self.part, _facts_path(self)):
            path.unlink(missing_ok=True)

    def fetch(self, check_room: Callable[[int], None]) -> None:
        """Fetch it, going on where an earlier try ended.

        Args:
            check_room: called with the bytes that are still to come, before the first of them is written; raises if
                they do not fit.

        Raises:
            ConfigError: the address is not encrypted.
            WeightsError: the server cannot be reached, sends the caller to another host, or sends something else than
                a checkpoint of the size that is expected.
            WriteError: the disk is full or cannot be written.
        """
        check_address(self.url)
        with _errors(self):
            restarts = 0
            while True:
                before = self.arrived_bytes
                try:
                    patiently(lambda: _receive(self, check_room), what=self.what, is_plain=True)
                    break
                except Exception as error:
                    now = self.arrived_bytes
                    # a connection that breaks every few gigabytes still gets there
                    restarts += now < before
                    if not is_passing(error) or now == before or restarts >= TRIES:
                        raise
                    logger.warning("%s: %s; going on after %s bytes", self.what, reason_of(error), f"{now:,}")
            sync_file(self.part)
            os.replace(self.part, self.path)
            sync_directory(self.path.parent)
            _facts_path(self).unlink(missing_ok=True)


def check_address(url: str) -> None:
    """Raise ConfigError unless an address is encrypted, or of this machine."""
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise ConfigError(f"{url}: is not encrypted, so what it sends could be replaced on the way; pass https://")


@dataclass(frozen=True)
class _Part:
    """What has arrived, and of what it is a part."""

    num_bytes: int = 0
    total: int = 0
    validator: str = ""

    @classmethod
    def found(cls, download: Download) -> _Part:
        """Return the part on disk; an empty one if there is none that could be continued."""
        try:
            facts: dict[str, Any] = json.loads(_facts_path(download).read_bytes())
            size, total, validator = download.part.stat().st_size, facts["total"], facts["validator"]
        except (OSError, ValueError, LookupError, TypeError):
            return cls()
        is_ours = facts.get("url") == download.url and type(total) is int and isinstance(validator, str)
        return cls(size, total, validator) if is_ours and validator and 0 < size <= total else cls()

    @property
    def is_whole(self) -> bool:
        return 0 < self.num_bytes == self.total


def _facts_path(download: Download) -> Path:
    return download.part.with_name(f"{download.part.name}.json")


def _receive(download: Download, check_room: Callable[[int], None]) -> None:
    """Send one request for what is missing, and keep what comes."""
    part = _Part.found(download)
    if part.is_whole:
        return
    with _answer(download, part) as response:
        _check_kind(download, response)
        total, is_rest = _extent(download, response, part)
        have = part.num_bytes if is_rest else 0
        if not have:
            download.part.unlink(missing_ok=True)
        check_room(total - have)
        if not have:
            validator = _validator(response)
            write_json(_facts_path(download), {"url": download.url, "total": total, "validator": validator})
        with (
            open(download.part, "ab") as file,
            progress_bar(download.what, total=total, done=have, show=_shows_bar(), unit="B") as bar,
        ):
            for chunk in response.iter_raw(_CHUNK_BYTES):
                if have == 0 and not chunk.startswith(_CHECKPOINTS):
                    raise WeightsError(f"{download.what}: {download.url} sends {_described(chunk)}; {_IN_BETWEEN}")
                have += len(chunk)
                file.write(chunk)
                file.flush()
                bar.advance(by=len(chunk))
    if have != total:
        download.discard_part()
        raise WeightsError(f"{download.what}: {download.url} sent {have:,} of {total:,} bytes; try again later")


_IN_BETWEEN = "a proxy or login page may stand in between, or the file was moved; look at the address in a browser"


def _described(chunk: bytes) -> str:
    is_page = chunk.lstrip().startswith(b"<")
    return "an HTML page, not a checkpoint" if is_page else "something else than a checkpoint that torch.save wrote"


@contextmanager
def _answer(download: Download, part: _Part) -> Iterator[Any]:
    """Ask for the file from where the part ends, following redirects as long as they stay on the host."""
    from huggingface_hub import get_session

    # no token: this is not the hub
    headers = {"User-Agent": f"vjepa-sdk/{__version__}", "Accept-Encoding": "identity"}
    if part.num_bytes:
        headers |= {"Range": f"bytes={part.num_bytes}-", "If-Range": part.validator}
    url = download.url
    for _ in range(_REDIRECTS):
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=False, timeout=TIMEOUT_SECONDS
        ) as response:
            if not response.has_redirect_location:
                if response.status_code != 416:  # nothing is missing, or the part is of something else
                    response.raise_for_status()
                yield response
                return
            target = urljoin(url, response.headers["location"])
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            raise WeightsError(
                f"{download.what}: {url} sends us to another host, {urlsplit(target).scheme}://"
                f"{urlsplit(target).netloc}, which is not followed; {_IN_BETWEEN}"
            )
        url = target
    raise WeightsError(f"{download.what}: {download.url} redirects in a circle; try again later")


def _check_kind(download: Download, response: Any) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == 416:  # of which the kind is that of an error
        return
    if kind.startswith("text/") or kind in ("application/json", "application/xhtml+xml"):
        page = "an HTML page" if "html" in kind else f"{kind[:50]}"
        raise WeightsError(f"{download.what}: {download.url} sends {page}, not a checkpoint; {_IN_BETWEEN}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise WeightsError(f"{download.what}: {download.url} sends it compressed, unasked; {_IN_BETWEEN}")


def _extent(download: Download, response: Any, part: _Part) -> tuple[int, bool]:
    """Return the size of the whole file, and whether the answer begins where the part ends."""
    stated = response.headers.get("content-range", "")
    if response.status_code in (206, 416):
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", stated)
        span = tuple(map(int, match.groups())) if match else ()
        if response.status_code == 416 or span != (part.num_bytes, part.total - 1, part.total):
            download.discard_part()
            raise WeightsError(
                f"{download.what}: {download.url} answers a request for the rest with {stated[:80]!r} "
                f"({response.status_code}), so what had arrived was deleted; run again"
            )
        return part.total, True
    length = response.headers.get("content-length", "")
    if not length.isdigit() or not int(length):
        raise WeightsError(f"{download.what}: {download.url} does not say how long it is; {_IN_BETWEEN}")
    if download.num_bytes and int(length) != download.num_bytes:
        raise WeightsError(
            f"{download.what}: {download.url} has {int(length):,} bytes, expected {download.num_bytes:,}, which is "
            "known second-hand; the publisher may have replaced it: fetch it yourself, and run `vjepa convert` on it"
        )
    return int(length), False


def _validator(response: Any) -> str:
    """Return what tells this version of the file from others; weak ETags do not."""
    etag: str = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified", "")


def _shows_bar() -> bool | None:
    """Whether to show a bar: not with `-q`, nor where the hub's own are off; None leaves it to the terminal."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    return None if logger.isEnabledFor(logging.WARNING) and not are_progress_bars_disabled() else False


@contextmanager
def _errors(download: Download) -> Iterator[None]:
    """Turn whatever fails on the way into one of our errors, with the remedy."""
    try:
        yield
    except VJEPAError:
        raise
    except OSError as error:
        if status_of(error) is None and error.errno is not None:
            raise _disk_error(download, error) from error
        raise _explained(download, error) from error
    except Exception as error:  # a server may answer anything
        raise _explained(download, error) from error


def _disk_error(download: Download, error: OSError) -> WriteError:
    place = download.path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(
            f"{download.what}: the disk of {place} is full; what has arrived is kept: free some space and run again"
        )
    return WriteError(
        f"{download.what}: {place} cannot be used ({error.strerror}); pass cache_dir= or set HF_HOME to a directory "
        "that you may write to"
    )


def _explained(download: Download, error: Exception) -> WeightsError:
    status, start = status_of(error), f"{download.what}: {download.url}"
    if status in (401, 403, 404, 410):
        return WeightsError(f"{start} is not there, or not for us ({status}); look for it at its publisher's page")
    if BAD_CERTIFICATE in str(error):
        return WeightsError(
            f"{start}: its certificate is not trusted; if your network has its own, set SSL_CERT_FILE to it"
        )
    if proxy_failed(error):
        return WeightsError(f"{start}: the proxy failed ({reason_of(error)}); check HTTPS_PROXY and NO_PROXY")
    kept = 0
    with contextlib.suppress(OSError):
        kept = download.arrived_bytes
    rest = f"{kept:,} bytes are kept: check the network and run again" if kept else "check the network and run again"
    if is_passing(error):
        return WeightsError(f"{start} cannot be reached ({reason_of(error)}); {rest}")
    return WeightsError(f"{start} cannot be fetched ({reason_of(error)}); {rest}")
