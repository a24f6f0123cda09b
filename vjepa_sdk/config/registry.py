"""Name the models that `from_pretrained` knows: where they are, how big, under which licence."""

from __future__ import annotations

import re
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
    predictor_parameters: int = 0
    """Of the predictor; 0 where there is none to load."""
    head_parameters: int = 0
    """Of the attentive probe that a classification model has."""
    url: str = ""
    """Official checkpoint with both encoders and the predictor, a pickle; empty if there is none."""
    sha256: str = ""
    """Of the official checkpoint, where it is known: second-hand, as all digests and commits here. Meta states none."""
    num_bytes: int = 0
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
        """Whether it is a repository of the hub, which loads as it is."""
        return not self.is_bundled and "://" not in self.source

    @property
    def is_official_file(self) -> bool:
        """Whether it is a file that has to be converted."""
        return not self.is_bundled and not self.is_on_hub

    @property
    def checkpoint_bytes(self) -> int:
        """Size of the official checkpoint: known, or estimated from what such files hold.

        That is float32: two encoders, the predictor, and AdamW's two moments of all that is trained.
        """
        return self.num_bytes or 4 * (4 * self.parameters + 3 * self.predictor_parameters)

    @property
    def converted_bytes(self) -> int:
        """Size of the directory that the official checkpoint becomes."""
        return 4 * (2 * self.parameters + self.predictor_parameters)

    @property
    def download_bytes(self) -> int:
        """What its first use fetches, about: the sizes of hub repositories follow from their parameters."""
        if self.is_bundled:
            return 0
        if self.is_official_file:
            return self.checkpoint_bytes
        predictor = self.predictor_parameters if self.family == "vjepa2" else 0
        return 4 * (self.parameters + predictor + self.head_parameters)

    @property
    def directory(self) -> Path:
        """Where bundled weights are."""
        return BUNDLED / self.name


_META = "https://dl.fbaipublicfiles.com"
_NON_COMMERCIAL = "CC-BY-NC-4.0"


def _vjepa(name: str, file: str, parameters: int, predictor: int, dim: int, size: int) -> ModelInfo:
    url = f"{_META}/jepa/{file}/{file}.pth.tar"
    return ModelInfo(
        name=name, source=url, url=url, family="vjepa", parameters=parameters, predictor_parameters=predictor,
        embed_dim=dim, resolution=size, num_frames=16, licence=_NON_COMMERCIAL,
    )  # fmt: skip


def _vjepa2(
    name: str, repository: str, revision: str, file: str, *, size: int = 256, frames: int = 64, licence: str = "MIT",
    head: int = 0, weights_sha256: str = "",
) -> ModelInfo:  # fmt: skip
    shape = re.search("vit[lhg]", name)
    parameters, predictor, dim = _VJEPA2_SIZES[shape[0] if shape else ""]
    return ModelInfo(
        name=name, source=f"facebook/{repository}", revision=revision, url=file and f"{_META}/vjepa2/{file}.pt",
        family="vjepa2", parameters=parameters, predictor_parameters=predictor, head_parameters=head, embed_dim=dim,
        resolution=size, num_frames=frames, licence=licence,
        file_sha256={"model.safetensors": weights_sha256} if weights_sha256 else {},
    )  # fmt: skip


def _vjepa21(
    name: str, file: str, parameters: int, predictor: int, dim: int, *, sha256: str = "", num_bytes: int = 0
) -> ModelInfo:
    url = f"{_META}/vjepa2/{file}.pt"
    return ModelInfo(
        name=name, source=url, url=url, family="vjepa2.1", parameters=parameters, predictor_parameters=predictor,
        embed_dim=dim, resolution=384, num_frames=64, licence="MIT", sha256=sha256, num_bytes=num_bytes,
    )  # fmt: skip


def _ijepa(
    name: str, repository: str, file: str, parameters: int, predictor: int, dim: int, *, size: int = 224
) -> ModelInfo:
    return ModelInfo(
        name=name, source=f"facebook/{repository}", url=f"{_META}/ijepa/{file}.pth.tar", family="ijepa",
        parameters=parameters, predictor_parameters=predictor, embed_dim=dim, resolution=size, num_frames=1,
        licence=_NON_COMMERCIAL,
    )  # fmt: skip


_VJEPA2_SIZES = {
    "vitl": (303_885_312, 22_086_016, 1024),
    "vith": (631_648_000, 22_282_880, 1280),
    "vitg": (1_012_173_952, 22_381_312, 1408),
}

