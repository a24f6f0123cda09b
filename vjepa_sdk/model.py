"""The two networks of a JEPA: an encoder of clips and a predictor of hidden features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig
from .errors import InputError
from .layers import PatchEmbed3D, gather_tokens, init_weights, transformer_blocks
from .positions import Grid, extend_sincos, resize_sincos, rope_table, sincos_table


class VideoEncoder(nn.Module):
    """Vision transformer over tubelets: the x-encoder and, as its moving average, the y-encoder.

    One class serves V-JEPA 1, 2, 2.1 and I-JEPA; `ModelConfig` says which. Parameters have the official names.
    """

    pos_embed: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.activation_checkpointing = config, False
        self.patch_embed = PatchEmbed3D(
            patch_size=config.patch_size, tubelet_size=config.tubelet_size, embed_dim=config.embed_dim
        )
        if config.image_tokenizer:
            self.patch_embed_img = PatchEmbed3D(
                patch_size=config.patch_size, tubelet_size=1, embed_dim=config.embed_dim
            )
            self.img_mod_embed = nn.Parameter(torch.randn(1, 1, config.embed_dim) * 1e-6)
            self.video_mod_embed = nn.Parameter(torch.randn(1, 1, config.embed_dim) * 1e-6)
        if config.position == "sincos":
            self.register_buffer("pos_embed", _sincos_buffer(config.grid, config.embed_dim))
        self.blocks = transformer_blocks(
            dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            norm_eps=config.norm_eps,
        )
        if config.level_layers:
            self.norms_block = nn.ModuleList(
                nn.LayerNorm(config.embed_dim, eps=config.norm_eps) for _ in config.level_layers
            )
        else:
            self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        init_weights(self, self.blocks, rescale=config.position == "rope")

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode clips into tokens, all of them or only those kept.

        Args:
            clips: normalised pixels `[B, 3, T, H, W]`; T a multiple of the tubelet, H and W of the patch.
            keep: indices `int64 [B, K]` of the tokens to encode; the others are dropped before the first block, so
                nothing of them is seen.

        Returns:
            `[B, N, D]` or `[B, K, D]`: the last block's output, layer-normed.

        Raises:
            InputError: a size that does not divide into tokens.
        """
        features: Tensor = self._norm_after(self.config.depth - 1)(self._run(clips, keep, ())[0])
        return features

    def forward_levels(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode into all feature levels, shallow to deep, side by side: `[B, N, levels * D]`."""
        if not self.config.level_layers:
            return self.forward(clips, keep)
        outputs = self._run(clips, keep, self.config.level_layers)
        return torch.cat([norm(x) for norm, x in zip(self.norms_block, outputs, strict=True)], dim=-1)

    def get_intermediate_layers(self, clips: Tensor, layers: tuple[int, ...], *, norm: bool = True) -> list[Tensor]:
        """Return the tokens `[B, N, D]` after the given blocks (counted from 0), in the order asked for.

        Each is under the final norm, those that are feature levels (V-JEPA 2.1) under their own.
        """
        outputs = self._run(clips, None, layers)
        return [self._norm_after(layer)(x) for layer, x in zip(layers, outputs, strict=True)] if norm else outputs

    def grid_of(self, clips: Tensor) -> Grid:
        """Return the token grid (frames, rows, columns) of clips `[B, 3, T, H, W]`."""
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise InputError(
                f"clips of shape {tuple(clips.shape)} must be [B, 3, T, H, W]; add missing axes with unsqueeze"
            )
        frames, height, width = clips.shape[2:]
        tubelet = 1 if self._is_image(clips) else self.config.tubelet_size
        sizes = (("frames", frames, tubelet), ("height", height, self.config.patch_size))
        for name, value, unit in (*sizes, ("width", width, self.config.patch_size)):
            if value == 0 or value % unit:
                below = max(value // unit * unit, unit)
                raise InputError(
                    f"{name}={value} must be a positive multiple of {unit}; pass {below} or {below + unit}"
                )
        return frames // tubelet, height // self.config.patch_size, width // self.config.patch_size

    def _is_image(self, clips: Tensor) -> bool:
        return self.config.image_tokenizer and clips.shape[2] == 1

    def _norm_after(self, layer: int) -> nn.Module:
        levels = self.config.level_layers
        if not levels:
            return self.norm
        return self.norms_block[levels.index(layer) if layer in levels else -1]

    def _embed(self, clips: Tensor, keep: Tensor | None) -> Tensor:
        if self._is_image(clips):
            tokens: Tensor = self.patch_embed_img(clips, keep)
            return tokens + self.img_mod_embed
        tokens = self.patch_embed(clips, keep)
        return tokens + self.video_mod_embed if self.config.image_tokenizer else tokens

    def _run(self, clips: Tensor, keep: Tensor | None, taps: tuple[int, ...]) -> list[Tensor]:
        """Return the outputs of the blocks `taps`, or of the last block alone."""
        config, grid = self.config, self.grid_of(clips)
        x, rope = self._embed(clips, keep), None
        if config.position == "rope":
            rope = rope_table(
                grid,
                config.embed_dim // config.num_heads,
                layout=config.rope_layout,
                scaled_to=config.rope_grid,
                device=clips.device,
            )
            rope = rope if keep is None else rope[keep].unsqueeze(1)
        else:
            table = resize_sincos(self.pos_embed, old=config.grid, new=grid).expand(len(clips), -1, -1)
            x = x + (table if keep is None else gather_tokens(table, keep))
        outputs = {}
        wanted = taps or (config.depth - 1,)
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            x = _through(block, x, rope, recompute=self.activation_checkpointing)
            if index in wanted:
                outputs[index] = x
        return [outputs[index] for index in wanted]


class Predictor(nn.Module):
    """Narrow transformer that guesses the features of hidden tokens from those of visible ones and their places (z)."""

    predictor_pos_embed: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.activation_checkpointing = config, False
        width, dim_in = config.predictor_embed_dim, config.predictor_levels * config.embed_dim
        self.predictor_embed: nn.Module = nn.Linear(dim_in, width)
        if config.predictor_levels > 1:
            self.predictor_embed = nn.Sequential(
                nn.Linear(dim_in, config.embed_dim), nn.GELU(), nn.Linear(config.embed_dim, width)
            )
        self.mask_tokens = nn.ParameterList(torch.zeros(1, 1, width) for _ in range(config.num_mask_tokens))
        if config.image_tokenizer:
            self.img_mod_embed = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
            self.video_mod_embed = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        if config.position == "sincos":
            self.register_buffer("predictor_pos_embed", _sincos_buffer(config.grid, width))
        self.predictor_blocks = transformer_blocks(
            dim=width,
            depth=config.predictor_depth,
            num_heads=config.predictor_num_heads,
            mlp_ratio=config.predictor_mlp_ratio,
            norm_eps=config.norm_eps,
        )
        self.predictor_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.predictor_proj = nn.Linear(width, config.prediction_dim)
        if config.predictor_context:
            self.predictor_proj_context = nn.Linear(width, config.prediction_dim)
        init_weights(self, self.predictor_blocks, rescale=config.position == "rope")
        if config.family == "ijepa":  # the V-JEPAs start from zeros
            for token in self.mask_tokens:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(
        self,
        context: Tensor,
        context_index: Tensor,
        target_index: Tensor,
        *,
        grid: Grid,
        mask_index: int = 0,
        is_image: bool = False,
        clip_frames: int | None = None,
    ) -> Tensor:
        """Predict the features of hidden tokens.

        Args:
            context: encoder features of the visible tokens, `[B, K, predictor_levels * D]`.
            context_index: their places in the grid, `int64 [B, K]`.
            target_index: places of the hidden tokens, `int64 [B, M]`; any place inside `grid`.
            grid: (frames, rows, columns) that the indices count in, row-major; more frames than the clip has reach
                into its future.
            mask_index: which mask token stands for the hidden tokens.
            is_image: the tokens come from single frames of a model with an image tokenizer.
            clip_frames: how many frames of `grid` the clip itself has; None: all of them. Sin-cos tables are fitted to
                the clip and go on from there.

        Returns:
            `[B, M, prediction_dim]`.
        """
        hidden = self._run(context, context_index, target_index, grid, mask_index, is_image, clip_frames)
        prediction: Tensor = self.predictor_proj(hidden[:, context.shape[1] :])
        return prediction

    def forward_with_context(
        self,
        context: Tensor,
        context_index: Tensor,
        target_index: Tensor,
        *,
        grid: Grid,
        mask_index: int = 0,
        is_image: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Predict hidden tokens `[B, M, O]` and the visible ones `[B, K, O]` (V-JEPA 2.1's context loss)."""
        hidden = self._run(context, context_index, target_index, grid, mask_index, is_image, None)
        count = context.shape[1]
        return self.predictor_proj(hidden[:, count:]), self.predictor_proj_context(hidden[:, :count])

    def _run(
        self,
        context: Tensor,
        context_index: Tensor,
        target_index: Tensor,
        grid: Grid,
        mask_index: int,
        is_image: bool,
        clip_frames: int | None,
    ) -> Tensor:
        config = self.config
        mask_token = self.mask_tokens[mask_index % len(self.mask_tokens)]
        visible = self.predictor_embed(context)
        x = torch.cat([visible, mask_token.expand(*target_index.shape, -1).to(visible.dtype)], dim=1)
        index, rope = torch.cat([context_index, target_index], dim=1), None
        if config.image_tokenizer:
            x = x + (self.img_mod_embed if is_image else self.video_mod_embed)
        if config.position == "rope":
            rope = rope_table(
                grid,
                config.predictor_embed_dim // config.predictor_num_heads,
                layout=config.rope_layout,
                scaled_to=config.predictor_rope_grid,
                device=x.device,
            )[index].unsqueeze(1)
        else:
            table = extend_sincos(
                self.predictor_pos_embed, old=config.grid, new=grid, clip_frames=clip_frames or grid[0]
            )
            x = x + gather_tokens(table.expand(len(x), -1, -1), index)
        for block in self.predictor_blocks:
            x = _through(block, x, rope, recompute=self.activation_checkpointing)
        normed: Tensor = self.predictor_norm(x)
        return normed


def _sincos_buffer(grid: Grid, dim: int) -> Tensor:
    # a network laid out on the meta device gets its table from a file, and its grid may be a lie of any size
    if torch.get_default_device().type == "meta":
        return torch.empty(1, math.prod(grid), dim)
    return sincos_table(grid, dim)[None]


def _through(block: nn.Module, x: Tensor, rope: Tensor | None, *, recompute: bool) -> Tensor:
    """Run a block; in training it may forget its activations and compute them again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        kept: Tensor = checkpoint(block, x, rope=rope, use_reentrant=False)
        return kept
    output: Tensor = block(x, rope=rope)
    return output
