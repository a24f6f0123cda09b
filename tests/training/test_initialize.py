"""A run starts from another run, a model directory, a hub id or an official file, whole networks or not at all."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import DIRECTORY, load_golden, model_config
from pickling import in_this_process
from safetensors.torch import load_file, save_file
from tiny_models import IMAGE, VIDEO, save_tiny
from tiny_runs import MODEL, metrics, newest, run_config, write_clips
from torch import Tensor

from vjepa_sdk import VJEPA, pretrain
from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.config.training import ObjectiveConfig, TrainConfig
from vjepa_sdk.errors import ConfigError, ResumeError, WeightsError
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.models.positions import sincos_table
from vjepa_sdk.runtime.files import sha256_of
from vjepa_sdk.training import initialize
from vjepa_sdk.training.checkpoint import load_latest, optimizer_tensors
from vjepa_sdk.training.initialize import Origin
from vjepa_sdk.training.initialize import initialize as run_initialize
from vjepa_sdk.training.step import make_optimizer
from vjepa_sdk.weights.convert import convert

TABLES = ("pos_embed", "predictor_pos_embed")


class Start:
    """A model that was just made, and what it was given."""

    def __init__(self, source: Path | str, out: Path, model: ModelConfig = MODEL, **changes: Any) -> None:
        objective = ObjectiveConfig(mask_token="shared")
        config = TrainConfig(model=model, objective=objective, init_from=str(source), out=str(out / "run"), **changes)
        torch.manual_seed(7)
        self.jepa = JEPA(model, objective)
        self.untouched = {name: value.clone() for name, value in self.jepa.state_dict().items()}
        self.optimizer = make_optimizer(self.jepa, config)
        self.origin: Origin = run_initialize(self.jepa, self.optimizer, config)

    def state(self, network: str) -> dict[str, Tensor]:
        """Return a network's tensors, without the tables of positions."""
        state = self.jepa.get_submodule(network).state_dict()
        return {name: value for name, value in state.items() if name not in TABLES}

    def is_untouched(self, network: str) -> bool:
        return all(
            torch.equal(value, self.untouched[f"{network}.{name}"]) for name, value in self.state(network).items()
        )


