"""Join context encoder, target encoder and predictor into one training objective."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model import ModelConfig
from ..config.training import ObjectiveConfig
from .encoder import VideoEncoder
from .layers import gather_tokens
from .masks import Masks
from .positions import Grid
from .predictor import Predictor


@dataclass(frozen=True)
class Losses:
    """The objective of one batch and what it is made of; each a scalar tensor."""

    total: Tensor
    prediction: Tensor
    """Distance of predicted and target features of hidden tokens, mean over mask sets."""
    context: Tensor
    """The same for visible tokens; zero unless `context_weight` is set."""
    variance: Tensor
    covariance: Tensor


class JEPA(nn.Module):
    """Predict the features of hidden tokens from visible ones (V-JEPA section 3, arXiv 2404.08471).

    `context_encoder` (x-encoder) sees only the visible tokens. `target_encoder` (y-encoder) sees the whole clip, gets
    no gradient and follows the context encoder as an exponential moving average.
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.model_config, self.objective = model, objective
        self.context_encoder = VideoEncoder(model)
        self.predictor = Predictor(model)
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Trade time for memory in the two networks that are trained."""
        self.context_encoder.activation_checkpointing = self.predictor.activation_checkpointing = enabled

    def forward(self, clips: Tensor, masks: Masks, *, context_weight: float | None = None) -> Losses:
        """Compute the objective of a batch.

        Args:
            clips: normalised pixels `[B, 3, T, H, W]`; stills have T = 1.
            masks: what is visible and what is hidden, one pair of index lists per mask set.
            context_weight: overrides `ObjectiveConfig.context_weight`, for its ramp over training.
        """
        grid = self.context_encoder.grid_of(clips)
        targets = self.targets(clips)
        weight = self.objective.context_weight if context_weight is None else context_weight
        # also while a ramp weighs it 0: AdamW counts steps, and decays, from a parameter's first gradient on
        with_context = max(weight, self.objective.context_weight) > 0
        parts = [
            self._mask_set(index, clips, targets, context, target, grid, with_context=with_context)
            for index, (context, target) in enumerate(zip(masks.context, masks.target, strict=True))
        ]
        prediction, context_loss, variance, covariance = (
            torch.stack(terms).mean() for terms in zip(*parts, strict=True)
        )
        total = (
            prediction
            + weight * context_loss
            + self.objective.variance_weight * variance
            + self.objective.covariance_weight * covariance
        )
        return Losses(total, prediction, context_loss, variance, covariance)

    @torch.no_grad()
    def targets(self, clips: Tensor) -> Tensor:
        """Return the target features of whole clips, layer-normed level by level: `[B, N, levels * D]`."""
        if self.model_config.predictor_levels == 1:
            return layer_norm_levels(self.target_encoder(clips), 1)
        return layer_norm_levels(self.target_encoder.forward_levels(clips), self.model_config.predictor_levels)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Average the context encoder in: `target = momentum * target + (1 - momentum) * context`."""
        torch._foreach_lerp_(
            list(self.target_encoder.parameters()), list(self.context_encoder.parameters()), 1.0 - momentum
        )

    def _mask_set(
        self,
        index: int,
        clips: Tensor,
        targets: Tensor,
        context_index: Tensor,
        target_index: Tensor,
        grid: Grid,
        *,
        with_context: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return prediction, context, variance and covariance terms of one mask set."""
        encode = (
            self.context_encoder if self.model_config.predictor_levels == 1 else self.context_encoder.forward_levels
        )
        features = encode(clips, context_index)
        mask_index = index if self.objective.mask_token == "per_mask" else 0
        is_image = self.model_config.image_tokenizer and clips.shape[2] == 1
        hidden, context_loss = gather_tokens(targets, target_index.flatten(1)), features.new_zeros(())
        if with_context:
            predicted, restored = self.predictor.forward_with_context(
                features, context_index, target_index, grid=grid, mask_index=mask_index, is_image=is_image
            )
            error = self._distance(restored, gather_tokens(targets, context_index))
            if self.objective.context_distance_weighted:
                error = error / distance_to_nearest(context_index, target_index, grid=grid).sqrt().unsqueeze(-1)
            context_loss = error.mean()
        else:
            # each target block of a sample is predicted on its own, from the same context
            blocks = 1 if target_index.ndim == 2 else target_index.shape[1]
            predicted = self.predictor(
                features.repeat_interleave(blocks, dim=0),
                context_index.repeat_interleave(blocks, dim=0),
                target_index.reshape(len(clips) * blocks, -1),
                grid=grid,
                mask_index=mask_index,
                is_image=is_image,
            ).reshape(hidden.shape)
        prediction_loss = self._distance(predicted, hidden).mean()
        if not (self.objective.variance_weight or self.objective.covariance_weight):
            return prediction_loss, context_loss, features.new_zeros(()), features.new_zeros(())
        variance, covariance = variance_covariance(features[..., -self.model_config.embed_dim :])
        return prediction_loss, context_loss, variance, covariance

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each predicted feature from its target."""
        if self.objective.loss == "smooth_l1":
            return F.smooth_l1_loss(predicted, target, reduction="none")
        error = (predicted - target).abs()
        return error if self.objective.loss == "l1" else 0.5 * error.square()


def layer_norm_levels(features: Tensor, levels: int) -> Tensor:
    """Layer-norm each level's channels on their own, without affine (eps 1e-5, the official default)."""
    chunks = features.float().chunk(levels, dim=-1)
    return torch.cat([F.layer_norm(chunk, chunk.shape[-1:]) for chunk in chunks], dim=-1)


def distance_to_nearest(index: Tensor, others: Tensor, *, grid: Grid) -> Tensor:
    """Return the distance in tokens from each place `[B, K]` to the nearest of `others` `[B, M]`."""
    _, rows, columns = grid

    def places(flat: Tensor) -> Tensor:
        frame, rest = flat // (rows * columns), flat % (rows * columns)
        return torch.stack([frame, rest // columns, rest % columns], dim=-1).float()

    # the matrix-product shortcut of cdist loses the exact integers under the root
    distances = torch.cdist(places(index), places(others), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.amin(dim=-1)


def variance_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return VICReg's two terms (arXiv 2105.04906, eq. 1-3) over all tokens `[B, K, D]` of a batch."""
    tokens = features.float().flatten(0, 1)
    tokens = tokens - tokens.mean(dim=0)
    variance = tokens.square().sum(dim=0) / (len(tokens) - 1)
    hinge = F.relu(1.0 - (variance + 1e-4).sqrt()).mean()
    covariance = tokens.T @ tokens / (len(tokens) - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return hinge, off_diagonal / tokens.shape[1]
