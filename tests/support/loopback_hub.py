"""A hub on the loopback interface that speaks what `huggingface_hub` speaks, and fails on demand.

    hub.url    API, git-like storage, uploads
    hub.cdn    another origin, where large files are redirected to, as on the real hub

Everything is in memory, except what the xet client stores in `cas`, a directory.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

OWNER_TOKEN = "hf_ownerownerownerownerownerownerowner"
LARGE_SUFFIXES = (".safetensors", ".npy", ".npz")


@dataclass(frozen=True)
class Blob:
    """One version of a file."""

    content: bytes
    """Empty where the xet store has it."""
    is_large: bool
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, content: bytes) -> Blob:
        """Return a file as the hub stores it under this name."""
        return cls(content, path.endswith(LARGE_SUFFIXES), len(content), hashlib.sha256(content).hexdigest())

    @property
    def git_oid(self) -> str:
        """What git names it: of a large file, the name of the pointer that stands for it."""
        stored = self.content
        if self.is_large:
            stored = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_oid


Tree = dict[str, Blob]


@dataclass
class Repository:
    """Commits by id, and where branches are."""

    is_private: bool = False
    is_gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: Tree, message: str) -> str:
        """Add a commit on a branch and return its id."""
        parent = self.branches.get(branch, "")
        listing = sorted((path, blob.git_oid) for path, blob in tree.items())
        oid = hashlib.sha1(repr((parent, message, listing, len(self.commits))).encode()).hexdigest()
        self.commits[oid], self.messages[oid], self.branches[branch] = tree, message, oid
        return oid

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch or id names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    origin: str
    """`hub` or `cdn`."""

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Response:
    """What the client gets."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Close the connection after so many bytes of the body."""
    seconds_per_chunk: float = 0.0
    """Send the body slowly, in 64 chunks."""


@dataclass
class _Fault:
    method: str
    path: str
    response: Response
    answer: Callable[[Response], Response] | None
    times: int
    skip: int


