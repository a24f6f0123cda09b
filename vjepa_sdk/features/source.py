"""What features are of: the model, how clips were sampled, how tokens were pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config.protocols import ClipSet
from ..config.schema import from_dict
from ..errors import ConfigError

# what else a job's settings say does not change what a feature means
_MEANING = (
    *("pooling", "layers", "num_frames", "fps", "window_seconds", "stride_seconds", "tail"),
    *("source_fps", "normalize_embeddings", "decoder"),
)
_MUST_AGREE = ("pooling", "layers", "num_frames", "fps", "window_seconds", "normalize_embeddings")


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from, as plain JSON data; all empty where that is not known."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """`name`, `sha256`, `encoder_weights` and, from the hub, `commit`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Sampling and pooling, by the names of the arguments of `embed_files`."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """`PreprocessConfig`."""

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> FeatureSource:
        """Return the source of an output of `vjepa embed`, from its meta file."""
        made = meta["model"]
        model = {key: made[key] for key in ("name", "sha256", "encoder_weights")}
        if "commit" in (provenance := made.get("provenance", {})):
            model["commit"] = provenance["commit"]
        settings = {key: meta["settings"].get(key) for key in _MEANING}
        if "clip_set" in meta["settings"]:
            settings["clip_set"] = dict(meta["settings"]["clip_set"])
        return cls(model, settings, dict(meta["preprocess"]))

    @property
    def clip_set(self) -> ClipSet | None:
        """Which clips of a video are read, where that is not one clip or windows.

        Raises:
            ConfigError: what it says of them is not valid.
        """
        data = self.settings.get("clip_set")
        if data is not None and not isinstance(data, dict):
            raise ConfigError(f"clip_set={data!r} must be an object")
        return None if data is None else from_dict(ClipSet, data, where="clip_set.")

    @property
    def is_known(self) -> bool:
        """Whether it says anything."""
        return bool(self.model)

    def differences(self, other: FeatureSource) -> list[str]:
        """Name what makes features of the other no features of this, as `key: this -> other`."""
        pairs = [(f"model {key}", self.model.get(key), other.model.get(key)) for key in ("sha256", "encoder_weights")]
        pairs += [(key, self.settings.get(key), other.settings.get(key)) for key in _MUST_AGREE]
        pairs += [("clip_set", _shape(self.settings), _shape(other.settings))]
        pairs += [(key, self.preprocess.get(key), other.preprocess.get(key)) for key in self.preprocess]
        return [f"{key}: {_short(mine)} -> {_short(theirs)}" for key, mine, theirs in pairs if mine != theirs]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; empty if nothing is known."""
        return asdict(self) if self.is_known else {}


def _shape(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a clip set is made of; where its clips lie is drawn, or not, without another meaning."""
    clip_set = settings.get("clip_set")
    if not isinstance(clip_set, Mapping):
        return None
    return {key: clip_set.get(key) for key in ("segments", "views", "frame_step", "is_image")}


UNKNOWN = FeatureSource()


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest
