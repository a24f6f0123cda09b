"""A model whose weights are an official file loads by name: fetched once, whole and as expected, converted, kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
import torch
from goldens import DIRECTORY, TOLERANCE, load_golden, model_config
from loopback_hub import Clock, LoopbackHub
from pickling import in_this_process
from tiny_models import save_tiny

import vjepa_sdk
from vjepa_sdk import VJEPA, Probe
from vjepa_sdk.cli.app import main
from vjepa_sdk.config import registry
from vjepa_sdk.config.registry import KNOWN_MODELS, ModelInfo
from vjepa_sdk.errors import ConfigError, WeightsError, WriteError
from vjepa_sdk.hub.convert_named import convert
from vjepa_sdk.hub.official import OfficialModel
from vjepa_sdk.weights import official_layout

NAME, FILE = "vjepa9-tiny", "vjepa9/tiny.pt"
ROOT = Path(vjepa_sdk.__file__).parents[1]
SUPPORT = Path(__file__).parents[1] / "support"
CONTENT = (DIRECTORY / "vjepa2_tiny.pth.tar").read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LEFT = {".lock", "record.json", "snapshots", "verified", f"{SHA256}.report.json"}
"""What stays in the cache."""


def info_at(url: str, *, sha256: str = "", num_bytes: int = 0) -> ModelInfo:
    return dataclasses.replace(
        KNOWN_MODELS["vjepa-vitl16"], name=NAME, source=url, url=url, parameters=1000, predictor_parameters=100,
        sha256=sha256, num_bytes=num_bytes,
    )  # fmt: skip


@pytest.fixture
def known(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A server that has the file of a model that is known by name, without its digest."""
    monkeypatch.setitem(registry.KNOWN_MODELS, NAME, info_at(hub.publish(FILE, CONTENT)))
    monkeypatch.setitem(official_layout.ARCHITECTURES, NAME, model_config("vjepa2_tiny"))
    with in_this_process():
        yield hub


