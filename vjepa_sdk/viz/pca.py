"""Colour the tokens of a video by their first principal components: what looks alike to the encoder looks alike here.

The components are the exact eigenvectors of the covariance, in float64, each with a fixed sign, so that equal input
gives equal colours. They are fitted to all videos of a job at once, and can be kept for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from ..config.choices import Decoder
from ..errors import ConfigError, InputError
from ..inference.vjepa import VJEPA
from ..runtime.files import atomic_path, disk_errors
from .components import principal_components
from .maps import FeatureMaps, RGBScale
from .page import check_output
from .tokens import encode_volume, joined, layer_name

logger = logging.getLogger(__name__)

Foreground = Literal["none", "auto"]
ColourScale = Literal["sigmoid", "percentile"]
Remove = Literal["none", "position"]

_MAD_LIMIT = 5.0
"""Tokens whose norm is farther from the median take no part in the fit."""
_FEWEST, _MOST = 0.1, 0.9
"""Share of the tokens that a foreground may have."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Mean, components and scale of a fit: tokens of other videos get the same colours by it."""

    mean: np.ndarray
    """float64 `[D]`."""
    components: np.ndarray
    """float64 `[C, D]`: orthonormal rows; the entry of largest magnitude is positive in each."""
    std: np.ndarray
    """float64 `[C]`: standard deviation along each component."""
    explained: np.ndarray
    """float64 `[C]`: share of the variance, descending."""
    low: np.ndarray
    """float32 `[C]`: 1st percentile of the whitened values."""
    high: np.ndarray
    """float32 `[C]`: 99th percentile."""

    def project(self, tokens: np.ndarray) -> np.ndarray:
        """Return whitened values, float32 `[..., C]`, of tokens `[..., D]`."""
        if tokens.shape[-1] != len(self.mean):
            raise InputError(
                f"tokens of {tokens.shape[-1]} channels do not fit a basis of {len(self.mean)}; pass one of this model"
            )
        # subtracted after the product: a copy of all tokens in float64 would be large
        directions = self.components / np.maximum(self.std, 1e-12)[:, None]
        values: np.ndarray = (tokens @ directions.T.astype(np.float32) - directions @ self.mean).astype(np.float32)
        return values

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the numbers as `.safetensors`, whole or not at all."""
        from safetensors.numpy import save_file

        path = Path(path)
        check_output(path, overwrite=overwrite)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        with disk_errors(path), atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={"format": "vjepa_sdk.viz.pca", "version": "1"})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Basis:
        """Read what `save` wrote.

        Raises:
            InputError: it does not exist, or is something else.
        """
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
            basis = cls(**{name: arrays[name] for name in _ARRAYS})
            count, width = basis.components.shape
        except FileNotFoundError as error:
            raise InputError(f"{path}: does not exist; --save-basis writes one") from error
        except Exception as error:  # safetensors has a class of its own for each of its versions
            raise InputError(f"{path}: holds no basis ({error}); --save-basis writes one") from error
        shapes = {"mean": (width,), "components": (count, width)} | dict.fromkeys(_ARRAYS[2:], (count,))
        if any(arrays[name].shape != shapes[name] or not np.isfinite(arrays[name]).all() for name in _ARRAYS):
            raise InputError(f"{path}: its arrays do not belong together; write it again with --save-basis")
        return basis


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PCAMaps(FeatureMaps):
    """Principal components of a video's tokens."""

    basis: Basis
    """What the colours rest on; pass it on for the same colours in another video."""


_ARRAYS = ("mean", "components", "std", "explained", "low", "high")


def fit_basis(tokens: np.ndarray, *, components: int = 3) -> Basis:
    """Find the principal components of tokens `[N, D]`, exactly: the eigenvectors of their covariance in float64.

    Tokens whose norm lies beyond the median ± 5 MAD are left out: artefacts would take a component for themselves.

    Raises:
        ConfigError: not 1 to D components.
        InputError: too few tokens, or all are equal.
    """
    if not 1 <= components <= tokens.shape[1]:
        raise ConfigError(f"components={components} must be from 1 to {tokens.shape[1]}; pass 3 for colours")
    kept = tokens[_usual(tokens)]
    if len(kept) <= components:
        raise InputError(f"{len(kept)} tokens are too few for {components} components; pass a longer video")
    found = principal_components(kept, components)
    if not found.variances[0] > 1e-12 * np.mean(kept.astype(np.float64) ** 2):
        raise InputError(
            "all tokens are equal, so they have no components; pass a video in which something is to be seen"
        )
    explained = found.variances / found.total
    bounds = np.zeros(components, np.float32), np.ones(components, np.float32)
    bare = Basis(found.mean, found.components, np.sqrt(found.variances), explained, *bounds)
    low, high = np.percentile(bare.project(kept), [1, 99], axis=0).astype(np.float32)
    return replace(bare, low=low, high=high)


