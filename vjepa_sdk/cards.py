"""Write model cards: what a model is, what it was trained on, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .config import DataConfig, ModelConfig, TrainConfig
from .schema import to_toml

_FRONT = """---
library_name: vjepa-sdk
pipeline_tag: feature-extraction
tags: [video, {family}, self-supervised]
---
"""


def model_card(config: ModelConfig, *, provenance: Mapping[str, Any]) -> str:
    """Return the card of a model directory."""
    facts = "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in sorted(provenance.items()))
    frames, rows, columns = config.grid
    return f"""{_FRONT.format(family=config.family)}
# {config.family} encoder, {config.embed_dim} x {config.depth}

A vision transformer that turns {config.num_frames} frames of {config.img_size} x {config.img_size} pixels into
{frames} x {rows} x {columns} tokens of {config.embed_dim} features.

```python
from vjepa_sdk import VJEPA

model = VJEPA.from_pretrained("path/to/this/directory")
features = model.encode("clip.mp4")  # float32 [{config.embed_dim}]
```

## Where it comes from

{facts or "- not recorded"}
"""


def training_card(config: TrainConfig, *, provenance: Mapping[str, Any]) -> str:
    """Return the card of a model that `vjepa pretrain` exported, with its whole configuration."""
    config = replace(
        config,
        out="",
        init_from=_name(config.init_from) if config.init_from is not None else None,
        data=_without_places(config.data),
        images=replace(config.images, data=_without_places(config.images.data)) if config.images is not None else None,
    )
    return f"{model_card(config.model, provenance=provenance)}\n## Configuration\n\n```toml\n{to_toml(config)}```\n"


def _without_places(data: DataConfig) -> DataConfig:
    """Keep the names of the clips' sources: where they lie on the trainer's disk is nobody else's business."""
    sources = tuple(replace(source, path=Path(source.path).name) for source in data.sources)
    return replace(data, path=Path(data.path).name, sources=sources)


def _name(origin: str) -> str:
    """Return the last part of a path; a hub id stays whole."""
    is_path = origin.startswith((".", "/", "~")) or Path(origin).exists()
    return Path(origin).name if is_path else origin
