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

from vjepa_sdk.config import MaskConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from vjepa_sdk.jepa import JEPA
from vjepa_sdk.masks import Masks

DIRECTORY = Path(__file__).parent / "golden"
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
        """The case's mask sets."""
        count = sum(name.startswith("context_index.") for name in self.tensors)
        return Masks(
            tuple(self.tensors[f"context_index.{i}"] for i in range(count)),
            tuple(self.tensors[f"target_index.{i}"] for i in range(count)),
        )

    @property
    def train_config(self) -> TrainConfig:
        """The recipe of the case's training trace."""
        trace, model = self.facts["trace"], self.jepa.model_config
        return TrainConfig(
            model=model,
            masks=(MaskConfig(), MaskConfig()),
            objective=ObjectiveConfig(ema_start=trace["ema"][0], ema_end=trace["ema"][1]),
            optim=OptimConfig(
                lr=trace["lr"],
                start_lr=trace["start_lr"],
                final_lr=trace["final_lr"],
                warmup_steps=trace["warmup"],
                schedule_scale=trace["T_max"] / trace["steps"],
                weight_decay=trace["wd"],
                final_weight_decay=trace["final_wd"],
                max_grad_norm=trace["clip"],
            ),
            steps=trace["steps"],
        )


def load_golden(name: str) -> Golden:
    """Build the model of a case and load its official checkpoint into it."""
    facts = json.loads((DIRECTORY / f"{name}.json").read_text())
    checkpoint = torch.load(DIRECTORY / f"{name}.pth.tar", weights_only=True)
    jepa = JEPA(model_config(name), ObjectiveConfig())
    for module, key in (
        (jepa.context_encoder, "encoder"),
        (jepa.target_encoder, facts.get("checkpoint_key", "target_encoder")),
        (jepa.predictor, "predictor"),
    ):
        module.load_state_dict({_our_name(k): _our_shape(k, v) for k, v in checkpoint[key].items()}, strict=True)
    return Golden(jepa, load_file(DIRECTORY / f"{name}.safetensors"), facts)


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