class LoopbackHub:
    """The server; `with LoopbackHub(directory) as hub`."""

    def __init__(self, cas: Path) -> None:
        self.cas = cas
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        """Uploaded large files by sha256, before a commit names them."""
        self.xet_hashes: dict[str, str] = {}
        self.tokens = {OWNER_TOKEN: "me"}
        self.requests: list[Request] = []
        self._faults: list[_Fault] = []
        self._lock = threading.RLock()
        self._servers: list[ThreadingHTTPServer] = []
        self.serves_xet = False
        self.plain: dict[str, bytes] = {}
        """Files of a plain server, by path."""

    def __enter__(self) -> LoopbackHub:
        for origin in ("hub", "cdn"):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, origin))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            self._servers.append(server)
        hub, cdn = self._servers
        # older clients take another port of one host for the same place
        self.url, self.cdn = f"http://127.0.0.1:{hub.server_port}", f"http://localhost:{cdn.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: Mapping[str, bytes], *, kind: str = "model", branch: str = "main") -> Repository:
        """Put files into a repository as one commit; it is made if it is not there."""
        repository = self.repositories.setdefault((kind, name), Repository())
        tree = {path: Blob.of(path, content) for path, content in files.items()}
        repository.commit(branch, {**repository.commits.get(repository.branches.get(branch, ""), {}), **tree}, "added")
        return repository

    def add_directory(self, name: str, directory: Path, *, kind: str = "model") -> Repository:
        """Put a directory's files into a repository."""
        return self.add(name, {p.name: p.read_bytes() for p in sorted(directory.iterdir()) if p.is_file()}, kind=kind)

    def publish(self, path: str, content: bytes) -> str:
        """Put a file on a plain server, as publishers without a hub do, and return its address."""
        self.plain[f"/{path}"] = content
        return f"{self.url}/{path}"

    def fail(
        self, path: str, *, method: str = "GET", times: int = 1, skip: int = 0,
        answer: Callable[[Response], Response] | None = None, **response: object,
    ) -> None:  # fmt: skip
        """Answer the next requests whose path matches a pattern otherwise, and do not do what they ask for.

        Args:
            answer: makes the answer from the right one, after what was asked for is done; instead of `response`.
            skip: matching requests that pass first.
        """
        self._faults.append(_Fault(method, path, Response(**response), answer, times, skip))  # type: ignore[arg-type]

    def recover(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def requested(self, path: str, *, method: str = "GET", origin: str | None = None) -> list[Request]:
        """Return the requests whose path matches a pattern."""
        with self._lock:
            return [
                r for r in self.requests
                if r.method == method and re.search(path, r.path) and origin in (None, r.origin)
            ]  # fmt: skip

    def respond(self, request: Request) -> Response:
        """Answer one request, faults included."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.method == request.method and fault.times and re.search(fault.path, request.path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault.answer(self._serve(request)) if fault.answer else fault.response
            return self._serve(request)

    def _serve(self, request: Request) -> Response:
        return self._serve_large(request) if request.origin == "cdn" else self._route(request)

    def _serve_plain(self, request: Request) -> Response:
        """Answer like S3: the rest of a file if it is still the one that was begun, else all of it."""
        content = self.plain[request.path]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if request.headers.get("if-range", etag) != etag:
            return Response(200, content, headers)
        return _ranged(request, content, headers)

    def _route(self, request: Request) -> Response:
        if request.path in self.plain:
            return self._serve_plain(request)
        for method, pattern, action in _ROUTES:
            if request.method == method and (match := re.fullmatch(pattern, request.path)):
                return action(self, request, *(unquote(group or "") for group in match.groups()))
        return Response(404, b"no such route")

    def _serve_large(self, request: Request) -> Response:
        sha256 = request.path.rpartition("/")[2]
        if request.method == "PUT":
            self.large[sha256] = request.body
            return Response()
        content = self._stored().get(sha256)
        return Response(404) if content is None else _ranged(request, content, {"ETag": f'"{sha256}"'})

    def _stored(self) -> dict[str, bytes]:
        """Return all large files by sha256, committed or only uploaded."""
        trees = (tree for repository in self.repositories.values() for tree in repository.commits.values())
        return self.large | {blob.sha256: blob.content for tree in trees for blob in tree.values() if blob.is_large}

    def _find(self, request: Request, kind: str, name: str) -> Repository | Response:
        repository = self.repositories.get((kind, name))
        if request.token and request.token not in self.tokens:
            return Response(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repository is None or (repository.is_private and not request.token):
            return Response(404 if request.token else 401, b"", {"X-Error-Code": "RepoNotFound"})
        return repository

    def _info(self, request: Request, kind: str, name: str, revision: str = "main") -> Response:
        repository = self._find(request, kind, name)
        if isinstance(repository, Response):
            return repository
        oid = repository.resolve(revision)
        if oid is None:
            return Response(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for path, blob in repository.commits[oid].items():
            entry: dict[str, object] = {"rfilename": path}
            if "blobs=" in request.query:
                entry |= {"size": blob.size, "blobId": blob.git_oid}
                if blob.is_large:
                    entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
            siblings.append(entry)
        return _json({"id": name, "sha": oid, "private": repository.is_private, "siblings": siblings, "gated": False})

    def _tree(self, request: Request, kind: str, name: str, revision: str) -> Response:
        repository = self._find(request, kind, name)
        if isinstance(repository, Response):
            return repository
        entries = []
        for path, blob in repository.commits[repository.resolve(revision) or ""].items():
            entry: dict[str, object] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
            if blob.is_large:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
            entries.append(entry)
        return _json(entries)

    def _resolve_file(self, request: Request, prefix: str, name: str, revision: str, path: str) -> Response:
        repository = self._find(request, "dataset" if prefix else "model", name)
        if isinstance(repository, Response):
            return repository
        if repository.is_gated:
            return Response(403, b"", {"X-Error-Code": "GatedRepo"})
        oid = repository.resolve(revision)
        if oid is None:
            return Response(404, b"", {"X-Error-Code": "RevisionNotFound"})
        blob = repository.commits[oid].get(path)
        if blob is None:
            return Response(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.etag}"'}
        if not blob.is_large:
            return _ranged(request, blob.content, headers)
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if self.serves_xet and (xet := self._xet_hash(blob.sha256)):
            kind = "datasets" if prefix else "models"
            headers |= {
                "X-Xet-Hash": xet,
                "Link": f'<{self.url}/api/{kind}/{name}/xet-read-token/{oid}>; rel="xet-auth"',
            }
        return Response(302, b"", {**headers, "Location": f"{self.cdn}/large/{blob.sha256}"})

    def _create(self, request: Request) -> Response:
        data = json.loads(request.body)
        if self.tokens.get(request.token) != data.get("organization"):
            return Response(403 if request.token else 401, b"{}", {"X-Error-Message": "no right to create it"})
        name, kind = f"{data['organization']}/{data['name']}", data.get("type", "model")
        is_new = (kind, name) not in self.repositories
        if is_new:
            self.repositories[kind, name] = Repository(is_private=data.get("visibility") == "private")
            self.repositories[kind, name].commit(
                "main", {".gitattributes": Blob.of(".gitattributes", b"")}, "initial commit"
            )
        return replace(_json({"url": f"{self.url}/{name}", "name": name, "id": name}), status=200 if is_new else 409)

    def _writable(self, request: Request, kind: str, name: str) -> Repository | Response:
        repository = self._find(request, kind, name)
        if isinstance(repository, Response):
            return repository
        is_owner = self.tokens.get(request.token) == name.split("/")[0]
        if is_owner or ("create_pr=1" in request.query and request.token):
            return repository
        return Response(403 if request.token else 401, b"{}", {"X-Error-Message": "no write access"})

    def _branch(self, request: Request, kind: str, name: str, branch: str) -> Response:
        repository = self._writable(request, kind, name)
        if isinstance(repository, Response):
            return repository
        if branch in repository.branches:
            return Response(409, b"{}")
        repository.branches[branch] = repository.branches["main"]
        return _json({})

    def _preupload(self, request: Request, kind: str, name: str, revision: str) -> Response:
        repository = self._writable(request, kind, name)
        if isinstance(repository, Response):
            return repository
        tree = repository.commits[repository.resolve(revision) or ""]
        files = []
        for entry in json.loads(request.body)["files"]:
            path = entry["path"]
            is_large = path.endswith(LARGE_SUFFIXES)
            there = tree.get(path)
            files.append(
                {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False,
                 "oid": there.etag if there and there.is_large == is_large else None}
            )  # fmt: skip
        return _json({"files": files})

    def _large_batch(self, request: Request, prefix: str, name: str) -> Response:
        repository = self._find(request, "dataset" if prefix else "model", name)
        if isinstance(repository, Response):
            return repository
        objects = []
        for entry in json.loads(request.body)["objects"]:
            if entry["oid"] not in self._stored():
                entry = {**entry, "actions": {"upload": {"href": f"{self.cdn}/large/{entry['oid']}"}}}
            objects.append(entry)
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, request: Request, kind: str, name: str, revision: str) -> Response:
        repository = self._writable(request, kind, name)
        if isinstance(repository, Response):
            return repository
        tree, header = dict(repository.commits[repository.resolve(revision) or ""]), {}
        for line in map(json.loads, request.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                header = value
            elif key == "file":
                tree[value["path"]] = Blob.of("", base64.b64decode(value["content"]))
            elif key == "lfsFile":
                content = self._stored().get(value["oid"], b"")
                if not content and not self._xet_hash(value["oid"]):
                    return Response(400, json.dumps({"error": f"{value['oid']} was not uploaded"}).encode())
                tree[value["path"]] = Blob(content, True, value["size"], value["oid"])
            elif key == "deletedFile":
                del tree[value["path"]]
        if header.get("parentCommit") not in (None, repository.resolve(revision)):
            return Response(412, b'{"error": "a commit has happened since"}')
        branch = revision
        if "create_pr=1" in request.query:
            branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repository.branches)}"
            repository.branches[branch] = repository.branches[revision]
        oid = repository.commit(branch, tree, header["summary"])
        answer = {"commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}", "success": True}
        if branch != revision:
            answer["pullRequestUrl"] = f"{self.url}/{name}/discussions/{branch.rpartition('/')[2]}"
        return _json(answer)

    def _xet_token(self, request: Request, kind: str, name: str, access: str, revision: str) -> Response:
        found = (self._writable if access == "write" else self._find)(request, kind, name)
        if isinstance(found, Response):
            return found
        facts = {"casUrl": f"local://{self.cas}", "exp": 4102444800, "accessToken": "xet"}
        headers = {
            "X-Xet-Cas-Url": facts["casUrl"],
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": "4102444800",
        }
        return _json(facts, {key: str(value) for key, value in headers.items()})

    def _xet_hash(self, sha256: str) -> str | None:
        if sha256 not in self.xet_hashes:
            self.xet_hashes |= xet_hashes(self.cas)
        return self.xet_hashes.get(sha256)


def xet_hashes(cas: Path) -> dict[str, str]:
    """Return the xet hash of each sha256 that the xet client stored, from its shards of metadata.

    A shard has a header of 48 bytes and then, for each file, a header of 48 bytes (hash, flags, number of entries), its
    entries of 48 bytes, if flagged as many of verification, and if flagged one that begins with the sha256.
    """
    found = {}
    for shard in cas.rglob("*.mdb"):
        data, at = shard.read_bytes(), 48
        while data[at : at + 32] not in (b"", b"\xff" * 32):
            xet, flags = _quads(data[at : at + 32]), int.from_bytes(data[at + 32 : at + 36], "little")
            entries = int.from_bytes(data[at + 36 : at + 40], "little")
            at += 48 * (1 + entries * (2 if flags & 0x80000000 else 1))
            if flags & 0x40000000:
                found[_quads(data[at : at + 32])] = xet
                at += 48
    return found


def _quads(raw: bytes) -> str:
    return "".join(f"{int.from_bytes(raw[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))


def _ranged(request: Request, content: bytes, headers: Mapping[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if not wanted:
        return Response(200, content, headers)
    start = int(wanted[1])
    span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Response(206, content[start:], {**headers, **span})


def _json(data: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(200, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


_API = r"/api/(model|dataset)s/([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("POST", "/api/repos/create", LoopbackHub._create),
    ("POST", "/api/validate-yaml", lambda hub, request: _json({"errors": [], "warnings": []})),
    ("GET", _API, LoopbackHub._info),
    ("GET", _API + r"/revision/([^/]+)", LoopbackHub._info),
    ("GET", _API + r"/tree/([^/]+)", LoopbackHub._tree),
    ("POST", _API + r"/branch/([^/]+)", LoopbackHub._branch),
    ("POST", _API + r"/preupload/([^/]+)", LoopbackHub._preupload),
    ("POST", _API + r"/commit/([^/]+)", LoopbackHub._commit),
    ("GET", _API + r"/xet-(read|write)-token/([^/]+)", LoopbackHub._xet_token),
    ("POST", r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", LoopbackHub._large_batch),
    ("HEAD", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", LoopbackHub._resolve_file),
    ("GET", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", LoopbackHub._resolve_file),
    ("GET", "/", lambda hub, request: Response(200, b"a hub")),
    ("HEAD", "/", lambda hub, request: Response(200, b"a hub")),
]


def _handler(hub: LoopbackHub, origin: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            response = hub.respond(Request(self.command, parts.path, parts.query, headers, body, origin))
            self.send_response(response.status)
            stated = {"Content-Length": str(len(response.body)), **response.headers}
            for key, value in stated.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
                    self._send(response)

        def _send(self, response: Response) -> None:
            cut = response.body[: response.drop_after]
            step = max(1, len(cut) // 64) if response.seconds_per_chunk else max(1, len(cut))
            for start in range(0, len(cut), step):
                self.wfile.write(cut[start : start + step])
                time.sleep(response.seconds_per_chunk)
            if response.drop_after is not None:
                self.wfile.flush()
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = _do

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Clock:
    """A clock on which waiting takes no time; it notes the waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock() -> Clock:
    """Return the clock that the hub's client goes by in tests with a hub."""
    return Clock()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[LoopbackHub]:
    """Run a hub on the loopback interface, and make it the one that the client in this process knows."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from vjepa_sdk.hub import client as hub_client

    with LoopbackHub(tmp_path / "cas") as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,  # else the first request of a process asks for a list of agents
            "HF_HUB_DISABLE_XET": True,  # the test of xet has a process of its own
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for module in (_http, file_download, hub_client):
            monkeypatch.setattr(module, "time", clock)
        yield server
