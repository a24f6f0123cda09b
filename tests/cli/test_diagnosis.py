"""`vjepa doctor` tells what works here, and its exit code whether all does."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import OWNER_TOKEN, LoopbackHub

from vjepa_sdk import VJEPA
from vjepa_sdk.cli import app, diagnosis
from vjepa_sdk.cli.diagnosis import DoctorReport, examine
from vjepa_sdk.errors import VJEPAError

DECODERS = ["pyav", "decord", *(["torchcodec"] if find_spec("torchcodec") else [])]


@pytest.fixture(scope="module")
def offline() -> DoctorReport:
    """Look at this machine, without a hub."""
    return examine()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", "doctor", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    return int(caught.value.code or 0)


def test_a_working_machine_has_no_problems(offline: DoctorReport) -> None:
    assert offline.problems == ()
    assert offline.versions["torch"][0].isdigit() and offline.versions["torchcodec"]
    assert list(offline.devices)[-1] == "cpu"
    assert offline.hub.state == "offline"
    json.dumps(dataclasses.asdict(offline))


def test_every_decoder_is_tried_on_every_codec(offline: DoctorReport) -> None:
    codecs = {"h264", "hevc", "vp9", "av1", "mpeg4", "gif"}
    assert {name: set(states) for name, states in offline.decoders.items()} == dict.fromkeys(DECODERS, codecs)
    assert offline.decoders["pyav"]["h264"] == "ok"


def test_what_decord_cannot_read_is_no_problem_but_told(offline: DoctorReport) -> None:
    pytest.importorskip("decord")
    reason = offline.decoders["decord"]["gif"]
    assert "cannot be read by decord" in reason and len(reason) < 250 and "/tmp" not in reason
    assert offline.decoders["decord"]["h264"] == "ok"


def test_what_confines_strangers_files_is_told(offline: DoctorReport) -> None:
    assert set(map(type, offline.sandbox.values())) == {bool}
    assert offline.sandbox["decoding in processes with a deadline, without your tokens"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, offline: DoctorReport) -> None:
    """Do not decode again."""
    monkeypatch.setattr(diagnosis, "_decoders", lambda: (offline.decoders, True))
    monkeypatch.setattr(diagnosis, "_sandbox", lambda has_workers: offline.sandbox)


def test_a_hub_and_its_cache_are_told(quick: None, hub: LoopbackHub, tmp_path: Path, monkeypatch: Any) -> None:
    from tiny_models import save_tiny

    hub.add_directory("me/model", save_tiny(tmp_path / "model"))
    VJEPA.from_pretrained("me/model", device="cpu")
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    report = examine()
    assert (report.hub.state, report.hub.endpoint, report.hub.has_token) == ("ok", hub.url, True)
    assert report.cache.repositories == 1 and report.cache.bytes > 10_000
    asked = [request for request in hub.requested("^/api/models/") if "facebook" in request.path]
    assert asked and not any(request.token for request in asked)
    assert OWNER_TOKEN not in json.dumps(dataclasses.asdict(report))


@pytest.mark.parametrize("fault", ["503", "down", "http", "login"])
def test_a_hub_out_of_reach_is_a_problem(
    fault: str, quick: None, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {"503": "HTTP 503", "down": "ConnectError", "http": "is not encrypted", "login": "a web page answers"}[
        fault
    ]
    if fault == "503":
        hub.fail("^/api/", status=503, times=9)
    elif fault == "login":
        hub.fail("^/api/", body=b"<html>log in</html>", headers={"Content-Type": "text/html"}, times=9)
    elif fault == "down":
        hub.__exit__()
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://mirror.example")
    assert run(monkeypatch) == 1
    printed = capsys.readouterr().out
    assert expected in printed.split("problems")[1] and "HF_HUB_OFFLINE=1" in printed


def test_a_cache_that_is_no_directory_is_a_problem(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "hub"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
        assert examine().problems == (f"the cache {place} is no directory that can be written to; set HF_HOME to one",)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    assert examine().problems == ()


def test_a_decoder_that_fails_is_a_problem(quick: None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(
        diagnosis, "_decoders", lambda: ({"pyav": {"h264": "broken"}, "decord": {"h264": "broken"}}, True)
    )
    assert run(monkeypatch, "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["pyav cannot read h264: broken"]


def test_processes_that_cannot_be_started_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise VJEPAError("no processes")

    monkeypatch.setattr(diagnosis, "WorkerPool", refuse)
    assert "decoding processes cannot be started; pass num_workers=0 (--num-workers 0)" in examine().problems


def test_a_missing_package_is_a_problem(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_version", lambda name: "not installed" if name == "timm" else "1")
    assert examine().problems == ("timm is not installed; install vjepa-sdk again",)


def test_the_command_prints_tables_and_json(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    printed = capsys.readouterr().out
    decoders = [f"decoder {name}" for name in DECODERS]
    titles = ["versions", "devices", *decoders, "hub", "cache", "sandbox", "problems"]
    assert [line for line in printed.splitlines() if not line.startswith((" ", "platform"))] == titles
    assert run(monkeypatch, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
