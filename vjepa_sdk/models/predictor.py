"""Predict the features of hidden tokens from those of visible ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.model import ModelConfig
from .layers import gather_tokens, init_weights, run_block, transformer_blocks
from .positions import Grid, PositionTables, extend_sincos, rope_table, sincos_buffer


class Predictor(PositionTables):
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
            self.register_buffer("predictor_pos_embed", sincos_buffer(config.grid, width))
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
            # added in float32, as the table is; then in the dtype of the weights
            x = (x + gather_tokens(table.expand(len(x), -1, -1), index)).to(self.predictor_proj.weight.dtype)
        for block in self.predictor_blocks:
            x = run_block(block, x, rope, recompute=self.activation_checkpointing)
        normed: Tensor = self.predictor_norm(x)
        return normed
