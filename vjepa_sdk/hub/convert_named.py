"""Convert what is known by name: `vjepa convert NAME DIRECTORY`."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.choices import EncoderWeights, Layout
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError, InputError
from ..runtime.files import atomic_path, disk_errors
from ..weights.layout import CONFIG_NAME
from .client import HubOptions
from .locate import locate_model
from .official import fetch_official, read_report

if TYPE_CHECKING:
    from ..config.model import ModelConfig
    from ..models.attentive_probe import ProbeConfig
    from ..weights.convert import ConversionReport


def convert(
    source: str | Path,
    out: str | Path,
    *,
    arch: str | ModelConfig | ProbeConfig | None = None,
    layout: Layout = "vjepa",
    weights: EncoderWeights | None = None,
) -> ConversionReport:
    """Convert a file or directory, or a model known by name: its official checkpoint, where there is one.

    The official file is fetched and converted as for loading, and the model is copied from the cache: a name that was
    used before is not fetched again.

    Args:
        source: a path, or a name from `list_models()`; what is on this disk goes before a name.
        out, arch, layout, weights: as for `vjepa_sdk.weights.convert.convert`.

    Raises:
        ConfigError, InputError, WeightsError, OutputError: as there, and as for `locate_model`.
    """
    name = str(source)
    info = None if Path(source).exists() else KNOWN_MODELS.get(name)
    if info is None and not Path(source).exists():  # told before torch is loaded
        near = difflib.get_close_matches(name, KNOWN_MODELS, n=3, cutoff=0.7)
        if near:
            raise InputError(f"{name}: no such file, directory or model; did you mean {' or '.join(near)}?")
        raise InputError(f"{name}: no such file or directory; check the path")
    from ..weights import convert as paths

    if info is None:
        return paths.convert(source, out, arch=arch, layout=layout, weights=weights)
    if arch is not None:
        raise ConfigError(f"arch={arch!r} applies to files; {name} says itself what it is")
    out = Path(out)
    paths.check_output(out, layout=layout, weights=weights)
    if info.is_bundled or not info.url:
        return paths.convert(locate_model(name, HubOptions()), out, layout=layout, weights=weights)
    if layout != "vjepa":
        where = f"it is on the hub in that layout, as {info.source}" if info.is_on_hub else "convert to 'vjepa' first"
        raise ConfigError(f"layout={layout!r} does not apply to the official file of {name}; {where}")
    return _copied(fetch_official(info, HubOptions()), out)


def _copied(directory: Path, out: Path) -> ConversionReport:
    """Copy a converted model out of the cache; its configuration last, as when it is written."""
    with disk_errors(out):
        out.mkdir(exist_ok=True)
        for path in sorted(directory.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            with atomic_path(out / path.name) as temporary:
                shutil.copyfile(path, temporary)
    return read_report(directory, out)
