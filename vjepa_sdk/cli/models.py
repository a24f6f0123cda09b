"""`vjepa models`: what is known by name."""

from __future__ import annotations

import dataclasses
import json

from ..config.registry import list_models
from .options import Json


def models(as_json: Json = False) -> None:
    """List the models known by name."""
    known = list_models()
    if as_json:
        print(json.dumps([dataclasses.asdict(model) for model in known], indent=2))
        return
    for model in known:
        print(
            f"{model.name:<27} {model.family:<9} {model.parameters / 1e6:>7.1f} M  {model.num_frames} x "
            f"{model.resolution} px  {model.licence:<12} {model.source}"
        )
