"""Probes and features go to the hub and come back as models do."""

from __future__ import annotations

import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import OWNER_TOKEN, LoopbackHub
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import VJEPA, Probe, SearchIndex, embed_files, find_duplicates, load_embeddings, push
from vjepa_sdk.errors import ConfigError, InputError, WeightsError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.weights.layout import HERE

PROBE = ProbeConfig(embed_dim=32, num_classes=3)


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(0)
    return Probe(AttentiveProbe(PROBE), ("up", "down", "still"), {"encoder": "vjepa-tiny"})


def test_a_probe_pushes_itself_and_comes_back(hub: LoopbackHub, probe: Probe) -> None:
    report = probe.push_to_hub("me/probe", token=OWNER_TOKEN, licence="MIT")
    assert set(report.files) == {"README.md", "config.json", "model.safetensors"}
    found = Probe.from_pretrained("me/probe", device="cpu")
    tokens = torch.randn(2, 5, 32)
    assert torch.equal(found.probe(tokens), probe.probe(tokens))
    assert found.labels == probe.labels and found.probe.config == PROBE
    assert found.provenance == {
        "encoder": "vjepa-tiny", "licence": "MIT", "repository": "me/probe", "commit": report.commit,
    }  # fmt: skip
    assert not probe.push_to_hub("me/probe", token=OWNER_TOKEN, licence="MIT").changed


def test_a_probe_directory_is_pushed_by_the_same_call(hub: LoopbackHub, probe: Probe, tmp_path: Path) -> None:
    directory = probe.save_pretrained(tmp_path / "probe")
    (directory / "head.pt").write_bytes(b"x")
    report = push(directory, "me/probe", token=OWNER_TOKEN)
    assert report.changed and list(report.left_out) == ["head.pt"]
    assert Probe.from_pretrained("me/probe", device="cpu", local_files_only=False).labels == probe.labels


