"""A plan says what torch counts, what the networks hold and what a run writes."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_video
from tiny_models import IMAGE, VIDEO
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from vjepa_sdk import pretrain, train_config
from vjepa_sdk.config.recipes import RECIPES
from vjepa_sdk.config.training import DataConfig, ImagesConfig, MaskConfig, ObjectiveConfig, TrainConfig
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.models import block
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.training.data.masking import draw_image_masks, draw_masks
from vjepa_sdk.training.plan.estimate import Plan, decoding_seconds, plan
from vjepa_sdk.training.plan.report import plan_lines, size_text, time_text
from vjepa_sdk.training.step import autocast

BASE = TrainConfig(
    model=dataclasses.replace(VIDEO, img_size=96, embed_dim=48, depth=3, predictor_embed_dim=24, predictor_depth=2),
    masks=(MaskConfig(num_blocks=4), MaskConfig(num_blocks=1, spatial_scale=(0.6, 0.6))),
    steps=1,
    batch_size=4,
)
LEVELS = dataclasses.replace(
    BASE,
    model=dataclasses.replace(
        BASE.model,
        rope_layout="interleaved",
        level_layers=(0, 1, 2),
        predictor_levels=3,
        predictor_context=True,
        image_tokenizer=True,
    ),
    objective=ObjectiveConfig(context_weight=0.5, variance_weight=0.3, covariance_weight=0.1),
)
CASES = {
    "rope": BASE,
    "sincos": dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, position="sincos")),
    "several levels": LEVELS,
    "stills beside clips": dataclasses.replace(LEVELS, images=ImagesConfig(img_size=64, batch_size=6)),
    "image blocks": dataclasses.replace(
        BASE,
        model=dataclasses.replace(IMAGE, img_size=160, embed_dim=48),
        masks=(MaskConfig(kind="ijepa", num_blocks=3, spatial_scale=(0.15, 0.2), min_keep=2),),
        objective=ObjectiveConfig(loss="smooth_l1"),
    ),
    "checkpointing": dataclasses.replace(BASE, activation_checkpointing=True),
    "half precision": dataclasses.replace(BASE, precision="bfloat16"),
}


def step_of(config: TrainConfig, jepa: JEPA) -> Iterator[None]:
    """Run the passes of a run's first step, stopping after each forward pass and at the end."""
    inputs = [((config.model.num_frames, config.model.img_size), config.batch_size, draw_masks)]
    if config.images is not None:
        inputs.append(((1, config.images.img_size), config.images.batch_size, draw_image_masks))
    for (frames, side), size, draw in inputs:
        clips = torch.zeros(size, frames, 3, side, side, dtype=torch.uint8).float().transpose(1, 2)
        with autocast(config.precision, clips.device):
            loss = jepa(clips, draw(config, batch_size=size, step=0)).total
        yield
        loss.backward()
        del loss, clips
    yield


def attention_operations(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward_operations(
    grad: list[int], query: list[int], key: list[int], value: list[int], *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch's counter knows the fused attention of GPUs alone
FUSED_ON_CPUS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_operations,
}


def new_jepa(config: TrainConfig) -> JEPA:
    jepa = JEPA(config.model, config.objective)
    jepa.set_activation_checkpointing(config.activation_checkpointing)
    return jepa


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_that_torch_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "_SHORT", 0)  # the plan counts fused attention, which computes its weights twice
    config = CASES[name]
    jepa = new_jepa(config)
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPUS) as counter:
        for _ in step_of(config, jepa):
            pass
    assert plan(config).operations.total == pytest.approx(counter.get_total_flops(), rel=1e-3)


