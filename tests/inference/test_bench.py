"""`bench` counts operations as the profiler does, and recommends what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from media import write_video
from tiny_models import IMAGE, VIDEO, save_tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vjepa_sdk import VJEPA
from vjepa_sdk.cli import app
from vjepa_sdk.config.choices import Precision
from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.inference.bench import EncodeRate, bench, best_rate, gflop_of
from vjepa_sdk.models.encoder import VideoEncoder

RATE = EncodeRate(
    precision="float32",
    batch_size=8,
    clips_per_second=10.0,
    tokens_per_second=1.0,
    gflop_per_second=1.0,
    peak_share=0.5,
    cosine=1.0,
)


@pytest.mark.parametrize("config", [VIDEO, IMAGE, replace(VIDEO, mlp_ratio=2.5)], ids=["video", "image", "narrow"])
def test_operations_are_those_that_torch_counts(config: ModelConfig) -> None:
    clips = torch.randn(1, 3, config.num_frames, config.img_size, config.img_size)
    encoder = VideoEncoder(config)
    # the fused kernel of CPUs is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        tokens = encoder(clips).shape[1]
    assert gflop_of(config, tokens) == pytest.approx(counter.get_total_flops() / 1e9)


def test_what_is_fastest_is_recommended_unless_its_features_are_far_off() -> None:
    small = replace(RATE, batch_size=4, clips_per_second=9.9)
    far = replace(RATE, precision="int8", clips_per_second=30.0, cosine=0.99)
    near = replace(RATE, precision="bfloat16", clips_per_second=20.0, cosine=0.9999)
    assert best_rate([RATE, far]) == RATE
    assert best_rate([RATE, far, near]) == near
    assert best_rate([RATE, small]) == small


def test_the_command_prints_a_report_and_a_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = save_tiny(tmp_path / "model")
    write_video(tmp_path / "my clip.mp4", num_frames=8)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    words = [str(tmp_path), "--model", str(model), "--device", "cpu", "--seconds", "2", "--json"]
    app.app(["bench", *words], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["tokens"], report["num_frames"]) == (1, 8, 4)
    assert "bad.mp4" in caplog.text and "it is left out" in caplog.text
    assert report["decode_clips_per_second"] > 0 and report["rates"][0]["batch_size"] == 1
    assert f"--model {model} --batch-size {report['batch_size']} --num-workers" in report["command"]


def test_all_inputs_are_in_the_command_and_every_clip_of_a_batch_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [write_video(tmp_path / name, num_frames=8) for name in ("a.mp4", "b.mp4")]
    embed_clips = VJEPA.embed_clips

    def with_a_far_last_clip(self: VJEPA, clips: torch.Tensor, *, precision: Precision | None = None) -> torch.Tensor:
        features = embed_clips(self, clips, precision=precision)
        return torch.cat([features[:-1], -features[-1:]]) if precision == "bfloat16" else features

    monkeypatch.setattr(VJEPA, "embed_clips", with_a_far_last_clip)
    monkeypatch.setattr("vjepa_sdk.inference.bench.BATCH_SIZES", (2,))
    report = bench(iter(inputs), model=save_tiny(tmp_path / "model"), device="cpu", seconds=30)
    assert report.command.startswith(f"vjepa embed {inputs[0]} {inputs[1]} --out feats.npy")
    assert {rate.precision: round(rate.cosine) for rate in report.rates} == {"float32": 1, "bfloat16": -1, "int8": 1}


def test_clips_that_cannot_be_decoded_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match=r"no clip can be decoded; the last one: .*bad\.mp4"):
        bench(tmp_path / "bad.mp4", model=save_tiny(tmp_path / "model"), device="cpu", seconds=1)
