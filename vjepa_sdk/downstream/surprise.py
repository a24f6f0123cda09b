"""Compare surprise with normal footage: how many standard deviations above what is usual, and how rare there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Decoder
from ..config.schema import differences, from_dict
from ..config.surprise import CONTEXTS, SurpriseCrop, SurpriseProtocol, SurpriseSettings, SurpriseTargets
from ..errors import ConfigError, InputError, OutputError, ResumeError
from ..inference.surprise import Surprise, SurpriseMeter
from ..inference.timeline import timeline_of
from ..inference.vjepa import VJEPA
from ..runtime.files import atomic_path, disk_errors
from ..video.walk import Walk

MIN_WINDOWS = 10
"""Of normal footage, below which nothing can be said of its spread."""
MIN_WINDOWS_BY_PLACE = 200
"""From which on each place of the frame gets a usual error of its own."""

_FORMAT = 1
_MAD_TO_STD = 1.4826  # of a normal distribution
_LEAST_SPREAD = 0.05  # share of the spread of all errors together
_MAX_PLACE_WINDOWS = 1024
_NUM_QUANTILES = 1001
_ARRAYS = ("median", "spread", "place_median", "place_spread", "quantiles")


@dataclass(frozen=True, eq=False, kw_only=True)
class SurpriseNormalizer:
    """How wrong predictions of normal footage are, for C contexts and T' tubelets."""

    median: np.ndarray
    """float32 `[C, T']`; NaN where a tubelet is context."""
    spread: np.ndarray
    """float32 `[C, T']`: 1.4826 median absolute deviations, a standard deviation were errors normal."""
    place_median: np.ndarray
    """float32 `[C, T', H', W']`: the same of single tokens; of fewer than `MIN_WINDOWS_BY_PLACE` windows, of all places
    together."""
    place_spread: np.ndarray
    """float32 `[C, T', H', W']`."""
    quantiles: np.ndarray
    """float32 `[1001]`: of the timelines of the footage, ascending."""
    num_windows: int
    num_tubelets: int
    """Values of the timelines."""
    horizon: int | None
    """Tubelets after a context that counted in them."""
    identity: dict[str, Any]
    """Weights and settings that errors must share to be compared."""

    @classmethod
    def fit(
        cls,
        model: VJEPA,
        videos: Iterable[object],
        *,
        protocol: SurpriseProtocol | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_step: int | None = None,
        stride_tubelets: int = 1,
        context: Sequence[float] = CONTEXTS,
        horizon: int | None = None,
        targets: SurpriseTargets = "window",
        crop: SurpriseCrop | None = None,
        source_fps: float | None = None,
        batch_size: int = 8,
        decoder: Decoder = "pyav",
    ) -> SurpriseNormalizer:
        """Measure normal footage.

        Args:
            model: the model that will be asked.
            videos: footage in which nothing happens that is to be found, and that is not tested on.
            protocol: this and all others as for `VJEPA.surprise`.

        Raises:
            ConfigError: an option that is not valid.
            InputError: no video, one that is none or shorter than a window, or fewer than `MIN_WINDOWS` windows.
            VideoDecodeError: a file that cannot be decoded.
        """
        meter = model.surprise_meter(
            protocol=protocol,
            num_frames=num_frames,
            fps=fps,
            frame_step=frame_step,
            stride_tubelets=stride_tubelets,
            context=context,
            targets=targets,
            crop=crop,
            source_fps=source_fps,
            batch_size=batch_size,
            decoder=decoder,
        )
        footage = NormalFootage(meter, horizon=horizon)
        for video in videos:
            with meter.walk.open(video) as walk:
                footage.add(walk)
        return footage.normalizer()

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ResumeError unless errors are of the model, and were measured with the settings, of the footage."""
        changes = differences(self.identity, identity)
        if "weights_sha256" in changes:
            raise ResumeError("the normaliser was fitted with another model; fit it again with this one")
        if changes:
            what = ", ".join(f"{name} {change}" for name, change in changes.items())
            raise ResumeError(f"the normaliser was fitted with other settings ({what}); use those, or fit it again")

    def standardize(self, errors: np.ndarray) -> np.ndarray:
        """Return errors `[..., C, T']` in standard deviations above normal, float32."""
        values: np.ndarray = (errors - self.median) / self.spread
        return values

    def standardize_tokens(self, errors: np.ndarray) -> np.ndarray:
        """Return errors of tokens `[..., C, T', H', W']` in standard deviations above normal, float32."""
        values: np.ndarray = (errors - self.place_median) / self.place_spread
        return values

    def p_values(self, surprise: Surprise) -> np.ndarray:
        """Return for each tubelet the share of the normal ones that are at least as surprising, float32 `[J]`.

        It is never 0: at least 1 / (n + 1) for n normal tubelets. Neighbouring tubelets share windows, so that they are
        not independent.

        Raises:
            ConfigError: the timeline is not of this normaliser, or has another horizon.
        """
        if surprise.timeline_kind != "fitted" or surprise.meta["horizon"] != self.horizon:
            raise ConfigError(
                f"p-values need a timeline made with this normaliser and horizon={self.horizon}; measure it so"
            )
        below = np.searchsorted(self.quantiles, surprise.timeline, side="left") / len(self.quantiles)
        values = (1 + self.num_tubelets * (1 - below)) / (self.num_tubelets + 1)
        return np.where(np.isnan(surprise.timeline), np.nan, values).astype(np.float32)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write one `.safetensors`, whole or not at all: the arrays, and the rest as JSON in its metadata.

        Raises:
            ConfigError: another suffix.
            OutputError: it exists, its directory does not, or the disk refuses.
        """
        from safetensors.numpy import save_file

        path = check_normalizer_path(path, overwrite=overwrite)
        arrays = {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _ARRAYS}
        meta = {
            "format_version": _FORMAT,
            "num_windows": self.num_windows,
            "num_tubelets": self.num_tubelets,
            "horizon": self.horizon,
            "identity": self.identity,
        }
        with disk_errors(path), atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={"surprise_normalizer": json.dumps(meta, sort_keys=True)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> SurpriseNormalizer:
        """Read what `save` wrote.

        Raises:
            InputError: it does not exist, is damaged, or something else.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, framework="numpy") as stored:
                meta = json.loads(stored.metadata()["surprise_normalizer"])
                arrays = {name: stored.get_tensor(name) for name in _ARRAYS}
            if meta.pop("format_version") != _FORMAT:
                raise ValueError(f"format_version must be {_FORMAT}, upgrade vjepa-sdk")
            normalizer = cls(**arrays, **meta)
            normalizer._check_arrays()
        except FileNotFoundError as error:
            raise InputError(f"{path}: does not exist; SurpriseNormalizer.save writes it") from error
        except Exception as error:  # safetensors and json raise half a dozen classes on damaged files
            raise InputError(f"{path}: holds no normaliser ({error}); fit it again") from error
        return normalizer

    def _check_arrays(self) -> None:
        """Raise ValueError unless the arrays fit together and the settings."""
        known = {name: value for name, value in self.identity.items() if name not in ("weights_sha256", "preprocess")}
        settings = from_dict(SurpriseSettings, known)
        contexts, steps = self.median.shape
        shapes = [self.spread.shape, self.place_median.shape[:2], self.place_spread.shape[:2]]
        if any(shape != (contexts, steps) for shape in shapes) or self.place_median.shape != self.place_spread.shape:
            raise ValueError("its arrays do not belong together")
        if contexts != len(settings.context_tubelets) or self.quantiles.shape != (_NUM_QUANTILES,):
            raise ValueError("its arrays do not fit its settings")
        for number, length in enumerate(settings.context_tubelets):
            parts = [getattr(self, name)[number, length:] for name in _ARRAYS[:4]]
            if not all(np.isfinite(part).all() for part in parts) or any((part <= 0).any() for part in parts[1::2]):
                raise ValueError("its numbers are not finite, or a spread is not above 0")


def check_normalizer_path(path: str | Path, *, overwrite: bool) -> Path:
    """Raise unless a normaliser can be written there."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be .safetensors; rename the file")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists; pass overwrite=True (--overwrite) or choose another name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its directory does not exist; make it with mkdir -p {path.parent}")
    return path


