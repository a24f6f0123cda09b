"""Maps are the softmax of q k / sqrt(d), as numpy finds it from the probe's own weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from outlines import Outline
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA, Probe
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.viz.attention import attention_maps

LABELS = ("up", "<b>down</b>", "still")


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


def make_probe(**changes: Any) -> Probe:
    torch.manual_seed(0)
    probe = AttentiveProbe(ProbeConfig(embed_dim=24, num_classes=3, num_heads=4, **changes)).eval()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # else all attention is nearly even
    return Probe(probe, LABELS, {})


def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), dtype=np.uint8)


def recomputed(probe: Probe, tokens: np.ndarray) -> np.ndarray:
    """Return softmax(q k / sqrt(d)) of what enters the cross-attention, `[heads, N]`, with numpy in float64."""
    of = {name: value.numpy().astype(np.float64) for name, value in probe.probe.state_dict().items()}
    block = "pooler.cross_attention_block."
    rows = tokens.astype(np.float64)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    rows = rows * of[block + "norm1.weight"] + of[block + "norm1.bias"]
    query = of["pooler.query_tokens"][0, 0] @ of[block + "xattn.q.weight"].T + of[block + "xattn.q.bias"]
    keys = (rows @ of[block + "xattn.kv.weight"].T + of[block + "xattn.kv.bias"])[:, :24]
    found = []
    for head in range(4):
        part = slice(6 * head, 6 * head + 6)
        scores = keys[:, part] @ query[part] / np.sqrt(6)
        found.append(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
    return np.stack(found)


@pytest.mark.parametrize("self_attention", ["before", "after"])
def test_weights_are_those_of_numpy(model: VJEPA, self_attention: Any) -> None:
    probe = make_probe(depth=3, self_attention=self_attention)
    maps = attention_maps(model, video(), probe=probe, source_fps=10)
    tokens = model.encode(video(), pooling="none").reshape(1, -1, 24)
    if self_attention == "before":
        with torch.no_grad():
            for block in probe.probe.pooler.blocks:
                tokens = block(torch.as_tensor(tokens), rope=None)
    expected = recomputed(probe, np.asarray(tokens)[0])
    assert expected.max() > 1.5 * expected.mean()
    assert maps.weights.shape == (4, 2, 2, 2) and maps.weights.reshape(4, -1) == pytest.approx(expected, abs=1e-5)
    assert maps.weights.sum(axis=(1, 2, 3)) == pytest.approx(np.ones(4), abs=1e-5)
    assert maps.values[..., 0] == pytest.approx(maps.weights.mean(axis=0))


def test_weights_times_values_are_what_the_probe_pools(model: VJEPA) -> None:
    probe = make_probe().probe
    tokens = torch.from_numpy(model.encode(video(), pooling="none").reshape(1, -1, 24))
    block = probe.pooler.cross_attention_block
    with torch.no_grad():
        values = block.xattn.kv(block.norm1(tokens))[0, :, 24:].unflatten(-1, (4, 6))
        pooled = torch.einsum("hn,nhd->hd", probe.attention(tokens)[0], values).flatten()
        assert torch.allclose(pooled, block.xattn(probe.pooler.query_tokens, block.norm1(tokens))[0, 0], atol=1e-5)


def test_a_probe_of_several_layers_has_a_map_of_each(model: VJEPA) -> None:
    probe = make_probe(layers=(0, 1))
    maps = attention_maps(model, video(), probe=probe, source_fps=10)
    clip = model.clip_loader()(video())[0]
    tokens = model.embed_clips(torch.from_numpy(clip)[None], pooling="none", layers=[0, 1])[0].numpy()
    expected = recomputed(probe, tokens.reshape(-1, 24)).reshape(4, 2, 2, 2, 2)
    assert maps.weights == pytest.approx(expected.sum(axis=1), abs=1e-5)
    for place in range(2):
        share = expected[:, place].sum(axis=(1, 2, 3))
        assert maps.layer_shares[place] == pytest.approx(share, abs=1e-5)
        assert maps.of_layers[place] == pytest.approx(expected[:, place] / share[:, None, None, None], abs=1e-4)
    assert [each.label for each in maps.details()] == ["block 0", "block 1", "head 0", "head 1", "head 2", "head 3"]


def test_the_clip_is_that_of_encode(model: VJEPA) -> None:
    maps = attention_maps(model, video(), probe=make_probe(), source_fps=10)
    assert maps.volume.frame_seconds == pytest.approx([0.0, 0.3, 0.5, 0.8])  # frames 0, 3, 5 and 8 of 9
    assert maps.volume.tubelet_seconds == pytest.approx([0.15, 0.65])
    part = attention_maps(model, video(), probe=make_probe(), source_fps=10, fps=10, start_seconds=0.2)
    assert part.volume.frame_seconds == pytest.approx([0.2, 0.3, 0.4, 0.5])


def test_captions_say_what_the_keys_are(model: VJEPA) -> None:
    for changes, words in (
        ({"depth": 4}, "after 3 blocks of self-attention in the probe"),
        ({"depth": 2}, "after 1 block of self-attention"),
        ({"depth": 2, "self_attention": "after"}, "keys are the encoder's tokens"),
        ({}, "keys are the encoder's tokens"),
    ):
        assert words in attention_maps(model, video(), probe=make_probe(**changes), source_fps=10).note  # type: ignore[arg-type]


def test_a_page_names_the_classes_as_text(model: VJEPA, tmp_path: Path) -> None:
    maps = attention_maps(model, video(), probe=make_probe(), source_fps=10)
    with torch.no_grad():
        tokens = torch.from_numpy(model.encode(video(), pooling="none").reshape(1, -1, 24))
        expected = make_probe().probe(tokens)[0].softmax(-1).numpy()
    assert dict(maps.classes) == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)
    page = maps.save(tmp_path / "a.html", command=["vjepa"]).read_bytes()
    assert b"<b>down" not in page and "<b>down</b>" in Outline(page).text
    with np.load(maps.save(tmp_path / "a.npz"), allow_pickle=False) as stored:
        assert np.array_equal(stored["attention"], maps.weights)


def test_probes_and_models_that_do_not_fit_are_refused(model: VJEPA) -> None:
    other = Probe(AttentiveProbe(ProbeConfig(embed_dim=32, num_classes=3)), (), {})
    with pytest.raises(ConfigError, match="the probe reads 32 features a token, and .* gives 24; pass the encoder"):
        attention_maps(model, video(), probe=other, source_fps=10)
    linear = Probe.fit(np.random.default_rng(0).normal(size=(8, 24)), ["a", "b"] * 4, C=1.0)
    with pytest.raises(ConfigError, match="a probe of kind 'linear' attends to no tokens; pass an attentive one"):
        attention_maps(model, video(), probe=linear, source_fps=10)
    with pytest.raises(ConfigError, match="this one encodes images"):
        attention_maps(VJEPA.untrained(IMAGE, device="cpu"), video(), probe=make_probe(), source_fps=10)
    with pytest.raises(ConfigError, match=r"layers=\[5\] must name blocks of the 2"):
        attention_maps(model, video(), probe=make_probe(layers=(5,)), source_fps=10)


def test_the_command_reads_a_probe_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("model"))
    make_probe().save_pretrained("probe")
    write_video(Path("a.mp4"))
    for extra in (["-o", "a.png"], ["-o", "b.png", "--heads", "--json"]):
        words = ["viz", "attention", "a.mp4", "--model", "model", "--probe", "probe", *extra]
        monkeypatch.setattr(sys, "argv", ["vjepa", *words])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        printed = capsys.readouterr().out
        if "--json" in extra:
            facts = json.loads(printed)
            assert facts["heads"] == 4 and set(facts["classes"]) == set(LABELS)
        else:
            assert printed.startswith("a.png: 4 frames, 4 heads, ")
    assert Path("b.png").stat().st_size > Path("a.png").stat().st_size
