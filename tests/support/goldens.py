"""Load the golden vectors of the official implementations."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.config.training import MaskConfig, ObjectiveConfig, OptimConfig, TrainConfig
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.models.masks import Masks

DIRECTORY = Path(__file__).parents[1] / "golden"
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


@dataclass(frozen=True)
class Golden:
    """One case: its model with the official weights, its vectors and its facts."""

    jepa: JEPA
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def clips(self) -> Tensor:
        """Input as clips [B, 3, T, H, W]."""
        clips = self.tensors["input"]
        return clips if clips.ndim == 5 else clips.unsqueeze(2)

    @property
    def masks(self) -> Masks:
        """The case's mask sets; I-JEPA's four target blocks belong to one set."""
        context, target = (
            tuple(
                self.tensors[f"{kind}_index.{i}"]
                for i in range(len(self.tensors))
                if f"{kind}_index.{i}" in self.tensors
            )
            for kind in ("context", "target")
        )
        return Masks(context, target if len(context) == len(target) else (torch.stack(target, dim=1),))

    @property
    def train_config(self) -> TrainConfig:
        """The recipe of the case's training trace."""
        trace, model = self.facts["trace"], self.jepa.model_config
        per_epoch = trace.get("ipe", 1)
        return TrainConfig(
            model=model,
            masks=tuple(MaskConfig() for _ in self.masks.context),
            objective=self.jepa.objective,
            optim=OptimConfig(
                lr=trace["lr"],
                start_lr=trace["start_lr"],
                final_lr=trace["final_lr"],
                warmup_steps=int(trace.get("warmup", 0) + trace.get("warmup_epochs", 0) * per_epoch),
                schedule_scale=trace.get("ipe_scale") or trace["T_max"] / trace["steps"],
                weight_decay=trace["wd"],
                final_weight_decay=trace["final_wd"],
                max_grad_norm=trace.get("clip"),
            ),
            steps=trace.get("epochs", trace["steps"]) * per_epoch,
        )


def load_golden(name: str, *, predictor_rope_grid: int | None = None) -> Golden:
    """Build the model of a case and load its official checkpoint into it.

    Args:
        predictor_rope_grid: 16 for what V-JEPA 2.1 trains, None for what its hub code runs.
    """
    facts = json.loads((DIRECTORY / f"{name}.json").read_text())
    checkpoint = torch.load(DIRECTORY / f"{name}.pth.tar", weights_only=True)
    model = dataclasses.replace(model_config(name), predictor_rope_grid=predictor_rope_grid)
    jepa = JEPA(model, _objective(facts))
    for module, key in (
        (jepa.context_encoder, "encoder"),
        (jepa.target_encoder, facts.get("checkpoint_key", "target_encoder")),
        (jepa.predictor, "predictor"),
    ):
        module.load_state_dict({_our_name(k): _our_shape(k, v) for k, v in checkpoint[key].items()}, strict=True)
    return Golden(jepa, load_file(DIRECTORY / f"{name}.safetensors"), facts)


def _objective(facts: dict[str, Any]) -> ObjectiveConfig:
    trace = facts.get("trace", {})
    start, end = ema if isinstance(ema := trace.get("ema", 1.0), list) else (ema, ema)
    is_ramped = "lambda_start" in trace
    return ObjectiveConfig(
        loss="smooth_l1" if facts["which"] == "ijepa" else "l1",
        context_weight=trace.get("lambda", 0.0),
        context_ramp=(trace["lambda_start"], trace["lambda_end"]) if is_ramped else None,
        mask_token="shared" if facts["which"] == "vjepa2_1" else "per_mask",
        ema_start=start,
        ema_end=end,
    )


def _our_name(key: str) -> str:
    name = key.removeprefix("module.").removeprefix("backbone.")
    return "mask_tokens.0" if name == "mask_token" else name


def _our_shape(key: str, value: Tensor) -> Tensor:
    is_flat = key.endswith("patch_embed.proj.weight") and value.ndim == 4
    return value.unsqueeze(2) if is_flat else value


def model_config(name: str) -> ModelConfig:
    """Return the configuration of a case's model."""
    facts = json.loads((DIRECTORY / f"{name}.json").read_text())
    size = facts["size"] if isinstance(facts["size"], int) else facts["size"][0]
    config = ModelConfig(
        img_size=size,
        num_frames=facts.get("frames", 1),
        tubelet_size=2 if "frames" in facts else 1,
        patch_size=facts["patch"],
        embed_dim=facts["dim"],
        depth=facts["depth"],
        num_heads=facts["heads"],
        position="sincos" if facts["which"] in ("vjepa1", "ijepa") else "rope",
        predictor_embed_dim=facts["pdim"],
        predictor_depth=facts["pdepth"],
        predictor_num_heads=facts.get("pheads", facts["heads"]),
        num_mask_tokens={"vjepa1": 2, "vjepa2": 10, "vjepa2_1": 8, "ijepa": 1}[facts["which"]],
    )
    if facts["which"] != "vjepa2_1":
        return config
    is_distilled = facts["n_output_distillation"] == 1
    return dataclasses.replace(
        config,
        rope_layout="interleaved",
        rope_grid=16,
        level_layers=tuple(facts["hierarchical_layers"]),
        image_tokenizer=True,
        predictor_levels=facts["n_output_distillation"],
        predictor_out_dim=facts["predictor_out"] if is_distilled else None,
        predictor_context=True,
    )
