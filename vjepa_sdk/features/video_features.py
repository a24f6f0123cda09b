"""Hold the features of a video's windows, with what each row is, and keep them in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, InputError, OutputError
from ..runtime.files import atomic_path, disk_errors
from ..runtime.ownership import refuse_link

FEATURES_FORMAT = 1
SUFFIXES = (".npz", ".safetensors")

_DTYPES = {"embeddings": "float32", "start_seconds": "float64", "end_seconds": "float64", "frame_indices": "int64"}


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoFeatures:
    """Features of the windows of one video, in the order of time.

    Raises:
        InputError: arrays that do not belong together.
    """

    embeddings: np.ndarray
    """float32 `[W, ...]`: one row for each window."""
    start_seconds: np.ndarray
    """float64 `[W]`: when each window starts, on the clock of the video's time stamps."""
    end_seconds: np.ndarray
    """float64 `[W]`: when each window ends."""
    frame_indices: np.ndarray
    """int64 `[W, T]`: the frames that were encoded, numbered from 0 in the order they are shown."""
    meta: dict[str, Any]
    """Video, model, pooling, layers, sampling, decoder, preprocessing and versions, as plain JSON data."""

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                kind = getattr(array, "dtype", type(array).__name__)
                raise InputError(f"{name} must be an array of {dtype}, got {kind}")
        shapes = [getattr(self, name).shape for name in _DTYPES]
        num_axes = [len(shape) for shape in shapes]
        if num_axes[0] < 2 or num_axes[1:] != [1, 1, 2] or len({shape[0] for shape in shapes}) > 1:
            raise InputError(f"{', '.join(_DTYPES)} of shapes {shapes} must be [W, ...], [W], [W] and [W, T]")

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        seconds = f"{self.start_seconds[0]:g} to {self.end_seconds[-1]:g} s" if len(self) else "empty"
        return f"VideoFeatures({len(self)} x {list(self.embeddings.shape[1:])}, {seconds})"

    def save(self, path: str | Path) -> Path:
        """Write one file, whole or not at all; an older one is replaced.

        Args:
            path: `.npz` (four arrays and a JSON text `meta`) or `.safetensors` (the same, the text in its metadata).

        Raises:
            ConfigError: another suffix.
            OutputError: the directory does not exist, the path is a symbolic link, or the disk refuses.
        """
        path = _checked(path)
        refuse_link(path)
        if not path.parent.is_dir():
            raise OutputError(f"{path}: its directory does not exist; make it with mkdir -p {path.parent}")
        arrays = {name: np.ascontiguousarray(getattr(self, name), np.dtype(dtype)) for name, dtype in _DTYPES.items()}
        meta = json.dumps({**self.meta, "format_version": FEATURES_FORMAT}, sort_keys=True)
        with disk_errors(path), atomic_path(path) as temporary:
            if path.suffix == ".npz":
                with open(temporary, "xb") as file:
                    np.savez(file, meta=np.array(meta), **arrays)  # type: ignore[arg-type]
            else:
                from safetensors.numpy import save_file

                save_file(arrays, temporary, metadata={"meta": meta})
        return path

    @classmethod
    def load(cls, path: str | Path) -> VideoFeatures:
        """Read what `save` wrote.

        Raises:
            ConfigError: a suffix that is neither format.
            InputError: the file is missing or damaged, or something else.
        """
        path = _checked(path)
        try:
            arrays, text = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
            meta = json.loads(text)
            version = meta.pop("format_version")
            if version != FEATURES_FORMAT:
                raise ValueError(f"format_version={version!r} must be {FEATURES_FORMAT}, upgrade vjepa-sdk")
            return cls(**arrays, meta=meta)
        except FileNotFoundError as error:
            raise InputError(f"{path}: does not exist; VideoFeatures.save writes it") from error
        except Exception as error:  # numpy, zipfile and safetensors raise half a dozen classes on damaged files
            raise InputError(f"{path}: is damaged or not written by VideoFeatures.save ({error})") from error


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the file")
    return path


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in _DTYPES}, str(stored["meta"][()])


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        return {name: stored.get_tensor(name) for name in _DTYPES}, stored.metadata()["meta"]
