"""The two networks of a JEPA: an encoder of clips and a predictor of hidden features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.model import ModelConfig
from ..errors import InputError
from .layers import PatchEmbed3D, gather_tokens, init_weights, run_block, transformer_blocks
from .pixels import Pixels
from .positions import Grid, PositionTables, resize_sincos, rope_table, sincos_buffer


class VideoEncoder(PositionTables):
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
            self.register_buffer("pos_embed", sincos_buffer(config.grid, config.embed_dim))
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

    def forward(self, clips: Tensor | Pixels, keep: Tensor | None = None) -> Tensor:
        """Encode clips into tokens, all of them or only those kept.

        Args:
            clips: normalised `[B, 3, T, H, W]`, or pixels; T a multiple of the tubelet, H and W of the patch.
            keep: indices `int64 [B, K]` of the tokens to encode; the others are dropped before the first block, so
                nothing of them is seen.

        Returns:
            `[B, N, D]` or `[B, K, D]`: the last block's output, layer-normed.

        Raises:
            InputError: a size that does not divide into tokens.
        """
        features: Tensor = self._norm_after(self.config.depth - 1)(self._run(clips, keep, ())[0])
        return features

    def forward_levels(self, clips: Tensor | Pixels, keep: Tensor | None = None) -> Tensor:
        """Encode into all feature levels, shallow to deep, side by side: `[B, N, levels * D]`."""
        if not self.config.level_layers:
            return self.forward(clips, keep)
        outputs = self._run(clips, keep, self.config.level_layers)
        return torch.cat([norm(x) for norm, x in zip(self.norms_block, outputs, strict=True)], dim=-1)

    def get_intermediate_layers(
        self, clips: Tensor | Pixels, layers: tuple[int, ...], *, norm: bool = True
    ) -> list[Tensor]:
        """Return the tokens `[B, N, D]` after the given blocks (counted from 0), in the order asked for.

        Each is under the final norm, those that are feature levels (V-JEPA 2.1) under their own.
        """
        outputs = self._run(clips, None, layers)
        return [self._norm_after(layer)(x) for layer, x in zip(layers, outputs, strict=True)] if norm else outputs

    def grid_of(self, clips: Tensor | Pixels) -> Grid:
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

    def _is_image(self, clips: Tensor | Pixels) -> bool:
        return self.config.image_tokenizer and clips.shape[2] == 1

    def _norm_after(self, layer: int) -> nn.Module:
        levels = self.config.level_layers
        if not levels:
            return self.norm
        return self.norms_block[levels.index(layer) if layer in levels else -1]

    def _embed(self, clips: Tensor | Pixels, keep: Tensor | None) -> Tensor:
        if self._is_image(clips):
            tokens: Tensor = self.patch_embed_img(clips, keep)
            return tokens + self.img_mod_embed
        tokens = self.patch_embed(clips, keep)
        return tokens + self.video_mod_embed if self.config.image_tokenizer else tokens

    def _run(self, clips: Tensor | Pixels, keep: Tensor | None, taps: tuple[int, ...]) -> list[Tensor]:
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
            # added in float32, as the table is; then in the dtype of the weights
            x = (x + (table if keep is None else gather_tokens(table, keep))).to(self.patch_embed.proj.weight.dtype)
        outputs = {}
        wanted = taps or (config.depth - 1,)
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            x = run_block(block, x, rope, recompute=self.activation_checkpointing)
            if index in wanted:
                outputs[index] = x
        return [outputs[index] for index in wanted]
