"""Official probe files load, and compute what the official code computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pickling import in_this_process
from torch import Tensor
from torch.nn import functional as F

from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.downstream.encoding import probe_tokens
from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.probe_directory import load_probe, save_probe

CPU = torch.device("cpu")
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}
DIM, CLASSES, HEADS = 64, 5, 16


@pytest.fixture(autouse=True)
def in_process() -> Iterator[None]:
    with in_this_process():
        yield


def _official_probe(*, depth: int, is_first: bool, classes: int = CLASSES) -> dict[str, Tensor]:
    """Return an official probe's tensors with random values, by their names in the file."""
    config = ProbeConfig(embed_dim=DIM, num_classes=classes, depth=depth)
    generator = torch.Generator().manual_seed(depth)
    state = {
        f"module.{name}": torch.randn(value.shape, generator=generator) * 0.2
        for name, value in AttentiveProbe(config).state_dict().items()
    }
    if is_first:
        unused = {"weight": torch.randn(DIM, DIM), "bias": torch.randn(DIM)}
        state |= {f"module.pooler.cross_attention_block.xattn.proj.{key}": value for key, value in unused.items()}
    return state


def _official_logits(state: dict[str, Tensor], tokens: Tensor, *, depth: int, is_first: bool) -> Tensor:
    """Compute the logits in plain operations: the official code, restated (16 heads, eps 1e-5)."""
    w = {name.removeprefix("module."): value for name, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.reshape(len(x), -1, HEADS, DIM // HEADS).transpose(1, 2) for x in (q, k, v))
        shares = (q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5).softmax(-1)
        return (shares @ v).transpose(1, 2).reshape(len(q), -1, DIM)

    def mlp(x: Tensor, name: str) -> Tensor:
        return linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    def blocks(x: Tensor) -> Tensor:
        for i in range(depth - 1):
            name = f"pooler.blocks.{i}"
            x = x + linear(
                attend(*linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, -1)), f"{name}.attn.proj"
            )
            x = x + mlp(x, name)
        return x

    tokens, cross = tokens if is_first else blocks(tokens), "pooler.cross_attention_block"
    query = w["pooler.query_tokens"].expand(len(tokens), -1, -1)
    keys, values = linear(norm(tokens, f"{cross}.norm1"), f"{cross}.xattn.kv").chunk(2, -1)
    query = query + attend(linear(query, f"{cross}.xattn.q"), keys, values)
    query = query + mlp(query, cross)
    return linear((blocks(query) if is_first else query)[:, 0], "linear")


@pytest.mark.parametrize(
    ("depth", "is_first"), [(1, True), (3, True), (4, False)], ids=["V-JEPA 1", "V-JEPA 1 deep", "V-JEPA 2"]
)
@torch.no_grad()
def test_official_probe_files_give_the_official_logits(depth: int, is_first: bool, tmp_path: Path) -> None:
    state = _official_probe(depth=depth, is_first=is_first)
    held = {"classifier": state} if is_first else {"classifiers": [state, _official_probe(depth=4, is_first=False)]}
    torch.save({**held, "opt": {}, "epoch": 20}, tmp_path / "probe.pt")
    report = convert(tmp_path / "probe.pt", tmp_path / "probe")
    tokens = torch.randn(2, 24, DIM)
    expected = _official_logits(state, tokens, depth=depth, is_first=is_first)
    loaded = load_probe(tmp_path / "probe", device=CPU)
    torch.testing.assert_close(loaded.probe(tokens), expected, **TOLERANCE)
    assert report.kind == "probe"
    assert set(report.mapped) == set(loaded.probe.state_dict())
    if is_first:
        assert "never used" in report.dropped["classifier/module.pooler.cross_attention_block.xattn.proj.bias"]
    else:
        assert "the first is taken" in report.dropped["classifiers/1/module.linear.bias"]


def test_probes_trained_on_several_layers_need_to_be_named(tmp_path: Path) -> None:
    torch.save({"classifiers": [_official_probe(depth=4, is_first=False, classes=48)]}, tmp_path / "probe.pt")
    with pytest.raises(ConfigError, match="probes of 48 classes were trained on four layers.*diving48-vitl-256"):
        convert(tmp_path / "probe.pt", tmp_path / "probe")
    convert(tmp_path / "probe.pt", tmp_path / "probe", arch="diving48-vitl-256")
    assert load_probe(tmp_path / "probe", device=CPU).probe.config.layers == (17, 19, 21, 23)


@torch.no_grad()
def test_several_layers_are_read_one_after_the_other_each_normed() -> None:
    config = ModelConfig(img_size=32, num_frames=4, embed_dim=DIM, depth=4, num_heads=4)
    encoder, clips = VideoEncoder(config).eval(), torch.randn(2, 3, 4, 32, 32)
    tokens = probe_tokens(encoder, clips, layers=(1, 3))
    second, last = encoder.get_intermediate_layers(clips, (1, 3), norm=False)
    torch.testing.assert_close(tokens, torch.cat([encoder.norm(second), encoder.norm(last)], dim=1))
    assert torch.equal(probe_tokens(encoder, clips, layers=()), encoder(clips))


def test_other_kinds_of_probe_are_refused(tmp_path: Path) -> None:
    state = _official_probe(depth=4, is_first=False) | {"module.pooler.query_tokens": torch.zeros(1, 3, DIM)}
    torch.save({"classifiers": [state]}, tmp_path / "probe.pt")
    with pytest.raises(WeightsError, match="another kind of probe"):
        convert(tmp_path / "probe.pt", tmp_path / "probe")


def test_a_saved_probe_loads_bit_by_bit(tmp_path: Path) -> None:
    probe = AttentiveProbe(ProbeConfig(embed_dim=32, num_classes=2, depth=2, layers=(3, 5)))
    save_probe(tmp_path, probe, labels=["no", "yes"], provenance={"by": "hand"})
    loaded = load_probe(tmp_path, device=CPU)
    assert loaded.probe.config == probe.config
    assert (loaded.labels, loaded.provenance) == (("no", "yes"), {"by": "hand"})
    assert all(torch.equal(value, loaded.probe.state_dict()[name]) for name, value in probe.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": None}, "describes no probe"),
        ({"probe": {"embed_dim": 33, "num_classes": 2}}, "embed_dim=33 must be a multiple of num_heads=16"),
        ({"labels": ["one"]}, "1 labels must be as many as num_classes=2"),
        ({"labels": "yes"}, "labels must be a list of texts"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"format_version": 2}, "format_version=2 must be 1"),
        ({"model_type": "ijepa"}, "model_type='ijepa' must be 'vjepa2'"),
    ],
)
def test_a_probe_directory_that_is_not_valid_says_what(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_probe(tmp_path, AttentiveProbe(ProbeConfig(embed_dim=32, num_classes=2)), provenance={})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_probe(tmp_path, device=CPU)


def test_probe_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_probe(tmp_path, AttentiveProbe(ProbeConfig(embed_dim=32, num_classes=2)), provenance={})
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    data["probe"]["num_classes"] = 3
    path.write_text(json.dumps(data))
    with pytest.raises(WeightsError, match=r"tensor 'linear.weight' must have shape \(3, 32\), got \(2, 32\)"):
        load_probe(tmp_path, device=CPU)