class NormalFootage:
    """Collect the errors of normal videos, one after the other."""

    def __init__(self, meter: SurpriseMeter, *, horizon: int | None = None) -> None:
        self._meter, self._horizon = meter, horizon
        self._videos: list[np.ndarray] = []
        self._windows: list[np.ndarray] = []  # a fair sample, as maps
        self._num_windows, self._rng = 0, np.random.default_rng(0)

    def add(self, walk: Walk) -> None:
        """Measure a video; one that fails leaves nothing behind."""
        before = list(self._windows), self._num_windows, self._rng.bit_generator.state
        errors = []
        try:
            for found, _ in self._meter.iter_errors(walk, show_progress_bar=False):
                errors.append(found.mean(axis=(3, 4), dtype=np.float64).astype(np.float32))
                for window in found:
                    self._sample(window)
        except BaseException:
            self._windows, self._num_windows, self._rng.bit_generator.state = before
            raise
        self._videos.append(np.concatenate(errors))

    def normalizer(self) -> SurpriseNormalizer:
        """Return what is usual in the footage so far.

        Raises:
            InputError: there are too few windows, or all errors are equal.
        """
        if self._num_windows < MIN_WINDOWS:
            raise InputError(
                f"{self._num_windows} windows of normal footage are too few to know what is usual; "
                f"pass more of it, for at least {MIN_WINDOWS}"
            )
        errors, maps = np.concatenate(self._videos), np.stack(self._windows)
        median, spread = _usual(errors, axis=0)
        if self._num_windows >= MIN_WINDOWS_BY_PLACE:
            place_median, place_spread = _usual(maps, axis=0)
        else:
            pooled = _usual(maps, axis=(0, 3, 4))
            place_median, place_spread = (
                np.broadcast_to(part[:, :, None, None], maps.shape[1:]).copy() for part in pooled
            )
        bare = SurpriseNormalizer(
            median=median,
            spread=spread,
            place_median=place_median,
            place_spread=place_spread,
            quantiles=np.zeros(_NUM_QUANTILES, np.float32),
            num_windows=self._num_windows,
            num_tubelets=0,
            horizon=self._horizon,
            identity=self._meter.identity,
        )
        settings = self._meter.settings
        timelines = np.concatenate(
            [timeline_of(video, settings, normalizer=bare, horizon=self._horizon) for video in self._videos]
        )
        values = timelines[~np.isnan(timelines)]
        quantiles = np.quantile(values, np.linspace(0, 1, _NUM_QUANTILES)).astype(np.float32)
        return replace(bare, quantiles=quantiles, num_tubelets=len(values))

    def _sample(self, window: np.ndarray) -> None:
        """Keep each window with equal probability, at most so many (Vitter's algorithm R)."""
        self._num_windows += 1
        if len(self._windows) < _MAX_PLACE_WINDOWS:
            self._windows.append(window)
        elif (place := int(self._rng.integers(self._num_windows))) < _MAX_PLACE_WINDOWS:
            self._windows[place] = window


def _usual(errors: np.ndarray, *, axis: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return median and spread along axes, float32; a spread is at least a share of that of all errors together."""
    known = errors[~np.isnan(errors)].astype(np.float64)
    overall = _MAD_TO_STD * float(np.median(np.abs(known - np.median(known))))
    if not overall > 0:
        raise InputError("all errors of the normal footage are equal; pass footage in which something is to be seen")
    median = np.median(errors, axis=axis, keepdims=True)  # NaN where a tubelet is context
    spread = _MAD_TO_STD * np.median(np.abs(errors - median), axis=axis)
    least = np.maximum(spread, _LEAST_SPREAD * overall)
    return np.squeeze(median, axis=axis).astype(np.float32), least.astype(np.float32)