def feature_pca(
    model: VJEPA,
    video: object,
    *,
    layer: int | None = None,
    components: int = 3,
    foreground: Foreground = "none",
    scale: ColourScale = "sigmoid",
    basis: Basis | None = None,
    remove: Remove = "none",
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> PCAMaps:
    """Colour one video by the principal components of its tokens.

    Args:
        video: as for `VJEPA.extract`.
        layer: number of a block, from 0; None: the model's output.
        components: 1 to 3, as red, green and blue.
        foreground: `auto` tries to tell things from background (Otsu's threshold on the first component; foreground is
            the side that is rarer at the border), fits again on the foreground, and dims the rest.
        scale: `sigmoid(2 x)` of the whitened values, or their 1st to 99th `percentile` over the whole job.
        basis: of an earlier job, `maps.meta` of which does not matter; None: fitted here.
        remove: `position` subtracts at each place what the encoder says of it in a grey video, for models whose
            features tell mostly where a token lies.
        fps: frames a second to encode; None: the video's own rate, or an even fraction of it.
        start_seconds: where to begin, on the clock of the video's time stamps.
        end_seconds: where to stop.
        source_fps: frame rate of arrays, lists of images and frame directories.
        batch_size: windows encoded together.
        decoder: see `VJEPA.encode`.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid.
        InputError: not a video; or a basis of other channels.
        VideoDecodeError: a file that cannot be decoded.
    """
    (maps,) = feature_pca_of(
        model,
        [video],
        layer=layer,
        components=components,
        foreground=foreground,
        scale=scale,
        basis=basis,
        remove=remove,
        fps=fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        source_fps=source_fps,
        batch_size=batch_size,
        decoder=decoder,
        show_progress_bar=show_progress_bar,
    )
    return maps


def feature_pca_of(
    model: VJEPA,
    videos: Sequence[object],
    *,
    layer: int | None = None,
    components: int = 3,
    foreground: Foreground = "none",
    scale: ColourScale = "sigmoid",
    basis: Basis | None = None,
    remove: Remove = "none",
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> list[PCAMaps]:
    """Colour videos by the principal components of all their tokens, so that colours mean the same in all of them.

    Args:
        videos: as for `VJEPA.extract`; for the options see `feature_pca`.

    Raises:
        ConfigError: an option that is not valid.
        InputError: not a video; or a basis of other channels.
        VideoDecodeError: a file that cannot be decoded.
    """
    _check(components, foreground, scale, remove)
    volumes = [
        encode_volume(
            model,
            video,
            layer=layer,
            fps=fps,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            source_fps=source_fps,
            batch_size=batch_size,
            decoder=decoder,
            show_progress_bar=show_progress_bar,
        )
        for video in videos
    ]
    if not volumes:
        raise InputError("there is no video; pass at least one")
    if remove == "position":
        of_place = _grey_tokens(model, layer)
        volumes = [replace(volume, tokens=volume.tokens - of_place) for volume in volumes]
    tokens = joined(volumes)
    found = basis or fit_basis(tokens, components=components)
    masks: list[np.ndarray | None] = [None] * len(volumes)
    if foreground == "auto":
        first = [found.project(volume.tokens)[..., 0] for volume in volumes]
        inside = find_foreground(first)
        if inside is not None:
            masks = list(inside)
            if basis is None:
                within = np.concatenate([mask.reshape(-1) for mask in inside])
                found = fit_basis(tokens[within], components=components)
    colours = RGBScale() if scale == "sigmoid" else RGBScale(found.low, found.high)
    meta = {
        "model": model.name or "",
        "layer": layer_name(model, layer),
        "explained": [round(float(share), 4) for share in found.explained],
        "foreground": "auto" if masks[0] is not None else "none",
        "scale": scale,
        "remove": remove,
        "fps": round(volumes[0].fps, 3),
    }
    caption = f"{Path(model.name or 'untrained').name}, {meta['layer']}, {explained_text(found)}"
    return [
        PCAMaps(
            values=found.project(volume.tokens),
            volume=replace(volume, tokens=volume.tokens[:0]),
            scale=colours,
            caption=caption,
            foreground=mask,
            meta=meta,
            basis=found,
        )
        for volume, mask in zip(volumes, masks, strict=True)
    ]


def explained_text(basis: Basis) -> str:
    """Return what the components explain, as a caption says it."""
    shares = " + ".join(f"{100 * share:.0f}" for share in basis.explained)
    return f"PCA explains {shares} %"


def find_foreground(values: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Split the tokens of a job in two by their first component; None if the split is too uneven to mean anything.

    Args:
        values: of each video, `[T', H', W']`.

    Returns:
        bool of the same shapes: the side that holds the smaller share of its tokens at the frame's border, smoothed by
        a median over 3 x 3 x 3 tokens.
    """
    from scipy.ndimage import median_filter

    threshold = otsu_threshold(np.concatenate([value.reshape(-1) for value in values]))
    above = [value > threshold for value in values]
    border = [_border(value.shape) for value in values]
    at_border = np.concatenate([mask[edge] for mask, edge in zip(above, border, strict=True)])
    elsewhere = np.concatenate([mask[~edge] for mask, edge in zip(above, border, strict=True)])
    # of the two sides, the one that is rarer at the border than inside
    is_above = bool(at_border.mean() <= elsewhere.mean()) if len(elsewhere) else True
    masks = [median_filter((mask == is_above).astype(np.uint8), size=3).astype(bool) for mask in above]
    share = float(np.concatenate([mask.reshape(-1) for mask in masks]).mean())
    if not _FEWEST <= share <= _MOST:
        logger.warning(
            "foreground=auto: the first component separates %.0f %% of the tokens, which is no foreground; all stays",
            100 * share,
        )
        return None
    return masks


def otsu_threshold(values: np.ndarray, *, bins: int = 256) -> float:
    """Return the threshold that splits values into the two classes farthest apart (Otsu, IEEE Trans. SMC 9, 1979)."""
    counts, edges = np.histogram(values, bins=bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    # of equal splits, the middle one
    best = np.flatnonzero(np.nan_to_num(between) >= np.nanmax(between) * (1 - 1e-12))
    return float(edges[1 + best[len(best) // 2]])


def _usual(tokens: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(tokens, axis=1)
    median = np.median(norms)
    spread = float(np.median(np.abs(norms - median)))
    usual: np.ndarray = np.abs(norms - median) <= max(_MAD_LIMIT * spread, 1e-3 * float(median))
    return usual


def _grey_tokens(model: VJEPA, layer: int | None) -> np.ndarray:
    """Return what the encoder says of each place of a grey video, its mean over time: float32 `[H', W', D]`."""
    side = model.preprocess.crop_size
    grey = torch.full((1, model.config.num_frames, 3, side, side), 128, dtype=torch.uint8)
    tokens = model.embed_clips(grey, pooling="none", layers=None if layer is None else [layer])
    mean: np.ndarray = tokens.reshape(-1, *tokens.shape[-3:]).mean(dim=0).cpu().numpy()
    return mean


def _border(shape: tuple[int, ...]) -> np.ndarray:
    edge = np.zeros(shape, bool)
    edge[:, [0, -1], :] = True
    edge[:, :, [0, -1]] = True
    return edge


def _check(components: int, foreground: str, scale: str, remove: str) -> None:
    if not 1 <= components <= 3:
        raise ConfigError(f"components={components} must be 1, 2 or 3, for red, green and blue")
    named: tuple[tuple[str, str, Any], ...] = (
        ("foreground", foreground, Foreground),
        ("scale", scale, ColourScale),
        ("remove", remove, Remove),
    )
    for name, value, choices in named:
        if value not in get_args(choices):
            raise ConfigError(f"{name}={value!r} must be one of {', '.join(get_args(choices))}")
