"""Describe models as frozen, validated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from .choices import CropOffset
from .schema import check_multiple, check_range, check_types

MODEL_FORMAT = 1
MAX_FRAMES = 4096

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Family = Literal["vjepa", "vjepa2", "vjepa2.1", "ijepa"]
Position = Literal["rope", "sincos"]
RopeLayout = Literal["tiled", "interleaved"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of an encoder and its predictor; stored in `config.json` beside the weights.

    Tokens are tubelets of `tubelet_size` frames by `patch_size` x `patch_size` pixels, row-major in (t, h, w).
    Sources: V-JEPA (arXiv 2404.08471), V-JEPA 2 (2506.09985), V-JEPA 2.1 (2603.14482), I-JEPA (2301.08243).
    """

    img_size: int = 256
    """Height and width in pixels the model was built for; other multiples of `patch_size` work too."""
    num_frames: int = 16
    """Frames per clip the model was built for; any multiple of `tubelet_size` works."""
    patch_size: int = 16
    tubelet_size: int = 2
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    """Added to the variance in every LayerNorm; 1e-6 in all official models."""
    position: Position = "rope"
    """`rope` rotates queries and keys (V-JEPA 2, 2.1); `sincos` adds a table to the tokens (V-JEPA 1, I-JEPA)."""
    rope_layout: RopeLayout = "tiled"
    """`tiled` is V-JEPA 2's order of angles within a head, `interleaved` V-JEPA 2.1's."""
    rope_grid: int | None = None
    """Rows (and columns) of the grid that encoder positions are scaled to, V-JEPA 2.1: 16. None: integer positions."""
    predictor_rope_grid: int | None = None
    """The same for the predictor; None is what the official hub code runs, 16 what its training code runs."""
    level_layers: tuple[int, ...] = ()
    """Blocks (from 0) whose normed outputs are the feature levels (V-JEPA 2.1). Empty: the last block only."""
    image_tokenizer: bool = False
    """Single frames have their own patch embedding, and both modalities a learnt offset (V-JEPA 2.1)."""
    predictor_embed_dim: int = 384
    predictor_depth: int = 12
    predictor_num_heads: int = 12
    predictor_mlp_ratio: float = 4.0
    predictor_levels: int = 1
    """Feature levels the predictor reads, 1 or all of `level_layers`."""
    predictor_out_dim: int | None = None
    """Features predicted per token; None: `predictor_levels * embed_dim`. Distilled V-JEPA 2.1 predicts 1664."""
    predictor_context: bool = False
    """The predictor also returns features of the context tokens (V-JEPA 2.1's context loss)."""
    num_mask_tokens: int = 2

    def __post_init__(self) -> None:
        check_types(self)
        bounds = {
            "img_size": (1, 4096), "num_frames": (1, MAX_FRAMES), "patch_size": (1, 256), "tubelet_size": (1, 64),
            "embed_dim": (1, 16384), "depth": (1, 256), "num_heads": (1, 256),
            "predictor_embed_dim": (1, 16384), "predictor_depth": (1, 256), "predictor_num_heads": (1, 256),
            "predictor_levels": (1, 16), "num_mask_tokens": (1, 64),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            check_range(name, getattr(self, name), low, high)
        for name in ("mlp_ratio", "predictor_mlp_ratio"):
            check_range(name, getattr(self, name), 0.1, 32)
        check_range("norm_eps", self.norm_eps, 1e-15, 1e-2)
        for name, value, unit in (
            ("img_size", self.img_size, "patch_size"),
            ("num_frames", self.num_frames, "tubelet_size"),
        ):
            check_multiple(name, value, unit, getattr(self, unit))
        for prefix in ("", "predictor_"):
            check_multiple(
                f"{prefix}embed_dim",
                getattr(self, f"{prefix}embed_dim"),
                f"{prefix}num_heads",
                getattr(self, f"{prefix}num_heads"),
            )
            if self.position == "rope":
                self._check_head(prefix)
        self._check_levels()
        if self.num_parameters > 8_000_000_000:
            raise ConfigError(
                f"the model would have {self.num_parameters:,} parameters; at most 8,000,000,000 are allowed; "
                f"lower embed_dim={self.embed_dim} or depth={self.depth}"
            )

    def _check_head(self, prefix: str) -> None:
        width, heads = getattr(self, f"{prefix}embed_dim"), getattr(self, f"{prefix}num_heads")
        if width // heads < 6 or width // heads % 2:
            raise ConfigError(
                f"{prefix}embed_dim={width} with {prefix}num_heads={heads} gives heads of {width // heads} channels; "
                "RoPE needs an even number of at least 6; pass fewer heads"
            )

    def _check_levels(self) -> None:
        levels = self.level_layers
        if levels and (list(levels) != sorted(set(levels)) or levels[0] < 0 or levels[-1] != self.depth - 1):
            raise ConfigError(
                f"level_layers={list(levels)} must rise and end with the last block; end it with {self.depth - 1}"
            )
        if self.predictor_levels not in (1, self.num_levels):
            raise ConfigError(
                f"predictor_levels={self.predictor_levels} must be 1 or the number of level_layers; "
                f"pass 1 or {self.num_levels}"
            )
        for name in ("rope_grid", "predictor_rope_grid"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 2, 4096)
        if self.predictor_out_dim is not None:
            check_range("predictor_out_dim", self.predictor_out_dim, 1, 65536)

    def check_num_frames(self, count: int) -> None:
        """Raise ConfigError unless the encoder takes clips of so many frames."""
        if not isinstance(count, int) or count > MAX_FRAMES:
            raise ConfigError(f"num_frames={count!r} must be an integer of at most {MAX_FRAMES}; pass fewer")
        tubelet = self.tubelet_size
        if count < 1 or (count % tubelet and not (count == 1 and self.image_tokenizer)):
            below = max(count // tubelet * tubelet, tubelet)
            raise ConfigError(
                f"num_frames={count} must be a multiple of tubelet_size={tubelet}; pass {below} or {below + tubelet}"
            )

    @property
    def num_levels(self) -> int:
        """Normed feature levels the encoder can return."""
        return max(1, len(self.level_layers))

    @property
    def prediction_dim(self) -> int:
        """Features the predictor returns per token."""
        return self.predictor_out_dim or self.predictor_levels * self.embed_dim

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of one clip as (frames, rows, columns)."""
        side = self.img_size // self.patch_size
        return self.num_frames // self.tubelet_size, side, side

    @property
    def is_image_model(self) -> bool:
        """Whether one input is one image (I-JEPA)."""
        return self.num_frames == 1

    @property
    def family(self) -> Family:
        """Which published family this shape belongs to."""
        if self.position == "sincos":
            return "ijepa" if self.is_image_model else "vjepa"
        return "vjepa2" if self.rope_layout == "tiled" else "vjepa2.1"

    @property
    def num_parameters(self) -> int:
        """Parameters of encoder and predictor, estimated from the shape to within a percent."""

        def blocks(dim: int, depth: int, ratio: float) -> int:
            return depth * int(dim * dim * (4 + 2 * ratio) + dim * (9 + ratio))

        patch = 3 * self.tubelet_size * self.patch_size**2 * self.embed_dim
        width = self.predictor_embed_dim
        ends = width * (self.predictor_levels * self.embed_dim + self.prediction_dim)
        return (
            patch
            + ends
            + blocks(self.embed_dim, self.depth, self.mlp_ratio)
            + blocks(width, self.predictor_depth, self.predictor_mlp_ratio)
        )


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How frames become a clip: short side to `resize_size`, centre crop of `crop_size`, normalise."""

    resize_size: int
    crop_size: int
    crop_offset: CropOffset = "round"
    """`round`: the official evaluation code; `floor`: transformers' V-JEPA 2 video processor."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_types(self)
        check_range("crop_size", self.crop_size, 1, 4096)
        check_range("resize_size", self.resize_size, self.crop_size, 8192)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"mean={self.mean} and std={self.std} must hold three numbers, std above 0; the usual ones are "
                f"{IMAGENET_MEAN} and {IMAGENET_STD}"
            )

    @classmethod
    def for_crop(cls, crop_size: int) -> PreprocessConfig:
        """Return the official evaluation transform for a crop: short side `int(crop_size * 256 / 224)`."""
        return cls(resize_size=int(crop_size * 256 / 224), crop_size=crop_size)
