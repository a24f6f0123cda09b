"""Write tiny models with random weights, for tests that need a model and not a good one."""

from __future__ import annotations

from pathlib import Path

from vjepa_sdk import VJEPA, ModelConfig

VIDEO = ModelConfig(
    img_size=32,
    num_frames=4,
    embed_dim=24,
    depth=2,
    num_heads=2,
    predictor_embed_dim=12,
    predictor_depth=1,
    predictor_num_heads=1,
)
IMAGE = ModelConfig(
    img_size=32,
    num_frames=1,
    tubelet_size=1,
    position="sincos",
    embed_dim=24,
    depth=2,
    num_heads=2,
    predictor_embed_dim=12,
    predictor_depth=1,
    predictor_num_heads=1,
)


def save_tiny(directory: Path, config: ModelConfig = VIDEO, *, seed: int = 0) -> Path:
    """Write a model directory."""
    return VJEPA.untrained(config, seed=seed, device="cpu").save_pretrained(directory)
