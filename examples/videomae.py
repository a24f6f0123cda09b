"""Pretrain the same encoder to reconstruct pixels, as VideoMAE does (arXiv 2203.12602).

The encoder sees a few places, the same in every frame; a narrow decoder guesses the pixels of all others, each patch
normalised to mean 0 and deviation 1 in each colour. Clips, crops, optimizer and schedules are those of
`vjepa_sdk.pretrain`; what differs is the target.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vjepa_sdk import TrainConfig
from vjepa_sdk.config.model import PreprocessConfig
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.training.data.batches import BadClips
from vjepa_sdk.training.data.loader import StepLoader
from vjepa_sdk.training.distributed import Group
from vjepa_sdk.training.step import make_optimizer, train_step
from vjepa_sdk.weights.directory import save_model_directory


class PixelReconstruction(JEPA):
    """A JEPA whose targets are pixels: nothing is averaged, and nothing can collapse."""

    @torch.no_grad()
    def targets(self, clips: Tensor) -> Tensor:
        """Cut clips `[B, 3, T, H, W]` into tubelets and normalise each colour of each: `[B, N, t * p * p * 3]`."""
        t, p = self.model_config.tubelet_size, self.model_config.patch_size
        frames, rows, columns = self.context_encoder.grid_of(clips)
        tubelets = clips.float().reshape(len(clips), 3, frames, t, rows, p, columns, p)
        pixels = tubelets.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(len(clips), frames * rows * columns, t * p * p, 3)
        std, mean = torch.std_mean(pixels, dim=2, keepdim=True)
        return ((pixels - mean) / (std + 1e-6)).flatten(2)

    def update_target(self, momentum: float) -> None:
        """Do nothing: there is no second encoder."""


def pretrain_videomae(config: TrainConfig) -> Path:
    """Train to the end and write a model directory with the encoder to `config.out/model`.

    Args:
        config: as for `pretrain`; one mask set of kind `random_tube`, loss `l2`, no term against collapse.
    """
    model = replace(config.model, predictor_out_dim=3 * config.model.tubelet_size * config.model.patch_size**2)
    device, group = torch.device(config.device or "cpu"), Group()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PixelReconstruction(model, config.objective).to(device)
    optimizer = make_optimizer(network, config)
    loader = StepLoader(config, group=group, device=device, bad=BadClips())
    loader.open_caches()
    with loader.batches(first_step=0) as batches:
        for step, batch in enumerate(batches):
            train_step(network, optimizer, loader.passes(batch, step=step), config=config, step=step)
    return save_model_directory(
        Path(config.out) / "model",
        config=model,
        preprocess=PreprocessConfig.for_crop(model.img_size),
        modules={"encoder": network.context_encoder, "predictor": network.predictor},
        encoder_weights="context",
        provenance={"made_by": "pixel reconstruction", "steps": config.steps, "seed": config.seed},
        card="# Pixel reconstruction\n",
    )
