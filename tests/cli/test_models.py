"""`vjepa models` says what is known by name, in 80 columns, and what of it is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vjepa_sdk.cli.models import models
from vjepa_sdk.config.registry import KNOWN_MODELS
from vjepa_sdk.hub.inventory import list_states


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines(capsys: pytest.CaptureFixture[str], **options: bool) -> list[str]:
    models(**options)
    return capsys.readouterr().out.splitlines()


def put_commit(cache: Path, name: str, *files: str) -> None:
    info = KNOWN_MODELS[name]
    place = cache / f"models--{info.source.replace('/', '--')}" / "snapshots" / info.revision
    place.mkdir(parents=True, exist_ok=True)
    for file in files:
        (place / file).write_text("{}")


def test_the_table_has_a_header_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(capsys)
    assert shown[0].split() == ["name", "params", "clip", "licence", "download", "cached", "from"]
    assert len(shown) == 1 + len(KNOWN_MODELS) + 2
    assert [line for line in shown if len(line) > 80] == []
    # every column begins, or ends, where its header does
    for column in ("clip", "licence", "cached", "from"):
        at = shown[0].index(column)
        assert all(line[at - 1] == " " != line[at] for line in shown[1:-2])


def test_a_row_says_licence_size_and_how_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in lines(capsys)}
    assert rows["vjepa-tiny"] == ["2.7", "M", "8x48", "Apache-2.0", "-", "yes", "wheel"]
    assert rows["vjepa2-vitg16"] == ["1012", "M", "64x256", "Apache-2.0", "~4.1", "GB", "-", "hub"]
    assert rows["vjepa2.1-vitb16"] == ["87", "M", "64x384", "MIT", "1.7", "GB", "-", "file"]
    assert rows["vjepa-vith16"] == ["632", "M", "16x224", "CC-BY-NC-4.0", "~10.4", "GB", "-", "file"]


def test_what_is_cached_is_whole(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_commit(cache, "vjepa2-vitl16", "config.json")
    assert [line.split()[0] for line in lines(capsys, cached=True)[1:-2]] == ["vjepa-tiny"]
    put_commit(cache, "vjepa2-vitl16", "model.safetensors")
    assert [line.split()[0] for line in lines(capsys, cached=True)[1:-2]] == ["vjepa-tiny", "vjepa2-vitl16"]


def test_json_has_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry["name"]: entry for entry in json.loads("\n".join(lines(capsys, as_json=True)))}
    assert found.keys() == KNOWN_MODELS.keys()
    entry = found["vjepa2.1-vitl16"]
    assert (entry["download_bytes"], entry["download_is_estimate"]) == (5_151_198_524, False)
    assert (entry["from"], entry["loads_directly"], entry["cached"]) == ("file", False, False)
    assert found["ijepa-vith14"]["loads_directly"] and found["ijepa-vith14"]["download_is_estimate"]


def test_states_are_in_the_order_of_the_list() -> None:
    assert [state.info.name for state in list_states()] == list(KNOWN_MODELS)