_MODELS = (
    ModelInfo(
        name="vjepa-tiny", source="bundled", family="vjepa2", parameters=2_743_872, resolution=48, num_frames=8,
        embed_dim=192, licence="Apache-2.0",
    ),
    _vjepa2(
        "vjepa2-vitl16", "vjepa2-vitl-fpc64-256", "b3c1679b7c34d3255ef3547f27c7b226aefab26f", "vitl",
        weights_sha256="25466aef85727d16546c6cf8c99f12fcfad9cbca8225d45f23685e2e025b786b",
    ),
    _vjepa2("vjepa2-vith16", "vjepa2-vith-fpc64-256", "b5eac8703e3efdc1547fbb6ddfbeb133dc0bdee5", "vith"),
    _vjepa2(
        "vjepa2-vitg16", "vjepa2-vitg-fpc64-256", "875c192b7b704b87d1e1d99345769632dd5f739a", "vitg",
        licence="Apache-2.0",
    ),
    _vjepa2(
        "vjepa2-vitg16-384", "vjepa2-vitg-fpc64-384", "12ca91694b230e0d4b5b0078af6f4ae1d51e933d", "vitg-384",
        size=384, licence="Apache-2.0",
    ),
    _vjepa2(
        "vjepa2-vitl16-ssv2", "vjepa2-vitl-fpc16-256-ssv2", "4aa02df83918538fc21cfaf576382fa20e489a80", "",
        frames=16, head=49_514_670,
    ),
    _vjepa2(
        "vjepa2-vitg16-384-ssv2", "vjepa2-vitg-fpc64-384-ssv2", "9f5fd615cb6f79065a28edcf1cc3ef25010dddfa", "",
        size=384, head=93_494_190,
    ),
    _vjepa2(
        "vjepa2-vitl16-diving48", "vjepa2-vitl-fpc32-256-diving48", "71ae2a8b1ff5a297aeeaae9b5e64c7a2e5e6a633", "",
        frames=32, head=49_385_520,
    ),
    _vjepa2(
        "vjepa2-vitg16-384-diving48", "vjepa2-vitg-fpc32-384-diving48", "0b48243375319bd8e03e3cd5560d957095429189", "",
        size=384, frames=32, head=93_316_656,
    ),
    _vjepa21(
        "vjepa2.1-vitb16", "vjepa2_1_vitb_dist_vitG_384", 86_833_152, 22_874_752, 768, num_bytes=1_664_223_428,
        sha256="848a77c33cc9e6649ed2119c9bea1e2c569bcdab9539ff3e7c02ccc2959ddf4d",
    ),
    _vjepa21(
        "vjepa2.1-vitl16", "vjepa2_1_vitl_dist_vitG_384", 304_680_960, 22_973_056, 1024, num_bytes=5_151_198_524,
        sha256="7ea9b7cb4a75d10644a8a8d42cff9e177b10dca8f02173f0eaf2b0bed82838c6",
    ),
    _vjepa21("vjepa2.1-vitg16", "vjepa2_1_vitg_384", 1_013_267_968, 55_400_704, 1408),
    _vjepa21("vjepa2.1-vitgigantic16", "vjepa2_1_vitG_384", 1_845_216_768, 59_433_472, 1664),
    _vjepa("vjepa-vitl16", "vitl16", 303_885_312, 22_082_944, 1024, 224),
    _vjepa("vjepa-vith16", "vith16", 631_648_000, 22_279_808, 1280, 224),
    _vjepa("vjepa-vith16-384", "vith16-384", 631_648_000, 22_279_808, 1280, 384),
    _ijepa("ijepa-vith14", "ijepa_vith14_1k", "IN1K-vit.h.14-300e", 630_434_560, 22_279_424, 1280),
    _ijepa("ijepa-vith16-448", "ijepa_vith16_1k", "IN1K-vit.h.16-448px-300e", 630_664_960, 22_279_424, 1280, size=448),
    _ijepa("ijepa-vith14-22k", "ijepa_vith14_22k", "IN22K-vit.h.14-900e", 630_434_560, 22_279_424, 1280),
    _ijepa("ijepa-vitg16-22k", "ijepa_vitg16_22k", "IN22K-vit.g.16-600e", 1_011_092_608, 29_475_712, 1408),
)  # fmt: skip

KNOWN_MODELS: dict[str, ModelInfo] = {model.name: model for model in _MODELS}


def list_models() -> list[ModelInfo]:
    """Return the models known by name, bundled ones first."""
    return list(_MODELS)
