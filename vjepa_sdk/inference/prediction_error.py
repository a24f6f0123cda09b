"""How wrong a predictor is about the future of windows, given their beginnings.

The protocol of the study of intuitive physics (arXiv 2502.11831, facebookresearch/jepa-intuitive-physics): the context
encoder sees the first tubelets and nothing else, the predictor guesses the features of all that follow, and the target
encoder says what they are, layer-normed; the error is the mean of the absolute difference over channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.model import ModelConfig
from ..config.surprise import SurpriseTargets
from ..errors import ConfigError, WeightsError
from ..models.encoder import VideoEncoder
from ..models.jepa import layer_norm_levels
from ..models.predictor import Predictor
from .prediction import predict_tokens


@dataclass(frozen=True)
class WindowErrors:
    """What a batch of windows gives."""

    errors: Tensor
    """float32 `[B, C, T', H', W']`: of each token, for each context; NaN where it was context."""
    floor: Tensor | None
    """The same for the guess that the features of the last context tubelet stay as they are; None unless asked for."""


@dataclass(frozen=True, kw_only=True)
class ErrorMeter:
    """The networks and contexts that errors are measured with."""

    context_encoder: VideoEncoder
    target_encoder: VideoEncoder
    predictor: Predictor
    contexts: tuple[int, ...]
    """Lengths in tubelets, ascending."""
    targets: SurpriseTargets = "window"
    with_floor: bool = False

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> WindowErrors:
        """Measure windows.

        Args:
            clips: normalised, `[B, 3, T, H, W]`, where the networks are and in their dtype.
        """
        steps, rows, columns = self.target_encoder.grid_of(clips)
        places = rows * columns
        features = self._targets(clips, steps, places)
        shape = (len(clips), len(self.contexts), steps, rows, columns)
        errors = features.new_full(shape, torch.nan)
        floor = features.new_full(shape, torch.nan) if self.with_floor else None
        for number, length in enumerate(self.contexts):
            shown = length * places
            future = features[:, shown:]
            predicted = predict_tokens(
                self.context_encoder,
                self.predictor,
                clips,
                context=torch.arange(shown),
                target=torch.arange(shown, steps * places),
                mask_index=0,
            )
            errors[:, number, length:] = _distance(predicted, future, shape)
            if floor is not None:
                last = self._features(clips, shown)[:, -places:].repeat(1, steps - length, 1)
                floor[:, number, length:] = _distance(last, future, shape)
        return WindowErrors(errors, floor)

    def _targets(self, clips: Tensor, steps: int, places: int) -> Tensor:
        """Return the features of all tokens after the shortest context, `[B, N, O]`; before it they are zero."""
        if self.targets == "window":
            return self._features(clips, steps * places)
        first = min(self.contexts)
        pieces = [self._features(clips, (step + 1) * places)[:, -places:] for step in range(first, steps)]
        return torch.cat([torch.zeros_like(pieces[0]).repeat(1, first, 1), *pieces], dim=1)

    def _features(self, clips: Tensor, count: int) -> Tensor:
        """Return the layer-normed target features of the first `count` tokens, which alone are encoded."""
        config, encoder = self.target_encoder.config, self.target_encoder
        encode = encoder if config.predictor_levels == 1 else encoder.forward_levels
        steps, rows, columns = encoder.grid_of(clips)
        is_all = count == steps * rows * columns
        keep = None if is_all else torch.arange(count, device=clips.device).expand(len(clips), -1)
        return layer_norm_levels(encode(clips, keep), config.predictor_levels)


def check_predictor(config: ModelConfig, predictor: Predictor | None) -> Predictor:
    """Return the predictor.

    Raises:
        ConfigError: the model takes images.
        WeightsError: there is no predictor, or it predicts the features of another model.
    """
    if config.is_image_model:
        raise ConfigError("surprise is about the future, and this model encodes images; pass a video model")
    if predictor is None:
        raise WeightsError("this model has no predictor; load one whose directory holds predictor.* weights")
    own = config.predictor_levels * config.embed_dim
    if config.prediction_dim != own:
        raise WeightsError(
            f"this predictor predicts the {config.prediction_dim} features of the model it was distilled from, and the "
            f"encoder here has {own}; pass a model that was not distilled"
        )
    return predictor


def _distance(guess: Tensor, truth: Tensor, shape: tuple[int, int, int, int, int]) -> Tensor:
    """Return the mean absolute difference over channels, `[B, steps, H', W']`."""
    batch, _, _, rows, columns = shape
    return (guess - truth).abs().mean(dim=-1).view(batch, -1, rows, columns)