class LiveBytes(TorchDispatchMode):
    """Add up the memory of the tensors that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        return output

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, storage.nbytes())

    def forget(self, size: int) -> None:
        self.now -= size


@contextmanager
def live_bytes(*known: torch.Tensor) -> Iterator[LiveBytes]:
    live = LiveBytes()
    for tensor in known:
        live.seen.add(tensor.untyped_storage())
    with live:
        yield live


@pytest.mark.parametrize("name", [name for name in CASES if name != "stills beside clips"])
def test_activations_and_peak_are_what_a_pass_holds(name: str) -> None:
    config = dataclasses.replace(CASES[name], batch_size=16)
    jepa = new_jepa(config)
    for parameter in jepa.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with live_bytes(*jepa.parameters(), *jepa.buffers()) as live:
        passes = step_of(config, jepa)
        next(passes)
        kept = live.now
        for _ in passes:
            pass
    memory = plan(config).memory
    assert memory.activations == pytest.approx(kept, rel=0.15)
    assert memory.activations + memory.working == pytest.approx(live.peak, rel=0.15)


def test_parameters_are_those_of_the_networks() -> None:
    jepa = new_jepa(LEVELS)
    parameters = plan(LEVELS).parameters
    for name, count in dataclasses.asdict(parameters).items():
        assert count == sum(each.numel() for each in jepa.get_submodule(name).parameters())


def test_parameters_of_vit_large_are_the_published_ones() -> None:
    parameters = plan(RECIPES["vjepa2-vitl16"]).parameters
    # the official predictor, which has two mask tokens, and eight more
    assert (parameters.context_encoder, parameters.predictor) == (303_885_312, 22_086_016)


def test_target_encoder_of_vit_large_takes_what_was_published_per_clip() -> None:
    recipe = RECIPES["vjepa2-vitl16"]
    per_clip = plan(recipe).operations.target_encoder / recipe.batch_size
    assert per_clip == pytest.approx(1655.7e9, rel=0.01)


def test_mask_lengths_are_those_of_the_official_masks() -> None:
    # means that the official mask code gives at 16 frames of 224 px in batches of 24
    (clips,) = plan(RECIPES["vjepa-vitl16"]).passes
    short, long = clips.masks
    assert clips.tokens == 1568
    assert (short.context_tokens, short.target_tokens) == pytest.approx((370, 755), rel=0.1)
    assert long.target_tokens == pytest.approx(1093, rel=0.05)


def test_checkpoints_and_model_on_disk_have_the_planned_size(tmp_path: Path) -> None:
    write_video(tmp_path / "clips.mp4", num_frames=6)
    out = tmp_path / "run"
    config = dataclasses.replace(
        BASE,
        model=dataclasses.replace(BASE.model, img_size=64, embed_dim=240, predictor_embed_dim=96),
        data=DataConfig(path=str(tmp_path), num_workers=0),
        out=str(out),
        steps=4,
        batch_size=1,
        save_every=1,
    )
    pretrain(config)
    disk = plan(config).disk
    newest = max((out / "checkpoints").iterdir())
    for directory, planned in ((newest, disk.checkpoint), (out / "model", disk.model)):
        assert planned == pytest.approx(sum(file.stat().st_size for file in directory.iterdir()), rel=0.01)
    # one more than stays is there while it is written
    assert disk.checkpoints == len(list((out / "checkpoints").iterdir())) + 1
    assert disk.total == disk.checkpoints * disk.checkpoint + disk.model


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"steps": 100, "save_every": 10, "keep_checkpoints": 2}, 3),
        ({"steps": 5, "save_every": 10, "keep_checkpoints": 2}, 2),
        ({"steps": 100, "save_every": 10, "keep_checkpoints": 2, "keep_every": 50}, 6),
    ],
)
def test_checkpoints_are_counted_as_they_are_kept(settings: dict[str, int], count: int) -> None:
    assert plan(dataclasses.replace(BASE, **settings)).disk.checkpoints == count  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned(name: str) -> None:
    planned = plan(RECIPES[name])
    assert planned.total_operations == pytest.approx(planned.operations.total * planned.steps)
    assert json.loads(json.dumps(dataclasses.asdict(planned)))["preset"] == name
    text = "\n".join(plan_lines(planned))
    assert all(line for line in text.splitlines()) and f"{planned.steps:,} steps" in text
    subjects = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    stills = ["stills"] if RECIPES[name].images else []
    assert subjects == ["run", "parameters", "clips", *stills, "operations", "memory", "disk", "decoding", "time"]


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("vjepa2-vits16-8gb", 8), ("vjepa2-vitb16-24gb", 24), ("vjepa2-vitl16-80gb", 80)]
)
def test_recipes_fit_the_gpu_they_are_named_after(name: str, gigabytes: int) -> None:
    # a quarter is left for what is not counted: the allocator, cuBLAS, a desktop
    assert 0.5 * gigabytes * 1e9 < plan(RECIPES[name]).memory.total < 0.8 * gigabytes * 1e9


def test_several_devices_share_a_step() -> None:
    recipe = RECIPES["vjepa2-vitl16"]
    alone, together = plan(dataclasses.replace(recipe, batch_size=24)), plan(recipe, world_size=128)
    assert (together.passes[0].batch_size, together.passes[0].passes) == (24, 1)
    assert together.memory == alone.memory
    assert together.operations.total == pytest.approx(128 * alone.operations.total)
    assert together.hours["H100"] == pytest.approx(alone.hours["H100"])


def test_smaller_passes_need_less_memory_for_the_same_work() -> None:
    recipe = RECIPES["vjepa2-vitl16-80gb"]
    whole, cut = plan(recipe), plan(dataclasses.replace(recipe, micro_batch_size=12))
    assert cut.passes[0].passes == 4 * whole.passes[0].passes
    assert cut.memory.activations < 0.35 * whole.memory.activations
    # small batches cut less off their masks to make them equally long
    assert cut.operations.total == pytest.approx(whole.operations.total, rel=0.15)
    assert cut.memory.certain < cut.memory.total < whole.memory.total


def test_activation_checkpointing_trades_operations_for_memory() -> None:
    recipe = RECIPES["vjepa2-vitl16-80gb"]
    kept, forgotten = plan(recipe), plan(dataclasses.replace(recipe, activation_checkpointing=True))
    assert kept.operations.recomputation == 0 < forgotten.operations.recomputation
    assert forgotten.memory.activations < 0.2 * kept.memory.activations


def test_masks_that_cannot_be_drawn_are_told() -> None:
    masks = (MaskConfig(num_blocks=1, spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0)),)
    with pytest.raises(InputError, match="hid the whole grid"):
        plan(dataclasses.replace(BASE, masks=masks))


def test_world_size_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"world_size=0 must lie between 1 and 1000000; pass 1"):
        plan(BASE, world_size=0)


def test_step_that_devices_cannot_share_is_refused_as_training_does() -> None:
    with pytest.raises(
        ConfigError, match=r"which world_size=3 processes cannot share equally; pass a micro_batch_size"
    ):
        plan(dataclasses.replace(RECIPES["vjepa2-vitl16"], micro_batch_size=48), world_size=3)


def test_plan_needs_neither_clips_nor_output() -> None:
    assert plan(train_config(preset="tiny")).preset == "tiny"


def test_longer_and_larger_videos_take_longer_to_decode() -> None:
    data = DataConfig(frame_stride=(4, 4))
    clip = decoding_seconds(data, num_frames=16, crop_size=224)
    assert decoding_seconds(data, num_frames=1, crop_size=224) < clip
    assert clip < decoding_seconds(data, num_frames=16, crop_size=224, width=1280, height=720)
    # at 4 frames per second a 60 fps video is decoded in longer strides than one of 30 fps
    paced = DataConfig(fps=4.0)
    slow, fast = (decoding_seconds(paced, num_frames=16, crop_size=224, fps=fps) for fps in (30.0, 60.0))
    assert slow < fast


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(3 * 2**20), "3.0 MiB"),
        (size_text(1.5 * 2**30), "1.5 GiB"),
        (time_text(0.25), "0.25 s"),
        (time_text(90), "90 s"),
        (time_text(150), "2.5 minutes"),
        (time_text(36 * 3600), "36.0 hours"),
        (time_text(3 * 365 * 86400), "3.0 years"),
    ],
)
def test_sizes_and_times_have_readable_units(text: str, expected: str) -> None:
    assert text == expected


def line_of(planned: Plan, subject: str) -> str:
    return next(line for line in plan_lines(planned) if line.startswith(subject))


def test_lines_say_how_the_work_is_shared() -> None:
    planned = plan(RECIPES["vjepa2-vitl16"], world_size=8)
    assert line_of(planned, "clips") == "clips       3,072 a step, in 16 passes of 24 on each of 8 devices"
    assert "context encoder 303.9 M, predictor 22.1 M" in line_of(planned, "parameters")
    assert any("8 x H100 (assumed: 400 TFLOP/s)" in line for line in plan_lines(planned))


def test_image_blocks_are_told_one_by_one() -> None:
    planned = plan(RECIPES["ijepa-tiny"])
    assert any("hides 4 blocks of " in line for line in plan_lines(planned))