def test_the_code_of_a_probes_card_runs(probe: Probe, tmp_path: Path) -> None:
    directory = probe.save_pretrained(tmp_path / "probe", licence="Apache-2.0")
    card = (directory / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    namespace: dict[str, Any] = {}
    exec(code.replace(HERE, str(directory)), namespace)
    assert namespace["probe"].labels == probe.labels
    from huggingface_hub import ModelCard

    data = ModelCard(card).data
    assert (data.pipeline_tag, data.license, data.library_name) == ("video-classification", "apache-2.0", "vjepa-sdk")


def test_a_probe_that_lost_its_card_gets_a_new_one(probe: Probe, tmp_path: Path) -> None:
    directory = probe.save_pretrained(tmp_path / "probe")
    written = (directory / "README.md").read_text()
    (directory / "README.md").unlink()
    with pytest.raises(ConfigError, match=r"holds no README.md; pass new_card=True \(--new-card\)"):
        push(directory, "me/probe", dry_run=True)
    assert "README.md" in push(directory, "me/probe", dry_run=True, new_card=True).files
    assert (directory / "README.md").read_text() == written


def test_a_model_is_no_probe_and_a_probe_no_model(hub: LoopbackHub, probe: Probe, tmp_path: Path) -> None:
    hub.add_directory("me/model", save_tiny(tmp_path / "model"))
    with pytest.raises(ConfigError, match="describes no probe"):
        Probe.from_pretrained("me/model", device="cpu")
    probe.push_to_hub("me/probe", token=OWNER_TOKEN)
    with pytest.raises(ConfigError, match="unknown key"):
        VJEPA.from_pretrained("me/probe", device="cpu")


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features of two clips, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_video(Path(f"{name}.mp4"), num_frames=4)
    Path("out").mkdir()
    embed_files(["a.mp4", "b.mp4"], "out/feats.npy", model=save_tiny(tmp_path / "model"), num_workers=0)
    return Path("out/feats.npy")


def test_features_go_to_a_dataset_and_come_back(hub: LoopbackHub, features: Path) -> None:
    (features.parent / ".env").write_text("x")
    report = push(features, "me/feats", token=OWNER_TOKEN)
    assert ("dataset", "me/feats") in hub.repositories
    kinds = {f"feats.{kind}" for kind in ("npy", "index.jsonl", "errors.jsonl", "inputs.jsonl", "meta.json")}
    kinds |= {"README.md"}
    assert set(report.files) == kinds
    found, local = load_embeddings("me/feats"), load_embeddings(features)
    assert np.array_equal(found.features, local.features) and found.index == local.index
    told = {**local.meta["model"], "name": "model"}  # not where the model lies on this disk
    assert found.meta == {**local.meta, "model": told, "repository": "me/feats", "commit": report.commit}
    assert np.array_equal(load_embeddings("me/feats", local_files_only=True).features, local.features)
    assert not push(features, "me/feats", token=OWNER_TOKEN).changed


def test_features_on_the_hub_are_searched_by_their_id(hub: LoopbackHub, features: Path) -> None:
    push(features, "me/feats", token=OWNER_TOKEN)
    index, local = SearchIndex.open("me/feats"), SearchIndex.open(features)
    hits = index.search("a.mp4", model=index.load_model("model"))
    assert hits == local.search("a.mp4") and hits[0].is_query
    assert find_duplicates("me/feats", metric="cosine").rows == 2


def test_the_code_of_a_features_card_runs(hub: LoopbackHub, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(features, "me/feats", token=OWNER_TOKEN)
    repository = hub.repositories["dataset", "me/feats"]
    card = repository.commits[repository.branches["main"]]["README.md"].content.decode()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    exec(code, {})
    assert capsys.readouterr().out == "(2, 24) a.mp4\n"


def features_card(hub: LoopbackHub, name: str) -> str:
    repository = hub.repositories["dataset", name]
    return repository.commits[repository.branches["main"]]["README.md"].content.decode()


def test_a_features_card_names_the_licence_of_the_model_and_no_place(
    hub: LoopbackHub, features: Path, tmp_path: Path
) -> None:
    VJEPA.from_pretrained("./model", device="cpu").save_pretrained(tmp_path / "nc", licence="CC-BY-NC-4.0")
    embed_files(["a.mp4"], "out/nc.npy", model=str(tmp_path / "nc"), num_workers=0)
    push("out/nc.npy", "me/nc", token=OWNER_TOKEN)
    card = features_card(hub, "me/nc")
    assert "Weights: CC-BY-NC-4.0, for non-commercial use only." in card
    assert "- model name: nc\n" in card and "# Features of videos, 1 row\n" in card
    pushed = hub.repositories["dataset", "me/nc"]
    tree = pushed.commits[pushed.branches["main"]]
    assert not any(str(tmp_path).encode() in blob.content for blob in tree.values())
    push(features, "me/feats", token=OWNER_TOKEN)
    assert "Weights:" not in features_card(hub, "me/feats")


def test_a_model_of_the_hub_keeps_its_name_in_a_features_card(hub: LoopbackHub, features: Path, tmp_path: Path) -> None:
    hub.add_directory("me/model", tmp_path / "model")
    embed_files(["a.mp4"], "out/hub.npy", model="me/model", num_workers=0)
    push("out/hub.npy", "me/hub", token=OWNER_TOKEN)
    assert "- model name: me/model\n" in features_card(hub, "me/hub")


def test_other_features_replace_the_ones_that_are_there(hub: LoopbackHub, features: Path) -> None:
    push(features, "me/feats", token=OWNER_TOKEN)
    embed_files(["a.mp4"], "out/new.npz", model="model", num_workers=0)
    report = push("out/new.npz", "me/feats", token=OWNER_TOKEN)
    assert {name.partition(".")[0] for name in report.deleted} == {"feats"} and len(report.deleted) == 5
    assert load_embeddings("me/feats").features.shape == (1, 24)


def test_absolute_paths_are_warned_of(
    hub: LoopbackHub, features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_files([tmp_path / "a.mp4"], "out/abs.npy", model="model", num_workers=0)
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        push(features, "me/feats", token=OWNER_TOKEN, dry_run=True)
        assert not caplog.text
        push("out/abs.npy", "me/feats", token=OWNER_TOKEN, dry_run=True)
        assert f"such as '{tmp_path}/a.mp4', and so will the hub" in caplog.text
        caplog.clear()
        (tmp_path / "bad.mp4").write_bytes(b"x")
        embed_files(["a.mp4", tmp_path / "bad.mp4"], "out/bad.npy", model="model", num_workers=0)
        push("out/bad.npy", "me/feats", token=OWNER_TOKEN, dry_run=True)
        assert f"such as '{tmp_path}/bad.mp4', and so will the hub" in caplog.text


def test_features_of_a_model_from_the_hub_name_its_commit(hub: LoopbackHub, features: Path, tmp_path: Path) -> None:
    hub.add_directory("me/model", tmp_path / "model")
    embed_files(["a.mp4"], "out/hub.npy", model="me/model", num_workers=0)
    provenance = load_embeddings("out/hub.npy").meta["model"]["provenance"]
    assert provenance["repository"] == "me/model"
    assert provenance["commit"] == hub.repositories["model", "me/model"].branches["main"]


def _meta(features: Path, **changes: Any) -> bytes:
    return json.dumps({**json.loads(features.with_suffix(".meta.json").read_bytes()), **changes}).encode()


@pytest.mark.parametrize("output", ["../../../secret.npy", "/etc/secret.npy", "feats.pkl", "", 7, None])
def test_a_strangers_description_cannot_lead_elsewhere(output: Any, hub: LoopbackHub, features: Path) -> None:
    hub.add_directory("me/feats", features.parent, kind="dataset")
    hub.add("me/feats", {"feats.meta.json": _meta(features, output=output)}, kind="dataset")
    with pytest.raises(InputError, match="me/feats: holds 1 outputs of `vjepa embed`, must hold one"):
        load_embeddings("me/feats")


def test_features_with_a_pickle_inside_are_refused(hub: LoopbackHub, features: Path) -> None:
    np.save(features, np.array([{"a": 1}, 2], dtype=object), allow_pickle=True)
    hub.add_directory("me/feats", features.parent, kind="dataset")
    with pytest.raises(InputError, match="is damaged or not written by"):
        load_embeddings("me/feats")


def test_features_that_would_unpack_to_more_than_they_are_are_refused(hub: LoopbackHub, features: Path) -> None:
    embed_files(["a.mp4"], "out/zip.npz", model="model", num_workers=0)
    with zipfile.ZipFile("out/zip.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        np.save(Path("out/zeros.npy"), np.zeros((1000, 1000), dtype=np.float32))
        archive.write("out/zeros.npy", "00000000.npy")
    files = {name: Path("out", name).read_bytes() for name in ("zip.npz", "zip.meta.json", "zip.index.jsonl")}
    hub.add("me/feats", files, kind="dataset")
    with pytest.raises(InputError, match="me/feats: zip.npz is compressed, which `vjepa embed` never writes"):
        load_embeddings("me/feats")


def test_tampered_features_are_refused(hub: LoopbackHub, features: Path) -> None:
    from test_download import _tampered

    push(features, "me/feats", token=OWNER_TOKEN)
    hub.fail("/large/", answer=_tampered, times=9)
    with pytest.raises(WeightsError, match="me/feats: feats.npy has sha256"):
        load_embeddings("me/feats")


@pytest.mark.parametrize("path", ["nothing.npy", "me/nothing.npy", Path("me/feats")])
def test_what_looks_like_a_file_is_not_asked_for_on_the_hub(path: str | Path, hub: LoopbackHub) -> None:
    with pytest.raises((InputError, ConfigError)):
        load_embeddings(path)
    assert not hub.requests


def test_a_revision_of_a_file_here_is_refused(features: Path) -> None:
    with pytest.raises(
        ConfigError, match="out/feats.npy: is no hub id, so it has no revision='v1'; leave revision out"
    ):
        load_embeddings(features, revision="v1")


def test_a_missing_dataset_is_told(hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="me/feats: no such repository on the hub"):
        load_embeddings("me/feats")
