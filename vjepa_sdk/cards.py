"""Write model cards: what a model is, what it was trained on, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .config import ModelConfig, TrainConfig
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
    # where things lie on the trainer's disk is nobody else's business
    origin = config.init_from
    if origin is not None and Path(origin).expanduser().exists():
        origin = Path(origin).name
    config = replace(config, out="", init_from=origin, data=replace(config.data, path=Path(config.data.path).name))
    return f"{model_card(config.model, provenance=provenance)}\n## Configuration\n\n```toml\n{to_toml(config)}```\n"
