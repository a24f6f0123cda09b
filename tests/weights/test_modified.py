"""What is said of weights is true of them: of others a card says that they are modified, and of what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA, ModelConfig, Probe
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.hub.publish import push, write_card
from vjepa_sdk.weights import directory as directories
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.digests import weights_digest

MADE = {"made_by": "vjepa pretrain", "steps": 8, "clips_seen": 16, "fps": 5.0, "licence": "CC-BY-NC-4.0"}


def write_model(place: Path, *, config: ModelConfig = VIDEO, recorded: bool = True, **provenance: Any) -> Path:
    """Write a model that says how it was made, as this version does or as those before it."""
    save_tiny(place, config)
    path = place / "config.json"
    data = json.loads(path.read_text())
    digests = {"weights_sha256": data["provenance"]["weights_sha256"]} if recorded else {}
    path.write_text(json.dumps({**data, "provenance": {**MADE, **provenance, **digests}}))
    return place


def change(model: VJEPA) -> None:
    """Change one number, as the smallest of trainings does."""
    with torch.no_grad():
        model.encoder.blocks[0].attn.qkv.weight[0, 0] += 1e-3  # type: ignore[union-attr, index, operator]


def saved(model: VJEPA, place: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Return provenance and card of a copy."""
    out = model.save_pretrained(place, **options)
    return json.loads((out / "config.json").read_text())["provenance"], (out / "README.md").read_text()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"weights": "target"}])
@pytest.mark.parametrize("config", [VIDEO, IMAGE])
def test_a_copy_of_what_was_loaded_tells_how_it_was_made(
    config: ModelConfig, options: dict[str, Any], recorded: bool, tmp_path: Path
) -> None:
    place = write_model(tmp_path / "model", config=config, recorded=recorded)
    told, card = saved(VJEPA.from_pretrained(place, device="cpu", **options), tmp_path / "copy")
    assert told.items() >= MADE.items() and "made by: vjepa pretrain" in card
    again, _ = saved(VJEPA.from_pretrained(tmp_path / "copy", device="cpu"), tmp_path / "again", dtype=torch.float16)
    third, _ = saved(VJEPA.from_pretrained(tmp_path / "again", device="cpu"), tmp_path / "third")
    assert again.items() >= MADE.items() and third.items() >= MADE.items()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}])
