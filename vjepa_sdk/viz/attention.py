"""Show what an attentive probe looks at when it classifies a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config.choices import Decoder
from ..downstream.encoding import check_model
from ..downstream.probe import Probe
from ..errors import ConfigError
from ..inference.vjepa import VJEPA
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..video.inputs import open_frames
from ..video.sampling import FrameTimes, Sampling, choose_frames
from .films import PanelRow, film_frames, sheet, to_mp4, to_webp
from .maps import FeatureMaps, HeatScale, check_alpha, clip_table, map_facts, map_settings, panel_row
from .page import Film, Page, Part, Picture, Table
from .pictures import write_picture
from .tokens import TokenVolume, read_frames

_LIGHTEST = 99.5
"""Percentile of a map that is lightest; 0 is darkest."""
_NAMED_CLASSES = 5


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AttentionMaps(FeatureMaps):
    """How much of each token a probe's query takes; `values` is the mean of all heads."""

    weights: np.ndarray
    """float32 `[heads, T', H', W']`: each head sums to 1; a probe of several layers adds up what it takes of them."""
    of_layers: np.ndarray
    """float32 `[layers, heads, T', H', W']`: the map of each layer that the probe reads, each of sum 1."""
    layer_shares: np.ndarray
    """float32 `[layers, heads]`: how much of its attention a head gives to each layer."""
    layers: tuple[int, ...]
    """Blocks that the probe reads, from 0."""
    classes: tuple[tuple[str, float], ...]
    """What the probe says of the clip: classes and probabilities, the most likely first."""

    def head(self, number: int) -> FeatureMaps:
        """Return the map of one head, coloured by its own range."""
        return self._panel(self.weights[number], f"head {number}")

    def layer(self, place: int) -> FeatureMaps:
        """Return the map of one of the layers, the mean of its heads, coloured by its own range."""
        return self._panel(self.of_layers[place].mean(axis=0), f"block {self.layers[place]}")

    def details(self) -> list[FeatureMaps]:
        """Return the maps of all layers, if there are several, and of all heads."""
        layers = [self.layer(place) for place in range(len(self.layers))] if len(self.layers) > 1 else []
        return layers + [self.head(number) for number in range(len(self.weights))]

    def save(
        self,
        path: str | Path,
        *,
        alpha: float = 0.6,
        overwrite: bool = False,
        command: Sequence[str] = (),
        heads: bool = False,
    ) -> Path:
        """Write a film, a sheet, a page or the numbers; see `FeatureMaps.save`.

        Args:
            heads: in films and sheets, show every head below their mean; a page always does.
        """
        check_alpha(alpha)
        rows = [panel_row(self, None, alpha), *(self._detail_rows(alpha) if heads else [])]
        return write_picture(
            Path(path),
            rows,
            caption=self.caption,
            fps=self.volume.fps,
            page=lambda: self._page(alpha, command),
            numbers=lambda: {
                "attention": self.weights,
                "of_layers": self.of_layers,
                "layer_shares": self.layer_shares,
                **self.arrays(),
            },
            overwrite=overwrite,
        )

    def _panel(self, values: np.ndarray, label: str) -> FeatureMaps:
        return FeatureMaps(
            values=values[..., None],
            volume=self.volume,
            scale=_scale(values),
            caption=label,
            label=label,
            meta=self.meta,
        )

    def _detail_rows(self, alpha: float, *, beside: int = 4) -> list[PanelRow]:
        """Return rows of several maps side by side, in half the size of the video."""
        details = self.details()
        return [_details_row(details[i : i + beside], alpha) for i in range(0, len(details), beside)]

    def _page(self, alpha: float, command: Sequence[str]) -> Page:
        row, details = panel_row(self, None, alpha), self.details()
        all_details = _details_row(details, alpha)
        parts: list[Part] = [
            Film(
                mp4=to_mp4(film_frames([row], caption=""), fps=self.volume.fps),
                alt="Film of the clip, and beside it what the model sees under the probe's attention",
                title=row.name or "the video",
                note=f"Light is where the query takes most, the mean of {len(self.weights)} heads. {self.note}",
            ),
            Picture(
                image=to_webp(sheet([row], caption=""), quality=85),
                alt="Moments of the clip with the probe's attention",
                title="The same at a glance",
                is_wide=True,
            ),
            Picture(
                image=to_webp(sheet([all_details], caption=""), quality=85),
                alt="Moments of the clip under the attention of every head",
                title="Every head" if len(self.layers) == 1 else "Every layer and head",
                note="Each has colours of its own, from 0 to its own 99.5th percentile.",
                is_wide=True,
            ),
            Table(
                title="What the probe says",
                head=("class", "probability"),
                rows=[(name, probability) for name, probability in self.classes],
            ),
            clip_table([self], note=""),
        ]
        name, probability = self.classes[0]
        return Page(
            title="What the probe looks at",
            summary=f"It says {name}, with probability {probability:.2f}.",
            facts=map_facts([self]) | {"heads": str(len(self.weights))},
            parts=parts,
            settings=map_settings(self.meta),
            command=command,
        )

    @property
    def note(self) -> str:
        """What has to be known to read the maps."""
        return str(self.meta["note"])


