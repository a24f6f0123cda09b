"""Models come from the hub whole and as the hub states them, or not at all; whatever the network does."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import OWNER_TOKEN, Clock, LoopbackHub, Response
from tiny_models import save_tiny

import vjepa_sdk
from vjepa_sdk import VJEPA, Probe
from vjepa_sdk.config import registry
from vjepa_sdk.errors import ConfigError, WeightsError, WriteError
from vjepa_sdk.hub import cache as verified
from vjepa_sdk.hub import client as hub_client
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.hub.download import fetch
from vjepa_sdk.hub.locate import choose_model_files

NAME = "me/model"
WEIGHTS = "model.safetensors"
ROOT = Path(vjepa_sdk.__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def served(hub: LoopbackHub, model: Path) -> LoopbackHub:
    """A hub that has the model."""
    hub.add_directory(NAME, model)
    return hub


def get(name: str = NAME, *, known_sha256: dict[str, str] | None = None, **options: Any) -> Path:
    return fetch(name, HubOptions(**options), choose=choose_model_files, known_sha256=known_sha256).directory


def commit_of(hub: LoopbackHub, branch: str = "main") -> str:
    return hub.repositories["model", NAME].branches[branch]


def assert_same(directory: Path, model: Path) -> None:
    for name in ("config.json", WEIGHTS):
        assert (directory / name).read_bytes() == (model / name).read_bytes()


def assert_nothing_cached(cache: Path) -> None:
    assert not list(cache.rglob(WEIGHTS)) and not list(cache.rglob("verified/*"))
    assert not [path for path in cache.rglob("blobs/*") if path.is_file() and path.stat().st_size > 5000]


def test_a_model_is_loaded_from_the_hub_and_knows_its_commit(served: LoopbackHub, model: Path) -> None:
    loaded, local = VJEPA.from_pretrained(NAME, device="cpu"), VJEPA.from_pretrained(model, device="cpu")
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(loaded.forward_features(clip), local.forward_features(clip))
    assert loaded.provenance["repository"] == NAME
    assert loaded.provenance["commit"] == commit_of(served)


def test_only_configuration_and_weights_are_fetched(served: LoopbackHub) -> None:
    extra = {
        "modeling.py": b"x",
        "pytorch_model.bin": b"x",
        "other.safetensors": b"x",
        "sub/a.json": b"{}",
        "a.pkl": b"",
    }
    served.add(NAME, extra)
    assert {path.name for path in get().iterdir()} == {"config.json", WEIGHTS}
    asked = {request.path.rpartition("/")[2] for request in served.requested("/resolve/", method="HEAD")}
    assert asked == {"config.json", WEIGHTS}


def test_every_request_gives_our_name_and_version(served: LoopbackHub) -> None:
    get()
    agents = {request.headers["user-agent"].split(";")[0] for request in served.requested("", origin="hub")}
    assert agents == {f"vjepa-sdk/{vjepa_sdk.__version__}"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            b'{"model_type": "llama"}',
            "config.json: model_type='llama' must be one of vjepa2, ijepa; this is another kind",
        ),
        (
            b'{"model_type": "vjepa2", "auto_map": {}}',
            "config.json: auto_map={} asks for code from a repository, which",
        ),
        (b'{"architecture": "vit"}', "config.json: has neither format_version nor model_type"),
        (
            b'{"format_version": 1, "encoder_weights": "target", "model": {"depth": -1}}',
            "config.json: model.depth=-1 must",
        ),
    ],
)
def test_what_its_configuration_rules_out_has_no_weights_fetched(
    config: bytes, message: str, hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add("you/large", {"config.json": config, WEIGHTS: bytes(100_000), "tokenizer.json": b"{}" * 1000})
    with pytest.raises(ConfigError, match=f"^you/large: {message}"):
        VJEPA.from_pretrained("you/large", device="cpu")
    with pytest.raises(ConfigError, match="^you/large: config.json: "):
        Probe.from_pretrained("you/large", device="cpu")
    assert not hub.requested("safetensors", method="HEAD") and not hub.requested("/large/", origin="cdn")
    assert_nothing_cached(tmp_path / "cache")


def test_a_repository_without_a_model_is_told_before_anything_is_fetched(hub: LoopbackHub) -> None:
    hub.add("you/weights", {WEIGHTS: b"x" * 100})
    hub.add("you/other", {"config.json": b"{}", "unet.safetensors": b"x" * 100})
    with pytest.raises(ConfigError, match="^you/weights: holds no config.json; pass a repository that vjepa-sdk or"):
        get("you/weights")
    with pytest.raises(WeightsError, match="^you/other: holds no model.safetensors; run `vjepa convert`"):
        get("you/other")
    assert not hub.requested("/resolve/", method="HEAD")


def test_only_the_models_own_shards_are_fetched(hub: LoopbackHub) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = [*shards, "adapter.safetensors", "model.safetensors.index.json", "config.json"]
    hub.add(NAME, {name: b"{}" for name in names})
    assert {path.name for path in get().iterdir()} == {*names} - {"adapter.safetensors"}


def test_a_second_load_asks_the_hub_once_and_reads_no_weights(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    get()
    served.requests.clear()
    monkeypatch.setattr("hashlib.file_digest", None)
    get()
    assert [request.path for request in served.requests] == [f"/api/models/{NAME}/revision/main"]


def test_a_pinned_commit_in_the_cache_needs_no_network(served: LoopbackHub) -> None:
    commit = commit_of(served)
    get(revision=commit)
    served.requests.clear()
    get(revision=commit)
    assert not served.requests


def test_branches_and_commits_can_be_named(served: LoopbackHub) -> None:
    first = commit_of(served)
    served.add(NAME, {"config.json": b"{}"})
    served.add(NAME, {"config.json": b"[]", WEIGHTS: b"x"}, branch="draft")
    assert (get() / "config.json").read_bytes() == b"{}"
    assert get(revision=first).name == first
    assert (get(revision="draft", local_files_only=False) / "config.json").read_bytes() == b"[]"
    with pytest.raises(ConfigError, match="me/model: has no revision 'v9'; pass a branch, tag or commit"):
        get(revision="v9")
    with pytest.raises(ConfigError, match="revision='../x' must be a branch, tag or commit"):
        get(revision="../x")


def test_offline_and_local_files_only_use_the_cache(
    served: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="me/model: main is not in the cache .*; fetch it once with a network"):
        get(local_files_only=True)
    get()
    served.requests.clear()
    assert_same(get(local_files_only=True), model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(get(), model)
    assert not served.requests
    with pytest.raises(ConfigError, match="force_download=True needs the network"):
        get(force_download=True)


def test_a_cache_that_other_tools_filled_is_verified_offline(served: LoopbackHub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(NAME)
    get(local_files_only=True)
    shutil.rmtree(next((tmp_path / "cache").rglob("verified")))
    blob = (get(local_files_only=True) / WEIGHTS).resolve()
    shutil.rmtree(next((tmp_path / "cache").rglob("verified")))
    flip_a_byte(blob)
    with pytest.raises(WeightsError, match=r"has sha256 \w+ instead of sha256 \w+ and was deleted; fetch it"):
        get(local_files_only=True)
    assert not blob.exists()


def test_a_copy_that_lacks_a_shard_is_completed_with_a_network(
    served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download

    VJEPA.from_pretrained(model, device="cpu").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    served.add_directory("me/shards", tmp_path / "shards")
    shards = sorted(path.name for path in (tmp_path / "shards").glob("model-*"))
    for name in ("config.json", "model.safetensors.index.json", shards[0]):
        hf_hub_download("me/shards", name)
    with pytest.raises(WeightsError, match=f"lacks the shard {shards[1]}"):
        VJEPA.from_pretrained("me/shards", device="cpu", local_files_only=True)
    commit = served.repositories["model", "me/shards"].branches["main"]
    for revision in (None, commit):
        assert VJEPA.from_pretrained("me/shards", device="cpu", revision=revision).provenance["commit"] == commit
        shutil.rmtree(tmp_path / "cache" / "models--me--shards" / "verified")
        next((tmp_path / "cache").rglob(shards[2])).unlink()
        with pytest.raises(WeightsError, match=f"lacks the shard {shards[2]}"):
            VJEPA.from_pretrained("me/shards", device="cpu", local_files_only=True)


def test_what_was_found_offline_is_read_once(served: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(NAME)
    get(local_files_only=True)
    monkeypatch.setattr("hashlib.file_digest", None)
    get(local_files_only=True)


def test_an_incomplete_copy_is_not_used_offline(served: LoopbackHub) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(NAME, "config.json")
    with pytest.raises(WeightsError, match="me/model: its copy in .* is not complete; fetch it with a network"):
        get(local_files_only=True)


def test_without_a_network_the_cache_is_used_and_said_so(
    served: LoopbackHub, model: Path, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    get()
    served.fail("/api/", times=9, status=503)
    assert_same(get(), model)
    assert "(HTTP 503); check the network" in caplog.text
    assert f"using commit {commit_of(served)} from the cache" in caplog.text
    assert not clock.waits


def test_force_download_fetches_what_is_cached(served: LoopbackHub, model: Path) -> None:
    get()
    served.requests.clear()
    assert_same(get(force_download=True), model)
    assert len(served.requested("/large/", origin="cdn")) == 1


def test_no_network_and_no_copy_is_one_clear_error(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.__exit__()
    with pytest.raises(
        WeightsError, match=r"me/model: the hub at http://127.0.0.1:\d+ cannot be reached \(ConnectError"
    ):
        get()


def test_a_certificate_that_is_not_trusted_is_told_at_once(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx().ConnectError(
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
        )

    httpx = hub_client._httpx
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    with pytest.raises(WeightsError, match="shows a certificate that is not trusted; .* set SSL_CERT_FILE to it"):
        get()
    assert not clock.waits


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("path", ["^/api/", "/resolve/", "/large/"])
def test_a_busy_hub_is_asked_again(status: int, path: str, served: LoopbackHub, model: Path, clock: Clock) -> None:
    served.fail(path, status=status, times=2)
    assert_same(get(), model)
    if path != "/resolve/":  # small files: two faults for two files
        assert len(clock.waits) == 2


@pytest.mark.parametrize(
    ("method", "path", "answer", "tries"),
    [
        ("GET", "^/api/models/", {"status": 503}, hub_client.TRIES),
        ("HEAD", "/resolve/", {"status": 503}, 7),
        ("HEAD", "/resolve/", {"status": 429}, 7),
        ("GET", "/large/", {"status": 503}, hub_client.TRIES),
        ("GET", "/large/", {"status": 429}, 6),
        ("GET", "/large/", {"body": b"x", "headers": {"Content-Length": "2"}, "drop_after": 0}, 6),
    ],
)
def test_a_hub_that_stays_busy_is_given_up(
    method: str, path: str, answer: dict[str, Any], tries: int, served: LoopbackHub, clock: Clock
) -> None:
    served.fail(path, method=method, times=99, **answer)
    with pytest.raises(WeightsError, match=r"cannot be reached|asked too often"):
        get()
    assert len(served.requested(path, method=method)) == tries, "ours and those of the hub's client must not multiply"
    assert sum(clock.waits) < 30


def test_waits_double_at_most(served: LoopbackHub, clock: Clock) -> None:
    served.fail("^/api/", status=503, times=99)
    with pytest.raises(WeightsError, match=r"cannot be reached \(HTTP 503\)"):
        get()
    assert len(clock.waits) == hub_client.TRIES - 1
    assert all(wait <= 2**attempt for attempt, wait in enumerate(clock.waits))


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
    ],
)
def test_a_hub_asked_too_often_is_asked_again_when_it_says(
    headers: dict[str, str], wait: float | None, served: LoopbackHub, clock: Clock
) -> None:
    served.fail("^/api/", status=429, headers=headers)
    if wait is None:
        with pytest.raises(WeightsError, match=r"asked too often \(429\); wait \d+ s and try again"):
            get()
        assert not clock.waits
    else:
        get()
        assert clock.waits == [wait]


def test_a_date_to_ask_again_is_honoured(served: LoopbackHub, clock: Clock) -> None:
    from email.utils import formatdate

    served.fail("^/api/", status=429, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    get()
    assert clock.waits == [pytest.approx(30, abs=5)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 401, "headers": {"X-Error-Code": "RepoNotFound"}}, "no such repository on the hub, or a"),
        ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "no such repository on the hub, or a"),
        ({"status": 401}, "no such repository on the hub, or a private one; pass token= or run `hf auth login`"),
        (
            {"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}},
            r"the hub does not accept the token \(401\); renew it",
        ),
        ({"status": 403}, r"the token has no right to read it \(403\); ask its owner"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, r"is gated; accept its terms at http://\S+/model,"),
    ],
)  # fmt: skip
def test_no_right_and_no_repository_are_told_apart_and_not_retried(
    answer: dict[str, Any], message: str, served: LoopbackHub, clock: Clock
) -> None:
    served.fail("^/api/", times=9, **answer)
    with pytest.raises(ConfigError, match=f"me/model: {message}"):
        get()
    assert len(served.requests) == 1
    assert not clock.waits


def test_a_gated_file_of_a_visible_repository_is_told(served: LoopbackHub) -> None:
    served.repositories["model", NAME].is_gated = True
    with pytest.raises(ConfigError, match="is gated; accept its terms"):
        get()


def test_a_misspelt_repository_names_the_one_meant(hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'facebook/vjepa2-vitl-fpc64-256'\?"):
        get("facebook/vjepa2-vitl-fpc64-265")


def test_a_private_repository_opens_to_its_owners_token_alone(served: LoopbackHub, model: Path) -> None:
    served.repositories["model", NAME].is_private = True
    with pytest.raises(ConfigError, match="or a private one"):
        get()
    assert_same(get(token=OWNER_TOKEN), model)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(served: LoopbackHub) -> None:
    get(token=OWNER_TOKEN)
    elsewhere = served.requested("", origin="cdn")
    assert elsewhere and not any("authorization" in request.headers for request in elsewhere)
    assert all(request.token == OWNER_TOKEN for request in served.requested("", origin="hub"))


@pytest.mark.parametrize(("method", "path"), [("GET", "^/api/"), ("HEAD", "/resolve/"), ("GET", "/resolve/")])
def test_a_redirect_of_any_request_takes_no_token_along(method: str, path: str, served: LoopbackHub) -> None:
    served.fail(path, method=method, times=9, status=302, headers={"Location": f"{served.cdn}/elsewhere"})
    with pytest.raises((ConfigError, WeightsError)):
        get(token=OWNER_TOKEN)
    followed = [request for m in ("GET", "HEAD") for request in served.requested("", method=m, origin="cdn")]
    assert not any("authorization" in request.headers for request in followed)
    assert followed or method == "HEAD"  # the client does not follow that one


@pytest.mark.parametrize("is_quiet", [False, True])
def test_the_clients_bars_are_off_while_our_warnings_are(is_quiet: bool, served: LoopbackHub) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    seen = []
    served.fail("/large/", answer=lambda response: (seen.append(are_progress_bars_disabled()), response)[1])
    logging.getLogger("vjepa_sdk").setLevel(logging.ERROR if is_quiet else logging.WARNING)
    get()
    assert seen == [is_quiet]
    assert not are_progress_bars_disabled()


def drop_points(size: int, count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(size), count)


@pytest.mark.parametrize("count", [20])
def test_a_connection_dropped_at_random_bytes_gives_the_same_file(
    count: int, served: LoopbackHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # or all that came would be dropped
    size = (model / WEIGHTS).stat().st_size
    for number, point in enumerate(drop_points(size, count, seed=0)):
        served.fail("/large/", answer=lambda response, point=point: _cut(response, point))
        assert_same(get(cache_dir=tmp_path / str(number)), model)
        _, again = served.requested("/large/", origin="cdn")
        assert again.headers.get("range") == f"bytes={point // 1000 * 1000}-"
        served.requests.clear()


def test_a_connection_that_stalls_is_resumed(served: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    stalled = lambda response: Response(response.status, response.body, response.headers, seconds_per_chunk=5)  # noqa: E731
    served.fail("/large/", answer=stalled)
    assert_same(get(), model)
    assert served.requested("/large/", origin="cdn")[1].headers["range"].startswith("bytes=")


def _cut(response: Response, at: int) -> Response:
    return Response(response.status, response.body, response.headers, drop_after=at)


def _tampered(response: Response) -> Response:
    body = bytearray(response.body)
    body[len(body) // 2] ^= 1
    return Response(response.status, bytes(body), response.headers)


def test_one_forged_answer_is_replaced(served: LoopbackHub, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    served.fail("/large/", answer=_tampered)
    assert_same(get(), model)
    assert "and was deleted; the hub, or something on the way to it, is faulty" in caplog.text


@pytest.mark.parametrize("path", ["/large/", "/resolve/.*/config.json"])
def test_tampering_of_the_same_size_is_refused_with_both_digests(
    path: str, served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    served.fail(path, answer=_tampered, times=2)
    kind = "sha256" if path == "/large/" else "git-sha1"
    with pytest.raises(WeightsError, match=rf"me/model: \S+ has {kind} \w+, must have {kind} \w+, and was deleted"):
        get()
    assert_nothing_cached(tmp_path / "cache")
    assert_same(get(), model)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_does_not_end_is_not_written_to_the_disk(name: str, served: LoopbackHub, tmp_path: Path) -> None:
    def lengthen(response: Response) -> Response:
        return Response(200, bytes(20 << 20), {**response.headers, "X-Linked-Size": str(20 << 20)})

    path = "/large/" if name == WEIGHTS else f"/resolve/.*/{name}"
    served.fail(path, times=9, answer=lengthen)
    served.fail(f"/resolve/.*/{name}", method="HEAD", times=9, answer=lambda r: Response(
        r.status, r.body if name == WEIGHTS else bytes(20 << 20), {**r.headers, "X-Linked-Size": str(20 << 20)}
    ))  # fmt: skip
    with pytest.raises(
        WeightsError, match=rf"me/model: {name} has more bytes than the [\d,]+ stated; the hub, or something"
    ):
        get()
    assert_nothing_cached(tmp_path / "cache")


def test_a_truncated_file_with_a_right_looking_length_is_refused(served: LoopbackHub, tmp_path: Path) -> None:
    # this also holds `_WRONG_SIZE` against what the installed client says
    served.fail("/large/", times=9, answer=lambda r: Response(r.status, r.body[:-100], r.headers))
    with pytest.raises(WeightsError, match="me/model: .* should be of size .* but has size .*faulty or forges"):
        get()
    assert len(served.requested("/large/", origin="cdn")) == 2
    assert_nothing_cached(tmp_path / "cache")


def test_a_file_that_changes_between_head_and_get_is_refused(served: LoopbackHub, tmp_path: Path) -> None:
    other = b"x" * len(served.repositories["model", NAME].commits[commit_of(served)][WEIGHTS].content)
    served.fail("/large/", times=9, answer=lambda r: Response(200, other, {"ETag": '"new"'}))
    with pytest.raises(WeightsError, match="must have sha256"):
        get()
    assert_nothing_cached(tmp_path / "cache")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"ETag": '"../../../escaped"'}),
        (200, {"ETag": '"/{home}/escaped"'}),
        (200, {"X-Repo-Commit": "../../../../escaped"}),
        (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "../../../escaped"}),
    ],
)
def test_a_hub_cannot_have_files_written_outside_the_cache(
    status: int, headers: dict[str, str], served: LoopbackHub, tmp_path: Path
) -> None:
    headers = {key: value.format(home=tmp_path) for key, value in headers.items()}
    served.fail("/resolve/", method="HEAD", times=9, answer=lambda r: Response(status, b"", {**r.headers, **headers}))
    with pytest.raises(WeightsError, match="does not answer like a hub .*escaped' is no etag or commit"):
        get()
    assert not list(tmp_path.rglob("escaped*"))


def test_the_hubs_client_asks_for_etags_where_we_check_them(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download, hf_hub_download

    hub_client.hub_api(None)
    checked, asked = file_download.get_hf_file_metadata, []
    assert checked.is_guarded
    monkeypatch.setattr(file_download, "get_hf_file_metadata", lambda **asking: asked.append(1) or checked(**asking))
    hf_hub_download(NAME, "config.json")
    assert asked, "`hf_hub_download` asks elsewhere now: let `_keep_in_cache` check there"


def test_an_etag_that_is_not_the_listed_digest_is_refused(served: LoopbackHub, tmp_path: Path) -> None:
    def lie(response: Response) -> Response:
        return Response(response.status, b"", {**response.headers, "X-Linked-Etag": f'"{"0" * 64}"'})

    served.fail(f"/resolve/.*/{WEIGHTS}", method="HEAD", times=9, answer=lie)
    get()  # what counts is the content
    (tmp_path / "cache").rename(tmp_path / "old")
    served.fail("/large/", times=9, answer=_tampered)
    with pytest.raises(WeightsError, match="must have sha256"):
        get()
    assert_nothing_cached(tmp_path / "cache")


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "^/api/", "does not answer like a hub .*check HF_ENDPOINT"),
        ("HEAD", "/resolve/", "does not answer like a hub .*check HF_ENDPOINT"),
        ("GET", "/resolve/.*/config.json", "file should be of size"),
        ("GET", "/large/", "file should be of size"),
    ],
)
def test_a_login_page_in_place_of_the_hub_is_named(
    method: str, path: str, message: str, served: LoopbackHub, tmp_path: Path
) -> None:
    page = b"<html>please log in</html>"
    served.fail(path, method=method, times=9, status=200, body=page, headers={"Content-Type": "text/html"})
    with pytest.raises(WeightsError, match=message):
        get()
    assert_nothing_cached(tmp_path / "cache")


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"id": 1, "sha": "main"}', b"null", b'{"id": "x", "sha": "../../x"}'])
def test_a_malformed_answer_of_the_hub_is_our_error(body: bytes, served: LoopbackHub) -> None:
    served.fail("^/api/", status=200, body=body)
    with pytest.raises(WeightsError, match="does not answer like a hub"):
        get()


def flip_a_byte(path: Path) -> None:
    facts = path.stat()
    with open(path, "r+b") as file:
        file.seek(facts.st_size // 2)
        byte = file.read(1)[0]
        file.seek(facts.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # a rotten disk, or an intruder, leaves no date


def test_a_damaged_file_in_the_cache_is_fetched_again(
    served: LoopbackHub, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip_a_byte((get() / WEIGHTS).resolve())
    assert_same(get(), model)
    assert f"{WEIGHTS}: is damaged; deleting it" in caplog.text


def test_a_touched_file_is_read_once_more_and_then_known(served: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime((get() / WEIGHTS).resolve())
    served.requests.clear()
    get(revision=commit_of(served))
    monkeypatch.setattr("hashlib.file_digest", None)
    get(revision=commit_of(served))
    assert not served.requests


def test_notes_that_are_damaged_count_as_none(served: LoopbackHub, model: Path, tmp_path: Path) -> None:
    get()
    notes = next((tmp_path / "cache").rglob("verified/*.json"))
    for text in ("", "[]", '{"config.json": 1}', '{"../../x": {}}', '{"config.json": {"algorithm": "x"}}'):
        notes.write_text(text)
        assert_same(get(), model)
        assert json.loads(notes.read_text()).keys() == {"config.json", WEIGHTS}


def test_digests_that_we_know_beforehand_must_be_the_hubs(
    served: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import hashlib

    right = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    info = registry.ModelInfo(
        name="mine", source=NAME, family="vjepa2", parameters=1, resolution=32, num_frames=4, embed_dim=24,
        licence="MIT", revision=commit_of(served), file_sha256={WEIGHTS: right},
    )  # fmt: skip
    served.add(NAME, {"config.json": b"moved on"})
    monkeypatch.setitem(registry.KNOWN_MODELS, "mine", info)
    assert VJEPA.from_pretrained("mine", device="cpu").provenance["commit"] == info.revision
    wrong = {WEIGHTS: "0" * 64}
    with pytest.raises(
        WeightsError, match=rf"has sha256 {right}, must have sha256 {'0' * 64}. That one is second-hand"
    ):
        get(revision=info.revision, cache_dir=tmp_path / "new", known_sha256=wrong)
    assert not served.requested("/large/", origin="cdn")[1:]


def test_a_pinned_commit_that_the_hub_lacks_says_that_it_is_second_hand(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(registry.KNOWN_MODELS["vjepa2-vitl16"], name="mine", source=NAME)
    monkeypatch.setitem(registry.KNOWN_MODELS, "mine", info)
    with pytest.raises(ConfigError, match=f"no commit {info.revision}, which mine stands for.*pass revision='main'"):
        VJEPA.from_pretrained("mine", device="cpu")
    assert VJEPA.from_pretrained("mine", device="cpu", revision="main").provenance["commit"] == commit_of(served)
    with pytest.raises(ConfigError, match="has no revision 'v9'; pass a branch"):
        VJEPA.from_pretrained("mine", device="cpu", revision="v9")


def test_notes_that_cannot_be_written_are_done_without(served: LoopbackHub, model: Path, tmp_path: Path) -> None:
    get()
    storage = next((tmp_path / "cache").glob("models--*"))
    shutil.rmtree(storage / "verified")
    (storage / "verified").write_text("in the way")
    assert_same(get(), model)


def test_a_disk_without_room_is_told_before_the_download(served: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(WriteError, match=r"needs [\d,]+ bytes in \S+, 1 are free; free some space, pass cache_dir="):
        get()
    assert not served.requested("/resolve/", method="HEAD")


def test_a_disk_that_fills_up_leaves_no_partial_file(
    served: LoopbackHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    def fill(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", fill)
        with pytest.raises(WriteError, match="the disk of the hub's cache is full"):
            get()
    assert_nothing_cached(tmp_path / "cache")
    assert_same(get(), model)


def test_a_cache_that_cannot_be_made_is_named(served: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        WriteError, match=r"the hub's cache cannot be used \(Not a directory: \S+\); pass cache_dir= or set"
    ):
        get(cache_dir=tmp_path / "file")


def test_a_cache_that_cannot_be_written_to_is_used(
    served: LoopbackHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("write_json", "write_text"):
        monkeypatch.setattr(verified, name, refuse)
    get()
    assert_same(get(), model)
    assert not list((tmp_path / "cache").rglob("verified/*"))


def test_a_cache_without_links_is_verified_too(
    served: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    directory = get()
    assert not (directory / WEIGHTS).is_symlink()
    flip_a_byte(directory / WEIGHTS)
    assert_same(get(), model)


def test_what_killed_downloads_left_is_deleted_after_a_day(served: LoopbackHub, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "models--me--model" / "blobs"
    blobs.mkdir(parents=True)
    for name, age in (("old.incomplete", 25), ("new.incomplete", 1)):
        (blobs / name).write_bytes(b"x")
        os.utime(blobs / name, (time.time() - age * 3600,) * 2)
    get()
    assert not (blobs / "old.incomplete").exists() and (blobs / "new.incomplete").exists()


def test_a_download_that_another_process_ends_meanwhile_is_no_error(
    served: LoopbackHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / "cache" / "models--me--model" / "blobs"
    found = Path.glob
    gone = lambda path, pattern: [blobs / "gone.incomplete"] if path == blobs else found(path, pattern)  # noqa: E731
    monkeypatch.setattr(Path, "glob", gone)
    assert_same(get(), model)


def test_a_hub_without_encryption_needs_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror.example")
    assert hub_client.hub_api(None).endpoint == "https://mirror.example"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://mirror.example")
    with pytest.raises(ConfigError, match="'http://mirror.example' is not encrypted: .* VJEPA_ALLOW_HTTP=1"):
        hub_client.hub_api(None)
    monkeypatch.setenv("VJEPA_ALLOW_HTTP", "1")
    assert hub_client.hub_api(None).endpoint == "http://mirror.example"


LOADER = """
import logging, sys
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.hub.download import fetch
from vjepa_sdk.hub.locate import choose_model_files
logging.basicConfig()
print(fetch("me/model", HubOptions(), choose=choose_model_files).directory)
"""


def start(hub: LoopbackHub, home: Path, code: str = LOADER) -> subprocess.Popen[str]:
    """Run Python with this package and the hub, as a user's shell would."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_eight_processes_load_at_once(rounds: int, served: LoopbackHub, model: Path, tmp_path: Path) -> None:
    for number in range(rounds):
        served.requests.clear()
        loaders = [start(served, tmp_path / str(number)) for _ in range(8)]
        for loader in loaders:
            out, err = loader.communicate(timeout=300)
            assert loader.returncode == 0, err
            assert_same(Path(out.strip()), model)
        assert len(served.requested("/large/", origin="cdn")) == 1


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_a_download_killed_in_the_middle_is_done_again(
    kills: int, served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    for number in range(kills):
        served.requests.clear()
        served.recover()
        slow = lambda response: Response(response.status, response.body, response.headers, seconds_per_chunk=0.2)  # noqa: E731
        served.fail("/large/", answer=slow)
        loader = start(served, tmp_path / str(number))
        wait_until(lambda: served.requested("/large/", origin="cdn"))
        time.sleep(random.Random(number).uniform(0, 1))
        loader.send_signal(signal.SIGKILL)
        loader.communicate()
        cache = tmp_path / str(number) / "hub"
        assert not list(cache.rglob(WEIGHTS))
        assert list(cache.rglob("*.incomplete"))
        assert_same(get(cache_dir=cache), model)


def wait_until(happened: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
