"""Predict the features of hidden tokens, after a check of which tokens are visible and which are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..models.encoder import VideoEncoder
from ..models.predictor import Predictor

MAX_FUTURE = 1024
"""Tubelets that predictions reach at most, counted from a clip's start."""


def predict_tokens(
    encoder: VideoEncoder, predictor: Predictor, clips: Tensor, *, context: object, target: object, mask_index: int
) -> Tensor:
    """Predict the features of hidden tokens of clips.

    Args:
        clips: normalised, `[B, 3, T, H, W]`, where the networks are and in their dtype.
        context: numbers of the visible tokens, `[K]` or `[B, K]`.
        target: numbers of the hidden ones, `[M]` or `[B, M]`; those beyond the clip's last token lie in its future.
        mask_index: which of the predictor's mask tokens stands for the hidden ones.

    Returns:
        float32 `[B, M, O]`.

    Raises:
        InputError: numbers that are empty, out of range, or repeated in `context`.
    """
    config, (frames, rows, columns) = encoder.config, encoder.grid_of(clips)
    is_image = config.is_image_model or (config.image_tokenizer and clips.shape[2] == 1)
    # a still has no future
    last = frames if is_image else max(frames, MAX_FUTURE)
    visible = _checked("context", context, len(clips), limit=frames * rows * columns).to(clips.device)
    hidden = _checked("target", target, len(clips), limit=last * rows * columns).to(clips.device)
    if any(len(row.unique()) != len(row) for row in visible):
        raise InputError("context names a token twice; pass each once")
    if type(mask_index) is not int or not 0 <= mask_index < config.num_mask_tokens:
        raise InputError(f"mask_index={mask_index!r} must be from 0 to {config.num_mask_tokens - 1}; pass 0")
    encode = encoder if config.predictor_levels == 1 else encoder.forward_levels
    prediction: Tensor = predictor(
        encode(clips, visible),
        visible,
        hidden,
        grid=(max(frames, int(hidden.max()) // (rows * columns) + 1), rows, columns),
        mask_index=mask_index,
        is_image=is_image,
        clip_frames=frames,
    )
    return prediction.float()


def _checked(name: str, values: object, batch: int, *, limit: int) -> Tensor:
    """Return token numbers below `limit` as `int64 [B, K]`."""
    try:
        index = torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a list of token numbers, [K] or [B, K]: {error}") from error
    if index.ndim == 1:
        index = index.expand(batch, -1)
    if index.ndim != 2 or index.numel() == 0 or len(index) != batch:
        raise InputError(f"{name} of shape {list(index.shape)} must hold at least one token for each of {batch} clips")
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InputError(f"{name} must be integers [K] or [B, K], got {index.dtype}")
    index = index.long()
    if int(index.min()) < 0 or int(index.max()) >= limit:
        worst = int(index.min()) if int(index.min()) < 0 else int(index.max())
        raise InputError(f"{name} holds token {worst}; tokens go from 0 to {limit - 1} here")
    return index