def assert_holds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    expected = {name: value for name, value in expected.items() if name not in TABLES}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps."""
    out = tmp_path_factory.mktemp("runs") / "first"
    pretrain(run_config(clips, out, steps=3))
    return out


class TestRun:
    def test_weights_average_and_optimizer_go_on_in_a_larger_model(self, run: Path, tmp_path: Path) -> None:
        larger = dataclasses.replace(MODEL, img_size=96, num_frames=8)
        start = Start(run, tmp_path, larger)
        saved = load_latest(run / "checkpoints")
        assert saved is not None
        assert_holds(start.jepa.state_dict(), saved.weights)
        assert not torch.equal(*(start.state(name)["norm.weight"] for name in ("target_encoder", "context_encoder")))
        assert_holds(optimizer_tensors(start.optimizer), saved.optimizer)
        weights = newest(run) / "weights.safetensors"
        assert start.origin == Origin("run first", sha256_of(weights), step=3)

    def test_run_that_starts_from_another_counts_from_zero_and_says_where_from(
        self, clips: Path, run: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "cooldown"
        larger = dataclasses.replace(MODEL, img_size=96, num_frames=8)
        result = pretrain(run_config(clips, out, model=larger, steps=2, init_from=str(run)))
        assert result.finished and [line["step"] for line in metrics(out)] == [1, 2]
        trained = VJEPA.from_pretrained(out / "model")
        assert trained.provenance["initialized_from"].startswith("run first, step 3, sha256 ")
        card = (out / "model" / "README.md").read_text()
        assert "run first, step 3" in card and str(run.parent) not in card
        again = load_latest(out / "checkpoints")
        # AdamW counts on: three steps there and two here
        assert again is not None and float(again.optimizer["0.step"]) == 5.0

    def test_resuming_does_not_start_over(self, clips: Path, run: Path, tmp_path: Path) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        (run / "checkpoints").rename(gone / "checkpoints")
        try:
            (gone / "config.toml").write_bytes((run / "config.toml").read_bytes())
            config = run_config(clips, tmp_path / "run", steps=3, init_from=str(gone))
            pretrain(config)
        finally:
            (gone / "checkpoints").rename(run / "checkpoints")
        before = metrics(tmp_path / "run")
        (gone / "config.toml").unlink()
        gone.rmdir()
        assert pretrain(config, resume=True).finished
        assert metrics(tmp_path / "run") == before
        with pytest.raises(ResumeError, match=r"init_from: .*gone -> .*first"):
            pretrain(dataclasses.replace(config, init_from=str(run)), resume=True)

    def test_damaged_checkpoint_is_passed_over_and_left_alone(
        self, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pretrain(run_config(clips, run := tmp_path / "first", steps=4))
        (newest(run) / "weights.safetensors").write_bytes(b"torn")
        assert Start(run, tmp_path).origin.step == 3
        assert "step-00000004 is damaged" in caplog.text
        assert (run / "checkpoints" / "step-00000004").is_dir()

    def test_run_without_checkpoints_points_to_its_model(self, tmp_path: Path) -> None:
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / "config.toml").touch()
        with pytest.raises(WeightsError, match="is a run without checkpoints; pass its model directory .*first/model"):
            Start(tmp_path / "first", tmp_path)

    def test_predictor_can_start_anew(self, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        deeper = dataclasses.replace(MODEL, predictor_depth=2)
        with pytest.raises(WeightsError, match=r"its predictor does not fit: .* missing .*init_predictor=false"):
            Start(run, tmp_path, deeper)
        start = Start(run, tmp_path, deeper, init_predictor=False)
        assert start.is_untouched("predictor") and not start.is_untouched("context_encoder")
        assert optimizer_tensors(start.optimizer) == {}
        assert "no predictor is taken from there; it starts from random weights" in caplog.text


class TestModelDirectory:
    def test_both_encoders_and_predictor_are_taken(self, run: Path, tmp_path: Path) -> None:
        start = Start(run / "model", tmp_path)
        saved = load_latest(run / "checkpoints")
        assert saved is not None
        assert_holds(start.jepa.state_dict(), saved.weights)
        assert optimizer_tensors(start.optimizer) == {}
        assert start.origin == Origin("model", sha256_of(run / "model" / "model.safetensors"))

    @pytest.mark.parametrize("model", [VIDEO, IMAGE], ids=["rotary", "sincos"])
    def test_one_encoder_serves_as_both_and_positions_are_made_anew(
        self, tmp_path: Path, model: ModelConfig, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = save_tiny(tmp_path / "source", model)
        larger = dataclasses.replace(model, img_size=64)
        with caplog.at_level(logging.INFO, logger="vjepa_sdk"):
            start = Start(source, tmp_path, larger)
        stored = load_file(source / "model.safetensors")
        for network in ("target_encoder", "context_encoder"):
            assert_holds(start.state(network), {k[8:]: v for k, v in stored.items() if k.startswith("encoder.")})
        assert_holds(start.state("predictor"), {k[10:]: v for k, v in stored.items() if k.startswith("predictor.")})
        for name, table in start.jepa.state_dict().items():
            if name.endswith(TABLES):
                assert torch.equal(table, start.untouched[name]) and table.shape[1] == 16 * larger.grid[0]
        assert (
            f"init_from={source}: loaded target_encoder (for both encoders), predictor (source, sha256" in caplog.text
        )

    def test_bundled_model_is_known_by_name(self, tmp_path: Path) -> None:
        model = VJEPA.from_pretrained("vjepa-tiny", device="cpu")
        start = Start("vjepa-tiny", tmp_path, model.config)
        assert_holds(start.state("target_encoder"), model.encoder.state_dict())
        assert (start.origin.source, start.origin.licence) == ("vjepa-tiny", "Apache-2.0")

    def test_half_precision_becomes_single(self, tmp_path: Path) -> None:
        model = VJEPA.untrained(VIDEO, seed=0, device="cpu")
        start = Start(model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16), tmp_path, VIDEO)
        assert {value.dtype for value in start.jepa.state_dict().values()} == {torch.float32}
        expected = {k: v.bfloat16().float() for k, v in model.encoder.state_dict().items()}
        assert_holds(start.state("target_encoder"), expected)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"depth": 3}, WeightsError, r"target_encoder does not fit: 12 tensors missing \['blocks.2"),
            ({"depth": 1}, WeightsError, r"12 unexpected \['blocks.1"),
            (
                {"embed_dim": 48},
                WeightsError,
                r"another shape \['patch_embed.proj.weight \(24, .* instead of \(48, ",
            ),
            (
                {"num_heads": 1},
                ConfigError,
                r"another kind of model: num_heads=2 there, 1 here; set \[model",
            ),
            ({"rope_layout": "interleaved"}, ConfigError, "rope_layout=tiled there, interleaved here"),
            ({"position": "sincos"}, ConfigError, "position=rope there, sincos here"),
        ],
    )
    def test_model_of_another_kind_is_refused_and_nothing_is_loaded(
        self, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            Start(save_tiny(tmp_path / "source"), tmp_path, dataclasses.replace(VIDEO, **change))

    def test_refusal_leaves_a_directory_that_can_be_used_again(self, clips: Path, run: Path, tmp_path: Path) -> None:
        config = run_config(clips, tmp_path / "run", steps=1, init_from=str(tmp_path / "typo"))
        with pytest.raises(ConfigError, match="typo: no such directory; pass a model directory"):
            pretrain(config)
        assert pretrain(dataclasses.replace(config, init_from=str(run))).finished


class TestOfficialFile:
    @pytest.mark.parametrize(
        "name", ["vjepa1_tiny", "vjepa2_tiny", "ijepa_tiny", "vjepa21_tiny", "vjepa21_tiny_distilled"]
    )
    def test_weights_equal_those_of_the_converted_directory(self, tmp_path: Path, name: str) -> None:
        source, config = DIRECTORY / f"{name}.pth.tar", model_config(name)
        is_distilled = config.predictor_out_dim is not None
        model = dataclasses.replace(config, predictor_out_dim=None)
        if is_distilled:
            with in_this_process(), pytest.raises(WeightsError, match="predictor does not fit: .* of another shape"):
                Start(source, tmp_path, model)
        with in_this_process():
            converted = convert(source, tmp_path / "converted", arch=config).out
            start = Start(source, tmp_path, model, init_predictor=not is_distilled)
            same = Start(converted, tmp_path, model, init_predictor=not is_distilled)
        assert_holds(start.jepa.state_dict(), same.jepa.state_dict())
        assert not start.is_untouched("context_encoder") and not start.is_untouched("target_encoder")
        assert start.is_untouched("predictor") == is_distilled
        assert start.origin == Origin(source.name, sha256_of(source))

    def test_objective_goes_on_where_the_official_one_was(self, tmp_path: Path) -> None:
        golden = load_golden("vjepa2_tiny")
        with in_this_process():
            start = Start(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path, golden.jepa.model_config)
        assert_holds(start.jepa.state_dict(), golden.jepa.state_dict())

    def test_file_is_read_in_the_child_process(self, tmp_path: Path) -> None:
        assert Start(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path, model_config("vjepa2_tiny")).origin.sha256
        assert [path.name for path in tmp_path.iterdir()] == []

    def test_part_of_a_network_is_refused(self, tmp_path: Path) -> None:
        whole = torch.load(DIRECTORY / "vjepa2_tiny.pth.tar", weights_only=True)
        for name in ("module.backbone.norm.bias", "module.backbone.norm.weight"):
            del whole["target_encoder"][name]
        torch.save(whole, path := tmp_path / "part.pt")
        with (
            in_this_process(),
            pytest.raises(WeightsError, match=r"target_encoder does not fit: 2 tensors missing \['norm.bias', 'norm.w"),
        ):
            Start(path, tmp_path, model_config("vjepa2_tiny"))

    def test_numbers_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        whole = torch.load(DIRECTORY / "vjepa2_tiny.pth.tar", weights_only=True)
        whole["encoder"]["module.backbone.norm.bias"][3] = float("inf")
        torch.save(whole, path := tmp_path / "bad.pt")
        with in_this_process(), pytest.raises(WeightsError, match=r"context_encoder.norm.bias holds NaN or infinity"):
            Start(path, tmp_path, model_config("vjepa2_tiny"))

    def test_published_model_with_another_number_of_heads_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = model_config("vjepa2_tiny")
        monkeypatch.setitem(initialize.official_layout.ARCHITECTURES, "vjepa2-vitl16", config)
        other = dataclasses.replace(config, num_heads=config.num_heads // 2)
        with in_this_process(), pytest.raises(ConfigError, match=r"num_heads=\d there, \d here"):
            Start(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path, other)
        with in_this_process():
            start = Start(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path, config)
        assert start.origin.licence == "MIT"

    def test_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        save_file({"x": torch.zeros(1)}, path := tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match="no checkpoint that torch.save wrote, by its content"):
            Start(path, tmp_path)


@pytest.mark.parametrize("uniform_power", [True, False])
def test_positions_of_another_clip_size_follow_the_formula_of_the_weights(uniform_power: bool, tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, position="sincos", predictor_embed_dim=16)
    first = VJEPA.untrained(model, device="cpu")
    assert first.predictor is not None
    first.encoder.pos_embed = sincos_table(model.grid, 24, uniform_power=uniform_power)[None]
    first.predictor.predictor_pos_embed = sincos_table(model.grid, 16, uniform_power=uniform_power)[None]
    larger = dataclasses.replace(model, img_size=96, num_frames=8)
    jepa = Start(first.save_pretrained(tmp_path / "first"), tmp_path, larger).jepa
    for table in (jepa.context_encoder.pos_embed, jepa.target_encoder.pos_embed):
        assert torch.equal(table[0], sincos_table(larger.grid, 24, uniform_power=uniform_power))
    assert torch.equal(
        jepa.predictor.predictor_pos_embed[0], sincos_table(larger.grid, 16, uniform_power=uniform_power)
    )
