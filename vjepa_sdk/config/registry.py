"""Name the models that `from_pretrained` knows: where they are, how big, under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .model import Family

BUNDLED = Path(__file__).parents[1] / "pretrained"
DEFAULT_MODEL = "vjepa-tiny"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One known model."""

    name: str
    """Alias for `from_pretrained`, `--model` and `vjepa convert --arch`."""
    source: str
    """`bundled` with this package, the hub repository, or the URL of a file that `vjepa convert` reads."""
    family: Family
    parameters: int
    """Of the encoder."""
    resolution: int
    """Height and width in pixels."""
    num_frames: int
    embed_dim: int
    licence: str
    """SPDX identifier of the weights' licence."""
    url: str = ""
    """Official checkpoint with both encoders and the predictor, a pickle; empty if there is none."""
    sha256: str = ""
    """Of the official checkpoint, where it is known."""
    revision: str = ""
    """Commit of the hub repository that the name stands for; empty: the newest, since none is known to us."""
    file_sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the files of that commit, where they are known."""

    @property
    def is_bundled(self) -> bool:
        """Whether the weights come with the package."""
        return self.source == "bundled"

    @property
    def is_on_hub(self) -> bool:
        """Whether `from_pretrained` can fetch it."""
        return not self.is_bundled and "://" not in self.source

    @property
    def directory(self) -> Path:
        """Where bundled weights are."""
        return BUNDLED / self.name


_META = "https://dl.fbaipublicfiles.com"
_NON_COMMERCIAL = "CC-BY-NC-4.0"


def _vjepa(name: str, file: str, parameters: int, dim: int, size: int) -> ModelInfo:
    url = f"{_META}/jepa/{file}/{file}.pth.tar"
    return ModelInfo(
        name=name, source=url, url=url, family="vjepa", parameters=parameters, embed_dim=dim, resolution=size,
        num_frames=16, licence=_NON_COMMERCIAL,
    )  # fmt: skip


def _vjepa2(name: str, repository: str, file: str, parameters: int, dim: int, size: int, frames: int) -> ModelInfo:
    return ModelInfo(
        name=name, source=f"facebook/{repository}", url=file and f"{_META}/vjepa2/{file}.pt", family="vjepa2",
        parameters=parameters, embed_dim=dim, resolution=size, num_frames=frames, licence="MIT",
    )  # fmt: skip


def _vjepa21(name: str, file: str, parameters: int, dim: int, sha256: str = "") -> ModelInfo:
    url = f"{_META}/vjepa2/{file}.pt"
    return ModelInfo(
        name=name, source=url, url=url, family="vjepa2.1", parameters=parameters, embed_dim=dim, resolution=384,
        num_frames=64, licence="MIT", sha256=sha256,
    )  # fmt: skip


def _ijepa(name: str, repository: str, file: str, parameters: int, dim: int, size: int) -> ModelInfo:
    return ModelInfo(
        name=name, source=f"facebook/{repository}", url=f"{_META}/ijepa/{file}.pth.tar", family="ijepa",
        parameters=parameters, embed_dim=dim, resolution=size, num_frames=1, licence=_NON_COMMERCIAL,
    )  # fmt: skip


_MODELS = (
    ModelInfo(
        name="vjepa-tiny", source="bundled", family="vjepa2", parameters=2_743_872, resolution=48, num_frames=8,
        embed_dim=192, licence="Apache-2.0",
    ),
    _vjepa2("vjepa2-vitl16", "vjepa2-vitl-fpc64-256", "vitl", 303_885_312, 1024, 256, 64),
    _vjepa2("vjepa2-vith16", "vjepa2-vith-fpc64-256", "vith", 631_648_000, 1280, 256, 64),
    _vjepa2("vjepa2-vitg16", "vjepa2-vitg-fpc64-256", "vitg", 1_012_173_952, 1408, 256, 64),
    _vjepa2("vjepa2-vitg16-384", "vjepa2-vitg-fpc64-384", "vitg-384", 1_012_173_952, 1408, 384, 64),
    _vjepa2("vjepa2-vitl16-ssv2", "vjepa2-vitl-fpc16-256-ssv2", "", 303_885_312, 1024, 256, 16),
    _vjepa2("vjepa2-vitg16-384-ssv2", "vjepa2-vitg-fpc64-384-ssv2", "", 1_012_173_952, 1408, 384, 64),
    _vjepa2("vjepa2-vitl16-diving48", "vjepa2-vitl-fpc32-256-diving48", "", 303_885_312, 1024, 256, 32),
    _vjepa2("vjepa2-vitg16-384-diving48", "vjepa2-vitg-fpc32-384-diving48", "", 1_012_173_952, 1408, 384, 32),
    _vjepa21(
        "vjepa2.1-vitb16", "vjepa2_1_vitb_dist_vitG_384", 86_833_152, 768,
        "848a77c33cc9e6649ed2119c9bea1e2c569bcdab9539ff3e7c02ccc2959ddf4d",
    ),
    _vjepa21("vjepa2.1-vitl16", "vjepa2_1_vitl_dist_vitG_384", 304_680_960, 1024),
    _vjepa21("vjepa2.1-vitg16", "vjepa2_1_vitg_384", 1_013_267_968, 1408),
    _vjepa21("vjepa2.1-vitgigantic16", "vjepa2_1_vitG_384", 1_845_216_768, 1664),
    _vjepa("vjepa-vitl16", "vitl16", 303_885_312, 1024, 224),
    _vjepa("vjepa-vith16", "vith16", 631_648_000, 1280, 224),
    _vjepa("vjepa-vith16-384", "vith16-384", 631_648_000, 1280, 384),
    _ijepa("ijepa-vith14", "ijepa_vith14_1k", "IN1K-vit.h.14-300e", 630_434_560, 1280, 224),
    _ijepa("ijepa-vith16-448", "ijepa_vith16_1k", "IN1K-vit.h.16-448px-300e", 630_664_960, 1280, 448),
    _ijepa("ijepa-vith14-22k", "ijepa_vith14_22k", "IN22K-vit.h.14-900e", 630_434_560, 1280, 224),
    _ijepa("ijepa-vitg16-22k", "ijepa_vitg16_22k", "IN22K-vit.g.16-600e", 1_011_092_608, 1408, 224),
)  # fmt: skip

KNOWN_MODELS: dict[str, ModelInfo] = {model.name: model for model in _MODELS}


def list_models() -> list[ModelInfo]:
    """Return the models known by name, bundled ones first."""
    return list(_MODELS)