def attention_maps(
    model: VJEPA,
    video: object,
    *,
    probe: Probe,
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> AttentionMaps:
    """Return the attention weights of a probe's query, `softmax(q k / sqrt(d))`, for one clip.

    Args:
        video: as for `VJEPA.extract`. Its clip is that of `VJEPA.encode`: as many frames as the model takes, spread
            over the video, or over the part asked for.
        probe: an attentive one for this model.
        fps: take frames at this rate from the start instead.
        start_seconds: where the part begins, on the clock of the video's time stamps.
        end_seconds: where it stops.
        source_fps: frame rate of arrays, lists of images and frame directories.
        decoder: see `VJEPA.encode`.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an image model, a probe that is not attentive, or one for another model.
        InputError: not a video, or a probe for another encoder.
        VideoDecodeError: a file that cannot be decoded.
    """
    if model.config.is_image_model:
        raise ConfigError("pictures over time need a video model, this one encodes images; pass another model")
    network = probe.probe
    if not isinstance(network, AttentiveProbe):
        raise ConfigError(f"a probe of kind {probe.kind!r} attends to no tokens; pass an attentive one")
    check_model(model, probe.source, network.config)
    config = network.config
    fitted = probe.source.settings
    sampling = Sampling(
        num_frames=fitted.get("num_frames") or model.config.num_frames,
        fps=fitted.get("fps") if fps is None else fps,
        source_fps=source_fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
    )
    volume, pixels = _clip(model, video, sampling, decoder, show_progress_bar)
    blocks = list(config.layers) or fitted.get("layers")
    layers = model.layer_numbers(blocks, name="layers") if blocks else None
    tokens = model.embed_clips(torch.from_numpy(pixels)[None], pooling="none", layers=layers)[0]
    stacked = tokens if layers else tokens[None]  # [layers, T', H', W', D]
    head_of = next(network.parameters())
    read = stacked.reshape(1, -1, stacked.shape[-1]).to(head_of.device, head_of.dtype)
    with torch.inference_mode():
        probabilities = network(read)[0].float().softmax(dim=-1).cpu().numpy()
        weights = network.attention(read)[0].cpu().numpy()
    by_layer = weights.reshape(len(weights), *stacked.shape[:-1]).swapaxes(0, 1)
    return _maps(model, probe, layers or [model.config.depth - 1], volume, by_layer, probabilities)


def attention_note(config: ProbeConfig) -> str:
    """Return what has to be known to read the maps of such a probe."""
    mixing = config.depth - 1 if config.self_attention == "before" else 0
    if not mixing:
        return "The keys are the encoder's tokens, which have seen the whole clip themselves."
    blocks = "1 block" if mixing == 1 else f"{mixing} blocks"
    return (
        f"The keys come after {blocks} of self-attention in the probe: a light place is where a mixed token stands, "
        "and what it tells may come from elsewhere."
    )


def _maps(
    model: VJEPA,
    probe: Probe,
    layers: list[int],
    volume: TokenVolume,
    by_layer: np.ndarray,
    probabilities: np.ndarray,
) -> AttentionMaps:
    """Put weights `[layers, heads, T', H', W']` together."""
    config, weights = probe.probe.config, by_layer.sum(axis=0)
    assert isinstance(config, ProbeConfig)
    shares = by_layer.sum(axis=(2, 3, 4))
    mean = weights.mean(axis=0)
    order = np.argsort(-probabilities, kind="stable")[:_NAMED_CLASSES]
    names = probe.labels or [f"class {number}" for number in range(config.num_classes)]
    classes = tuple((names[number], float(probabilities[number])) for number in order)
    kind = f"{config.depth - 1} self-attention {config.self_attention} cross-attention" if config.depth > 1 else "one"
    meta = {
        "model": model.name or "",
        "probe": f"{kind}, {config.num_heads} heads",
        "layers": layers,
        "classes": {name: round(probability, 4) for name, probability in classes},
        "note": attention_note(config),
    }
    said = f"{classes[0][0]} {classes[0][1]:.2f}"
    return AttentionMaps(
        values=mean[..., None],
        volume=volume,
        scale=_scale(mean),
        caption=f"{Path(model.name or 'untrained').name}, attention of the probe, mean of {len(weights)} heads, {said}",
        label="attention",
        meta=meta,
        weights=weights,
        of_layers=by_layer / np.maximum(shares, 1e-30)[..., None, None, None],
        layer_shares=shares,
        layers=tuple(meta["layers"]),
        classes=classes,
    )


def _clip(
    model: VJEPA, video: object, sampling: Sampling, decoder: Decoder, show: bool | None
) -> tuple[TokenVolume, np.ndarray]:
    """Read the clip that `VJEPA.encode` would take: its frames without tokens, and its pixels `[T, 3, crop, crop]`."""
    with open_frames(video, source_fps=sampling.source_fps, decoder=decoder) as source:
        times = FrameTimes(np.append(source.timestamps, source.end_seconds), is_known=True)
        indices, _ = choose_frames(times, sampling, name=source.name)
        frames, crops, crop = read_frames(source, indices, model.preprocess, show)
        seconds = source.timestamps[indices].astype(np.float64)
        length = float(source.end_seconds - source.timestamps[0])
    span = float(seconds[-1] - seconds[0])
    rate = (len(seconds) - 1) / span if span > 0 else len(seconds) / max(length, 1e-3)
    tubelet = model.config.tubelet_size
    volume = TokenVolume(
        tokens=np.empty((0, 0, 0, 0), np.float32),
        frames=frames,
        crop=crop,
        frame_seconds=seconds,
        tubelet_seconds=seconds[: len(seconds) // tubelet * tubelet].reshape(-1, tubelet).mean(axis=1),
        fps=rate,
        name=str(video) if isinstance(video, str | Path) else "",
    )
    return volume, np.stack(crops)


def _scale(values: np.ndarray) -> HeatScale:
    return HeatScale(0.0, float(np.percentile(values, _LIGHTEST)))


def _details_row(details: Sequence[FeatureMaps], alpha: float) -> PanelRow:
    def panels() -> Iterator[Sequence[np.ndarray]]:
        for frames in zip(*(each.overlaid(alpha) for each in details), strict=True):
            yield [each.cropped(frame)[::2, ::2] for each, frame in zip(details, frames, strict=True)]

    labels = [each.label for each in details]
    name = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    return PanelRow(name, details[0].volume.frame_seconds, labels, panels)