def pin(monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    monkeypatch.setitem(registry.KNOWN_MODELS, NAME, dataclasses.replace(KNOWN_MODELS[NAME], **facts))  # type: ignore[arg-type]


def load(**options: object) -> VJEPA:
    return VJEPA.from_pretrained(NAME, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "vjepa-official" / NAME


def requests(hub: LoopbackHub) -> list[str]:
    """Return what was asked for each time: `all`, or from which byte on."""
    return [request.headers.get("range", "all") for request in hub.requested(FILE)]


def test_a_name_gives_the_official_features(known: LoopbackHub) -> None:
    golden = load_golden("vjepa2_tiny")
    model = load()
    torch.testing.assert_close(model.forward_features(golden.clips), golden.tensors["features"], **TOLERANCE)
    assert model.predictor is not None
    assert model.provenance["sha256"] == SHA256 and model.provenance["licence"] == "CC-BY-NC-4.0"


def test_it_is_fetched_once_and_only_safetensors_stay(known: LoopbackHub, storage: Path) -> None:
    first = load().directory
    assert first is not None and {path.name for path in first.iterdir()} == {
        "README.md", "config.json", "model.safetensors",
    }  # fmt: skip
    assert {path.name for path in storage.iterdir()} == LEFT
    assert load(local_files_only=True).directory == first
    assert requests(known) == ["all"]


def test_no_token_reaches_the_publisher(known: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load(token="hf_other")
    (request,) = known.requested(FILE)
    assert "authorization" not in request.headers
    assert request.headers["user-agent"] == f"vjepa-sdk/{vjepa_sdk.__version__}"


def test_the_file_is_kept_where_that_is_asked_for(
    known: LoopbackHub, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VJEPA_KEEP_OFFICIAL", "1")
    load()
    monkeypatch.delenv("VJEPA_KEEP_OFFICIAL")
    load()
    assert (storage / "tiny.pt").read_bytes() == CONTENT


def test_the_licence_is_stated_once_before_the_download_and_in_the_card(
    known: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vjepa_sdk"):
        model = load()
    told = [record.getMessage() for record in caplog.records]
    (at,) = (number for number, text in enumerate(told) if "these weights are licensed CC-BY-NC-4.0" in text)
    assert f"{NAME}: fetching {KNOWN_MODELS[NAME].url}" in told[at + 1]
    assert model.directory is not None
    assert "cc-by-nc-4.0" in (model.directory / "README.md").read_text().lower()


# -- what the network does


@pytest.mark.parametrize("drops", [1, 7], ids=["once", "more often than a try without progress is repeated"])
def test_a_connection_that_breaks_is_gone_on_from(known: LoopbackHub, drops: int, clock: Clock) -> None:
    size = len(CONTENT)
    # of what is left, an eighth arrives each time
    known.fail(FILE, times=drops, answer=lambda right: dataclasses.replace(right, drop_after=len(right.body) // 8))
    load()
    asked = requests(known)
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in asked[1:]]
    assert asked[0] == "all" and len(starts) == drops
    assert starts == sorted(set(starts)) and 0 < starts[0] and starts[-1] < size
    assert all(request.headers["if-range"] for request in known.requested(FILE)[1:])


def test_a_busy_server_is_asked_again(known: LoopbackHub, clock: Clock) -> None:
    known.fail(FILE, status=503, times=3)
    load()
    assert len(clock.waits) == 3


def test_a_file_that_changed_meanwhile_is_fetched_anew(known: LoopbackHub, storage: Path, clock: Clock) -> None:
    def change(right: object) -> object:
        known.plain[f"/{FILE}"] = CONTENT
        return dataclasses.replace(right, drop_after=len(CONTENT) // 2)  # type: ignore[type-var]

    known.plain[f"/{FILE}"] = CONTENT + bytes(100)
    known.fail(FILE, answer=change)  # type: ignore[arg-type]
    load()
    assert json.loads((storage / "record.json").read_text())["sha256"] == SHA256


def test_a_server_without_ranges_sends_it_from_the_start(known: LoopbackHub, clock: Clock) -> None:
    known.fail(FILE, answer=lambda right: dataclasses.replace(right, drop_after=len(CONTENT) // 2))
    known.fail(FILE, body=CONTENT, headers={"ETag": '"x"'})
    load()
    assert len(requests(known)) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 206, "body": b"x", "headers": {"Content-Range": "bytes 0-0/1"}},
        {"status": 206, "body": b"x"},
        {
            "status": 416,
            "body": b"<Error/>",
            "headers": {"Content-Type": "application/xml", "Content-Range": "bytes */9"},
        },
    ],
    ids=["another part", "an unnamed part", "no such part"],
)
def test_a_wrong_answer_to_a_request_for_the_rest_is_named(
    answer: dict[str, object], known: LoopbackHub, storage: Path, clock: Clock
) -> None:
    known.fail(FILE, answer=lambda right: dataclasses.replace(right, drop_after=len(CONTENT) // 2))
    known.fail(FILE, **answer)
    with pytest.raises(WeightsError, match="answers a request for the rest with .* so what had arrived was deleted"):
        load()
    assert not list(storage.glob("tiny.pt*"))
    load()
    assert requests(known)[-1] == "all"


def test_a_server_that_is_gone_says_what_is_kept(known: LoopbackHub, storage: Path, clock: Clock) -> None:
    known.fail(FILE, answer=lambda right: dataclasses.replace(right, drop_after=len(CONTENT) // 2))
    known.fail(FILE, times=50, status=503)
    with pytest.raises(WeightsError, match=rf"{NAME}: http\S+tiny.pt cannot be reached \(HTTP 503\); [\d,]+ bytes are"):
        load()
    assert (storage / "tiny.pt.part").stat().st_size > 0
    with pytest.raises(WeightsError, match=r"of which [\d,]+ bytes are there\); load it once with a network"):
        load(local_files_only=True)
    known.recover()
    load()
    assert requests(known)[-1].startswith("bytes=")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"body": b"<html>log in</html>", "headers": {"Content-Type": "text/html"}}, "sends an HTML page, not a chec"),
        ({"body": b" <!doctype html>"}, "sends an HTML page, not a checkpoint"),
        ({"body": b"hello" * 99}, "sends something else than a checkpoint that torch.save wrote"),
        ({"body": b"{}", "headers": {"Content-Type": "application/json"}}, "sends application/json, not a checkpoint"),
        ({"status": 404}, r"is not there, or not for us \(404\)"),
        ({"status": 403}, r"is not there, or not for us \(403\)"),
        ({"body": CONTENT, "headers": {"Content-Encoding": "gzip"}}, "sends it compressed, unasked"),
        ({"body": b"", "headers": {}}, "does not say how long it is"),
    ],
)
def test_something_else_than_the_file_is_refused_by_name(
    answer: dict[str, object], message: str, known: LoopbackHub, storage: Path, clock: Clock
) -> None:
    known.fail(FILE, **answer)
    with pytest.raises(WeightsError, match=rf"^{NAME}: http\S+tiny.pt {message}"):
        load()
    assert not (storage / "tiny.pt").exists() and not (storage / "snapshots").exists()
    load()


def test_a_redirect_to_another_host_is_refused(known: LoopbackHub) -> None:
    known.fail(FILE, status=302, headers={"Location": f"{known.cdn}/{FILE}"})
    with pytest.raises(WeightsError, match=rf"sends us to another host, {known.cdn}, which is not followed"):
        load()
    assert not known.requested("", origin="cdn")


def test_a_redirect_on_the_same_host_is_followed(known: LoopbackHub) -> None:
    known.publish("moved/tiny.pt", CONTENT)
    known.fail(FILE, status=301, headers={"Location": "/moved/tiny.pt"})
    load()
    known.fail("tiny.pt", times=99, status=302, headers={"Location": "/moved/tiny.pt"})
    with pytest.raises(WeightsError, match="redirects in a circle"):
        load(force_download=True)


def test_only_encrypted_addresses_are_asked(known: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, url="http://example.org/tiny.pt", source="http://example.org/tiny.pt")
    with pytest.raises(ConfigError, match="http://example.org/tiny.pt: is not encrypted"):
        load()
    assert all(model.url.startswith("https://") for model in vjepa_sdk.list_models() if model.url)


# -- size and digest


def test_a_size_that_is_not_the_known_one_is_refused_before_the_download(
    known: LoopbackHub, monkeypatch: pytest.MonkeyPatch, storage: Path
) -> None:
    pin(monkeypatch, num_bytes=5)
    with pytest.raises(WeightsError, match=rf"has {len(CONTENT):,} bytes, expected 5, which is known second-hand"):
        load()
    assert not list(storage.glob("tiny.pt*"))


def test_a_digest_that_is_not_the_known_one_is_told_plainly(
    known: LoopbackHub, monkeypatch: pytest.MonkeyPatch, storage: Path, tmp_path: Path
) -> None:
    pin(monkeypatch, sha256="f" * 64)
    with pytest.raises(
        WeightsError,
        match=rf"has sha256 {SHA256}, expected f{{64}}. That one is second-hand: .* run `vjepa convert (\S+) DIRECTORY",
    ):
        load()
    with pytest.raises(WeightsError, match="second-hand"):
        load()
    assert requests(known) == ["all"] and not (storage / "snapshots").exists()
    convert(storage / "tiny.pt", tmp_path / "mine", arch=NAME)
    assert VJEPA.from_pretrained(tmp_path / "mine", device="cpu").config == model_config("vjepa2_tiny")
    pin(monkeypatch, sha256=SHA256)
    load(local_files_only=True)


def test_a_digest_that_nobody_knows_is_recorded_and_compared_with_later(
    known: LoopbackHub, storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vjepa_sdk"):
        load()
    assert f"no digest is known; sha256 {SHA256} is recorded" in caplog.text
    assert json.loads((storage / "record.json").read_text())["bytes"] == len(CONTENT)
    known.publish(FILE, (DIRECTORY / "vjepa1_tiny.pth.tar").read_bytes())
    with pytest.raises(WeightsError, match=rf"and had {SHA256} when it was first used here, on 20\S+: it was replaced"):
        load(force_download=True)
    assert load(local_files_only=True).provenance["sha256"] == SHA256


def test_a_digest_that_becomes_known_rules_out_what_is_cached(
    known: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    pin(monkeypatch, sha256="e" * 64)
    with pytest.raises(WeightsError, match="is not in .*; load it once with a network"):
        load(local_files_only=True)


def test_a_damaged_copy_is_made_again(known: LoopbackHub) -> None:
    directory = load().directory
    assert directory is not None
    weights = directory / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    load()
    assert weights.read_bytes() == good
    assert len(requests(known)) == 2


# -- the disk


def test_the_disk_needs_room_for_the_file_and_its_copies_first(
    known: LoopbackHub, monkeypatch: pytest.MonkeyPatch, storage: Path
) -> None:
    needed = len(CONTENT) + 2 * KNOWN_MODELS[NAME].converted_bytes
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(WriteError, match=rf"{NAME}: needs {needed:,} bytes in .* {needed - 1:,} are free; free some"):
        load()
    assert not list(storage.glob("tiny.pt*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    load()


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: io.FileIO, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.room -= len(data)
        if self.room < 0:
            faults.fail()
        self.file.write(data)

    def flush(self) -> None:
        pass


def test_a_disk_that_fills_up_keeps_what_has_arrived(known: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vjepa_sdk.hub.resumable.open", lambda *args: FullDisk(io.FileIO(*args), 200_000), raising=False)
        with pytest.raises(WriteError, match=f"{NAME}: the disk of .* is full; what has arrived is kept: free some"):
            load()
    load()
    assert requests(known) == ["all", "bytes=196608-"]


def disk_calls(cache: Path) -> int:
    """Return how often a first load puts something on disk."""
    with faults.faults(0, faults.fail) as counted:
        load(cache_dir=cache)
    return counted.count


def test_a_disk_that_fails_at_any_moment_is_one_error_and_gone_on_from(known: LoopbackHub, tmp_path: Path) -> None:
    for at in range(1, disk_calls(tmp_path / "whole") + 1):
        with faults.faults(at, faults.fail), contextlib.suppress(WriteError):
            load(cache_dir=tmp_path / str(at))
        assert load(cache_dir=tmp_path / str(at)).provenance["sha256"] == SHA256


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_a_process_killed_at_any_moment_is_gone_on_from(known: LoopbackHub, tmp_path: Path, step: int) -> None:
    for at in range(1, disk_calls(tmp_path / "whole") + 1, step):
        if (child := os.fork()) == 0:
            with faults.faults(at, faults.die):
                load(cache_dir=tmp_path / str(at))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        directory = load(cache_dir=tmp_path / str(at)).directory
        assert directory is not None and {path.name for path in directory.parents[1].iterdir()} == LEFT


def test_a_cache_that_cannot_be_written_is_told(known: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WriteError, match=f"{NAME}: .* cannot be used .*; pass cache_dir= or set HF_HOME"):
        load()


# -- no network


def test_offline_says_what_is_missing_and_how_to_get_it(
    known: LoopbackHub, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        WeightsError, match=rf"{NAME}: is not in {storage}, and needs http\S+tiny.pt \(about .* put it into that dir"
    ):
        load(local_files_only=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="without local_files_only and HF_HUB_OFFLINE"):
        load()
    with pytest.raises(ConfigError, match="force_download=True needs the network"):
        load(force_download=True)
    assert not requests(known)
    storage.mkdir(parents=True)
    (storage / "tiny.pt").write_bytes(CONTENT)
    assert load().config == model_config("vjepa2_tiny")


def test_what_does_not_apply_is_refused_before_anything_is_fetched(known: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="is a file, which has no revision='main'"):
        load(revision="main")
    with pytest.raises(ConfigError, match="describes no probe"):
        Probe.from_pretrained(NAME, device="cpu")
    assert not requests(known)


# -- converting by name


def test_convert_takes_a_name(known: LoopbackHub, tmp_path: Path) -> None:
    report = convert(NAME, tmp_path / "out")
    by_hand = convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "hand", arch=NAME)
    assert (report.mapped, report.dropped, report.architecture) == (by_hand.mapped, by_hand.dropped, NAME)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (by_hand.out / "model.safetensors").read_bytes()
    assert convert(NAME, tmp_path / "again").mapped == report.mapped
    assert requests(known) == ["all"]


def test_convert_refuses_what_it_can_before_the_download(known: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for out, options, message in (
        (tmp_path / "full", {}, "is not empty"),
        (tmp_path / "out", {"arch": "vjepa2-vitl16"}, f"applies to files; {NAME} says itself what it is"),
        (tmp_path / "out", {"layout": "transformers"}, "does not apply to the official file of"),
    ):
        with pytest.raises((ConfigError, OSError), match=message):
            convert(NAME, out, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vjepa2.1-vitb: no such file, directory or model; did you mean vjepa2.1-vitb"):
        convert("vjepa2.1-vitb", tmp_path / "out")
    assert not requests(known)


def test_convert_prefers_the_official_file_of_a_model_on_the_hub(
    known: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, source="me/model")
    assert KNOWN_MODELS[NAME].is_on_hub
    with pytest.raises(ConfigError, match="it is on the hub in that layout, as me/model"):
        convert(NAME, tmp_path / "out", layout="transformers")
    report = convert(NAME, tmp_path / "out")
    assert {"encoder", "context_encoder", "predictor"} == {name.partition(".")[0] for name in report.mapped}
    assert requests(known) == ["all"]


def test_convert_takes_a_repository_where_there_is_no_official_file(
    known: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = save_tiny(tmp_path / "ours")
    known.add_directory("me/model", convert(ours, tmp_path / "theirs", layout="transformers").out)
    pin(monkeypatch, source="me/model", url="")
    convert(NAME, tmp_path / "back")
    clip = torch.randn(1, 3, 4, 32, 32)
    back, first = (VJEPA.from_pretrained(place, device="cpu") for place in (tmp_path / "back", ours))
    assert torch.equal(back.forward_features(clip), first.forward_features(clip))


def test_the_command_takes_a_name(
    known: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vjepa", "convert", NAME, str(tmp_path / "out")])
    with contextlib.suppress(SystemExit):
        main()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: model {NAME}, 120 tensors\n  dropped")
    assert VJEPA.from_pretrained(tmp_path / "out", device="cpu").provenance["sha256"] == SHA256


def test_convert_takes_the_name_of_the_bundled_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is in the layout 'vjepa' already"):
        convert("vjepa-tiny", tmp_path / "out")


# -- kills, and two processes at once

CHILD = f"""
import dataclasses, sys
sys.path.insert(0, {str(SUPPORT)!r})
from goldens import model_config
from vjepa_sdk import VJEPA
from vjepa_sdk.config import registry
from vjepa_sdk.weights import official_layout, convert
registry.KNOWN_MODELS[{NAME!r}] = dataclasses.replace(
    registry.KNOWN_MODELS["vjepa-vitl16"], name={NAME!r}, source=sys.argv[1], url=sys.argv[1], parameters=1000,
    predictor_parameters=100,
)
official_layout.ARCHITECTURES[{NAME!r}] = model_config("vjepa2_tiny")
if len(sys.argv) > 2:
    import time
    from pathlib import Path
    true = convert.save_model_directory
    def slow(*args, **kwargs):
        Path(sys.argv[2]).touch()
        time.sleep(60)
        return true(*args, **kwargs)
    convert.save_model_directory = slow
print(VJEPA.from_pretrained({NAME!r}, device="cpu").provenance["sha256"], flush=True)
"""


def start(hub: LoopbackHub, cache: Path, *more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, f"{hub.url}/{FILE}", *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: object) -> None:
    end = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_fetch_and_convert_once(known: LoopbackHub, tmp_path: Path) -> None:
    known.fail(FILE, answer=lambda right: dataclasses.replace(right, seconds_per_chunk=0.05))
    both = [start(known, tmp_path / "cache") for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [out.strip() for out, _ in told] == [SHA256] * 2, told
    assert requests(known) == ["all"]


def test_a_process_killed_while_it_fetches_or_converts_is_gone_on_from(
    known: LoopbackHub, tmp_path: Path, storage: Path
) -> None:
    known.fail(FILE, answer=lambda right: dataclasses.replace(right, seconds_per_chunk=1.0))
    first = start(known, tmp_path / "cache")
    part = storage / "tiny.pt.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = part.stat().st_size

    second = start(known, tmp_path / "cache", str(tmp_path / "converting"))
    wait_until((tmp_path / "converting").exists)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert requests(known)[1:] == [f"bytes={kept}-"]
    assert (storage / "tiny.pt").read_bytes() == CONTENT and not (storage / "snapshots").exists()

    assert load(local_files_only=True).provenance["sha256"] == SHA256
    assert {path.name for path in storage.iterdir()} == LEFT


def test_a_name_that_is_cached_is_known_to_be(known: LoopbackHub, tmp_path: Path) -> None:
    model = OfficialModel(KNOWN_MODELS[NAME], tmp_path / "cache")
    assert not model.is_there()
    load()
    assert model.is_there()
