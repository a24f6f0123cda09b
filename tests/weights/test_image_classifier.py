"""An image classifier of transformers gives its logits through `Probe`, on the features of our encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import IJepaConfig, IJepaForImageClassification, IJepaModel, PreTrainedModel

from vjepa_sdk import VJEPA, Probe
from vjepa_sdk.errors import ConfigError, WeightsError

LABELS = ("cat", "dog", "tree")
SMALL = {
    "image_size": 32, "patch_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48,
}  # fmt: skip


@pytest.fixture
def theirs() -> IJepaForImageClassification:
    torch.manual_seed(0)
    model = IJepaForImageClassification(IJepaConfig(**SMALL, id2label=dict(enumerate(LABELS)))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def saved(theirs: IJepaForImageClassification, tmp_path: Path) -> Path:
    return _saved(theirs, tmp_path / "classifier")


def _saved(model: PreTrainedModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


@torch.no_grad()
def test_its_logits_are_those_of_transformers(theirs: IJepaForImageClassification, saved: Path) -> None:
    model, probe = VJEPA.from_pretrained(saved, device="cpu"), Probe.from_pretrained(saved, device="cpu")
    images = torch.randn(5, 3, 32, 32)
    expected = theirs(images).logits
    rows = model.forward_features(images[:, :, None]).mean(dim=1)
    torch.testing.assert_close(probe.probe(rows), expected, atol=2e-5, rtol=0)
    shares = probe.predict_proba(rows.numpy())
    np.testing.assert_allclose(shares, expected.softmax(-1).numpy(), atol=2e-5)
    assert list(probe.predict(rows.numpy())) == [LABELS[int(index)] for index in expected.argmax(-1)]
    assert (probe.labels, probe.kind) == (LABELS, "linear")


@torch.no_grad()
def test_it_names_what_an_image_shows(theirs: IJepaForImageClassification, saved: Path) -> None:
    model, probe = VJEPA.from_pretrained(saved, device="cpu"), Probe.from_pretrained(saved, device="cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    ((first, share), *_), = probe.classify(model, [image], top_k=3)  # fmt: skip
    row = model.encode(image)
    assert share == pytest.approx(float(probe.predict_proba(row[None]).max()), abs=1e-5)
    assert first == probe.predict(row[None])[0]


def test_it_is_saved_as_a_probe_of_ours(saved: Path, tmp_path: Path) -> None:
    probe = Probe.from_pretrained(saved, device="cpu")
    again = Probe.from_pretrained(probe.save_pretrained(tmp_path / "mine"), device="cpu")
    rows = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    np.testing.assert_array_equal(probe.predict_proba(rows), again.predict_proba(rows))
    assert again.labels == LABELS


def _change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_encoder_without_a_head_is_no_probe(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ConfigError, match="model_type='ijepa' must be 'vjepa2', or 'ijepa' with a classification head"):
        Probe.from_pretrained(_saved(IJepaModel(IJepaConfig(**SMALL)), tmp_path / "plain"), device="cpu")
    weights = load_file(saved / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "classifier.bias"}, saved / "model.safetensors")
    with pytest.raises(WeightsError, match="1 missing .*classifier.bias"):
        Probe.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("names", [{"0": "a", "2": "b"}, {"0": "a", "1": 7}, ["a", "b"]])
def test_class_names_that_are_not_valid_are_refused(names: object, saved: Path) -> None:
    _change_config(saved, id2label=names)
    with pytest.raises(ConfigError, match="id2label must"):
        Probe.from_pretrained(saved, device="cpu")