def test_weights_that_were_changed_are_called_modified(options: dict[str, Any], recorded: bool, tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine", recorded=recorded), device="cpu", **options)
    with torch.no_grad():
        model.encoder.norm.bias += 1.0  # large enough for half precision
    told, card = saved(model, tmp_path / "copy", provenance={"made_by": "my own loop", "epochs": 3})
    digests = told.pop("weights_sha256")
    assert told == {
        "weights": "modified after they were loaded", "base_model": "mine", "fps": 5.0, "licence": "CC-BY-NC-4.0",
        "made_by": "my own loop", "epochs": 3,
    }  # fmt: skip
    assert set(digests) == {"encoder", "predictor"}
    assert "- weights: modified after they were loaded" in card and "- base model: mine" in card
    assert "vjepa pretrain" not in card and "Trained on 16 clips" not in card


@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_one_changed_number_is_enough(part: str, tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine"), device="cpu")
    with torch.no_grad():
        next(getattr(model, part).parameters()).view(-1)[0] += 1e-3
    assert saved(model, tmp_path / "copy")[0]["weights"] == "modified after they were loaded"


def test_the_bundled_model_is_named_when_it_was_trained_on(tmp_path: Path) -> None:
    model = VJEPA.from_pretrained("vjepa-tiny", device="cpu")
    assert saved(model, tmp_path / "same")[0].get("weights") is None
    change(model)
    told, card = saved(model, tmp_path / "copy")
    assert told["base_model"] == "vjepa-tiny" and "- base model: vjepa-tiny" in card
    assert "\nbase_model:" not in card  # which is for repositories of the hub


def test_what_was_changed_stays_so_when_it_is_copied(tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine"), device="cpu")
    change(model)
    model.save_pretrained(tmp_path / "first")
    told, _ = saved(VJEPA.from_pretrained(tmp_path / "first", device="cpu"), tmp_path / "second")
    assert (told["weights"], told["base_model"]) == ("modified after they were loaded", "mine")
    assert "made_by" not in told


def test_random_weights_that_were_trained_are_no_longer_random(tmp_path: Path) -> None:
    model = VJEPA.untrained(VIDEO, seed=3, device="cpu")
    assert saved(model, tmp_path / "random")[0]["made_by"] == "random initialisation"
    change(model)
    told, _ = saved(model, tmp_path / "trained")
    assert (told["weights"], told.get("made_by")) == ("modified after they were loaded", None)


def gone(place: Path) -> None:
    shutil.rmtree(place)


def other(place: Path) -> None:
    save_tiny(place, seed=5)


@pytest.mark.parametrize("fate", [gone, other])
def test_what_can_no_longer_be_compared_is_not_claimed(fate: Callable[[Path], None], tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine", recorded=False), device="cpu")
    fate(tmp_path / "mine")
    told, _ = saved(model, tmp_path / "copy")
    assert told["weights"].startswith("perhaps modified: what they were loaded from is gone") and "made_by" not in told


def test_weights_of_known_digest_need_no_source(tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine"), device="cpu")
    gone(tmp_path / "mine")
    assert saved(model, tmp_path / "copy")[0]["made_by"] == "vjepa pretrain"


def test_nothing_is_read_twice_to_load_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_model(tmp_path / "mine", recorded=False)
    monkeypatch.setattr(directories, "weights_digest", lambda tensors: pytest.fail("a digest at load"))
    VJEPA.from_pretrained(place, device="cpu")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("tuned at home", "provenance='tuned at home' must be a mapping; pass for example"),
        ({"a": object()}, "provenance=.* must be plain JSON data"),
        ({"loss": float("nan")}, "provenance=.* must be plain JSON data"),
        ({"licence": "MIT"}, "licence='MIT' gives more rights than the weights' own, CC-BY-NC-4.0"),
    ],
)
def test_a_provenance_that_cannot_be_is_refused(stated: Any, message: str, tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(write_model(tmp_path / "mine"), device="cpu")
    change(model)
    with pytest.raises(ConfigError, match=message):
        model.save_pretrained(tmp_path / "copy", provenance=stated)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("door", [write_card, lambda place: push(place, "me/model", dry_run=True)])
def test_a_card_is_not_written_or_pushed_for_weights_that_were_put_there_by_hand(
    door: Callable[[Path], object], tmp_path: Path
) -> None:
    place = write_model(tmp_path / "mine")
    door(place)
    tensors = load_file(place / "model.safetensors")
    tensors["encoder.norm.bias"] += 1
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(ConfigError, match="weights of its encoder were changed since config.json and README.md"):
        door(place)
    told, _ = saved(VJEPA.from_pretrained(place, device="cpu"), tmp_path / "copy")
    assert told["weights"] == "modified after they were loaded"
    door(tmp_path / "copy")


def test_a_trained_copy_in_the_place_of_a_run_s_model_has_not_the_run_s_card(tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = VJEPA.from_pretrained(write_model(run / "model"), device="cpu")
    (run / "config.toml").write_text("steps = 8\n")
    (run / "metrics.jsonl").write_text('{"step": 8, "loss": 0.5}\n')
    change(model)
    model.save_pretrained(run / "model")
    assert "## Configuration" not in write_card(run / "model").read_text()


def test_a_conversion_keeps_what_is_said(tmp_path: Path) -> None:
    convert(write_model(tmp_path / "mine"), tmp_path / "theirs", layout="transformers")
    told, _ = saved(VJEPA.from_pretrained(tmp_path / "theirs", device="cpu"), tmp_path / "ours")
    assert "weights" not in told and told["layout"] == "transformers vjepa2"


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_probe_that_was_changed_tells_no_scores(is_loaded: bool, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    probe = Probe.fit(rows, ["a", "b"] * 10, C=1.0)
    if is_loaded:
        probe = Probe.from_pretrained(probe.save_pretrained(tmp_path / "first"), device="cpu")
        same = Probe.from_pretrained(probe.save_pretrained(tmp_path / "same"), device="cpu")
        assert same.fitted == probe.fitted and same.provenance == probe.provenance
    with torch.no_grad():
        next(iter(probe.probe.state_dict().values())).view(-1)[0] += 1
    copy = Probe.from_pretrained(probe.save_pretrained(tmp_path / "copy"), device="cpu")
    assert not copy.fitted and copy.provenance["weights"] == "modified after they were loaded"
    assert "How it was fitted" not in (tmp_path / "copy" / "README.md").read_text()


def test_a_digest_depends_on_names_kinds_shapes_and_values_only() -> None:
    one = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    digest = weights_digest(one.items())
    assert weights_digest(reversed([(name, value.clone()) for name, value in one.items()])) == digest
    others = [
        {**one, "a": one["a"].T.contiguous()},
        {**one, "a": one["a"].double()},
        {**one, "b": one["b"] * 2},
        {"a": one["a"], "c": one["b"]},
    ]
    assert len({digest, *(weights_digest(each.items()) for each in others)}) == 5
