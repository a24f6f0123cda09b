"""Encode videos with a pretrained model: the class most users need."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._version import __version__
from ..config.choices import Decoder, Device, EncoderWeights, Pooling, Precision, Tail
from ..config.model import ModelConfig, PreprocessConfig
from ..config.schema import to_dict
from ..config.surprise import (
    CONTEXTS,
    ContextReduction,
    SurpriseCrop,
    SurpriseProtocol,
    SurpriseTargets,
    settle_surprise,
)
from ..errors import ConfigError, WeightsError
from ..features.video_features import VideoFeatures
from ..hub.client import HubOptions
from ..hub.locate import locate_model
from ..hub.publish import push
from ..hub.upload import PushReport
from ..models.encoder import VideoEncoder
from ..models.pixels import Pixels
from ..models.precision import check_precision
from ..models.predictor import Predictor
from ..runtime.devices import best_device
from ..runtime.forks import check_fork
from ..runtime.progress import progress_bar
from ..video.clips import ClipLoader, WindowedVideo, WindowLoader
from ..video.inputs import split_batch
from ..video.transforms import normalize
from ..video.walk import FrameWalk
from ..weights.cards import model_card, name_of
from ..weights.digests import network_digests
from ..weights.directory import MAX_SHARD_SIZE, Pretrained, load_model_directory, save_model_directory
from ..weights.provenance import descended
from ..weights.written import check_model_place
from .backbone import Backbone, ClipTransform
from .batches import in_turns, load_clips
from .computation import Computation
from .pooling import check_pooling, pool_tokens, stack_by_shape, stack_rows
from .prediction import predict_tokens
from .prediction_error import ErrorMeter, check_predictor
from .surprise import Surprise, SurpriseMeter
from .timeline import Normalizer

logger = logging.getLogger(__name__)


class VJEPA:
    """A pretrained encoder with its preprocessing and, where there is one, its predictor."""

    def __init__(
        self,
        pretrained: Pretrained,
        *,
        device: torch.device,
        name: str | None = None,
        directory: Path | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        self._pretrained = pretrained
        self.device = device
        self.name = name
        """What `from_pretrained` was asked for."""
        self.directory = directory
        """Where the files are that `from_pretrained` read; None of what was not loaded."""
        self._is_compiled = compile
        self._computations: dict[Precision, Computation] = {}
        self.precision: Precision = self._computation(precision).precision
        """In which features are computed; what `auto` has chosen."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        weights: EncoderWeights | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> VJEPA:
        """Load a model.

        Args:
            name_or_path: a name from `list_models()`, a model directory, or a hub id `owner/name`. A model that is
                published as a file alone is fetched and converted the first time.
            revision: branch, tag or commit of a hub repository.
            cache_dir: hub cache; None: the hub's own default.
            token: hub token for private repositories; None: the stored one.
            local_files_only: never touch the network.
            force_download: fetch again what is cached.
            device: `cuda`, `mps` or `cpu`; None: the best there is.
            dtype: of the weights in memory; None: the model's own. Sin-cos tables stay float32, and so do features.
            weights: `target` or `context` encoder; None takes what is there, target first.
            precision: what features are computed in, by weights that stay float32: `float32`, `bfloat16`, `float16`,
                `int8`, or `auto`: bfloat16 where a block is quicker in it on this machine. `predict` and `surprise`
                always compute as the weights are.
            compile: let `torch.compile` make the blocks faster. It takes seconds to minutes at the first clip, and
                needs a C++ compiler.

        Raises:
            ConfigError: an unknown name or precision, a configuration that is not valid, or no right to a hub
                repository.
            WeightsError: weights that are missing, do not fit their configuration, or are not what the hub states.
            WriteError: the disk of the hub's cache is full.
        """
        _check_dtype(dtype)
        check_precision(precision)
        if weights is not None and weights not in get_args(EncoderWeights):
            raise ConfigError(f"weights={weights!r} must be 'target' or 'context'")
        place = best_device(device)
        hub = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        directory = locate_model(name_or_path, hub)
        pretrained = load_model_directory(directory, weights=weights, device=place, dtype=dtype)
        return cls(
            pretrained,
            device=place,
            name=os.fspath(name_or_path),
            directory=directory,
            precision=precision,
            compile=compile,
        )

    @classmethod
    def untrained(
        cls,
        config: ModelConfig,
        *,
        preprocess: PreprocessConfig | None = None,
        seed: int = 0,
        device: Device = None,
    ) -> VJEPA:
        """Build a model with random weights: the baseline that a trained one has to beat.

        Args:
            config: shape of the model.
            preprocess: None: that of released models, for `config.img_size`.
            seed: of the weights.
            device: `cuda`, `mps` or `cpu`; None: the best there is.
        """
        place = best_device(device)
        encoder, predictor = _initialized(config, seed)
        pretrained = Pretrained(
            config=config,
            preprocess=preprocess or PreprocessConfig.for_crop(config.img_size),
            encoder=encoder.to(place).eval().requires_grad_(False),
            predictor=predictor.to(place).eval().requires_grad_(False),
            encoder_weights="target",
            provenance={"made_by": "random initialisation", "seed": seed},
            again=partial(_initial_digests, config, seed),
        )
        return cls(pretrained, device=place)

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self._pretrained.config

    @property
    def preprocess(self) -> PreprocessConfig:
        """How frames become clips."""
        return self._pretrained.preprocess

    @property
    def encoder(self) -> VideoEncoder:
        """The network, in evaluation mode."""
        return self._pretrained.encoder

    @property
    def predictor(self) -> Predictor | None:
        """The predictor, if the model has one."""
        return self._pretrained.predictor

    @property
    def encoder_weights(self) -> EncoderWeights:
        """Whether `encoder` is the `target` or the `context` encoder."""
        return self._pretrained.encoder_weights

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in memory; features are float32 whatever it is."""
        return self.encoder.patch_embed.proj.weight.dtype

    @property
    def embed_dim(self) -> int:
        """Features of a token, and of `mean` pooling."""
        return self.config.embed_dim

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the weights come from."""
        return self._pretrained.provenance

    def __repr__(self) -> str:
        config = self.config
        return (
            f"VJEPA({config.family}, {config.embed_dim} x {config.depth}, {config.num_frames} frames of "
            f"{self.preprocess.crop_size} px, {self.encoder_weights} encoder, {self.device})"
        )

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> VJEPA:
        """Move the networks, and return this model.

        Args:
            device: `cuda`, `mps` or `cpu`; None: where it is.
            dtype: of the weights; None: as it is.

        Raises:
            ConfigError: a device that is not there, or a dtype that is no floating-point one.
        """
        _check_dtype(dtype)
        place = self.device if device is None else best_device(str(device))
        for network in filter(None, (self.encoder, self.predictor)):
            network.to(place, dtype)
        self.device = place
        self._computations.clear()
        self.__dict__.pop("_both_encoders", None)  # found again, where this model is
        return self

    def backbone(self) -> Backbone:
        """Return the encoder as a module for a loop of your own, with gradients on: pixels in, pooled features out.

        It holds this model's encoder: what it learns, `encode` and `save_pretrained` have learnt.
        """
        return Backbone(self.encoder, self.preprocess, ClipTransform(self.clip_loader()))

    @overload
    def encode(
        self,
        videos: object,
        *,
        pooling: Pooling = ...,
        layers: int | Sequence[int] | None = ...,
        num_frames: int | None = ...,
        fps: float | None = ...,
        source_fps: float | None = ...,
        batch_size: int = ...,
        num_workers: int = ...,
        device: Device | Sequence[Device] = ...,
        normalize_embeddings: bool = ...,
        convert_to_tensor: Literal[False] = ...,
        show_progress_bar: bool | None = ...,
        decoder: Decoder = ...,
        precision: Precision | None = ...,
    ) -> np.ndarray: ...

    @overload
    def encode(
        self,
        videos: object,
        *,
        pooling: Pooling = ...,
        layers: int | Sequence[int] | None = ...,
        num_frames: int | None = ...,
        fps: float | None = ...,
        source_fps: float | None = ...,
        batch_size: int = ...,
        num_workers: int = ...,
        device: Device | Sequence[Device] = ...,
        normalize_embeddings: bool = ...,
        convert_to_tensor: Literal[True],
        show_progress_bar: bool | None = ...,
        decoder: Decoder = ...,
        precision: Precision | None = ...,
    ) -> Tensor: ...

    def encode(
        self,
        videos: object,
        *,
        pooling: Pooling = "mean",
        layers: int | Sequence[int] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        source_fps: float | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        device: Device | Sequence[Device] = None,
        normalize_embeddings: bool = False,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
        decoder: Decoder = "pyav",
        precision: Precision | None = None,
    ) -> np.ndarray | Tensor:
        """Summarise each video by the features of one clip.

        Args:
            videos: one video or a batch. One video is a path, a directory of frames, a list of PIL images, an array
                `[T, H, W, 3]` or a tensor `[T, 3, H, W]`, of uint8 or floats in [0, 1] (which are rounded to 8 bits);
                the bytes of a file, or one opened with mode `rb`; a `VideoDecoder` of torchcodec, or a row of a data
                set with `path` and `bytes`, which is what `datasets.Video` gives. Any other list or iterable, or a 5-D
                array, is a batch. For image models (I-JEPA) one image is a path, bytes, a PIL image or an array
                `[H, W, 3]`, and a list of them a batch.
            pooling: `mean` [D], `temporal` [T', D], `grid` [T', 3, 3, D] (means over 3 x 3 parts of the frame),
                `change` [T' - 1, H', W'] (how far each token is from the one before it) or `none` [T', H', W', D],
                where a token covers `tubelet_size` frames and `patch_size` x `patch_size` pixels.
            layers: the last so many blocks, or their numbers from 0; they add an axis before those of `pooling`. None:
                the model's output.
            num_frames: frames of the clip; None: the model's own. They lie at `round(linspace(0, n - 1, num_frames))`;
                a shorter video repeats frames.
            fps: take frames at this rate from the video's start instead; the last one repeats.
            source_fps: frame rate of arrays and frame directories, needed with `fps`.
            batch_size: clips encoded together.
            num_workers: processes that decode files and bytes while this one encodes, each video with a deadline of a
                minute; starting them takes as long as loading torch. 0 decodes in this process.
            device: where to encode, if not on the model's own device. Of a list, each takes every n-th batch: the
                features are, bit for bit, those of one such device, in the same order.
            normalize_embeddings: scale each vector to length 1.
            convert_to_tensor: return a tensor on the model's device instead of a numpy array.
            show_progress_bar: on stderr; None: for batches, if it is a terminal.
            decoder: `pyav`, or `decord` for frame-for-frame parity with the official pipelines.
            precision: of this call, see `from_pretrained`; None: the model's.

        Returns:
            float32 features; a batch adds a first axis.

        Raises:
            InputError: not a video, or an ambiguous layout.
            VideoDecodeError: a file that cannot be decoded.

        Examples:
            >>> from vjepa_sdk import VJEPA, sample_videos
            >>> model = VJEPA.from_pretrained("vjepa-tiny")
            >>> model.encode(sample_videos()[:3]).shape == (3, model.embed_dim)
            True
        """
        check_pooling(pooling, batch_size=batch_size)
        blocks = None if layers is None else self.layer_numbers(layers)
        items, is_batch = split_batch(videos, images=self.config.is_image_model)
        load = self.clip_loader(num_frames=num_frames, fps=fps, source_fps=source_fps, decoder=decoder)
        clips = load_clips(items, load, num_workers=num_workers, prefetch=2 * batch_size)
        batches = iter(lambda: list(islice(clips, batch_size)), [])
        encoders = [
            partial(each._encode_batch, pooling=pooling, layers=blocks, precision=precision)
            for each in self._on(device)
        ]
        rows: list[Tensor] = []
        show = show_progress_bar if is_batch else bool(show_progress_bar)
        with closing(clips), progress_bar("encode", total=len(items), show=show, unit="clip") as bar:
            for encoded in in_turns(batches, encoders):
                rows.extend(row.to(self.device) for row in encoded)
                bar.advance(by=len(encoded))
        features = stack_rows(rows)
        if normalize_embeddings:
            features = F.normalize(features, dim=-1)
        features = features if is_batch else features[0]
        return features if convert_to_tensor else features.cpu().numpy()

    def _encode_batch(
        self, clips: list[Tensor], *, pooling: Pooling, layers: Sequence[int] | None, precision: Precision | None
    ) -> list[Tensor]:
        """Return the features of each clip; those of one shape that follow each other are encoded together."""
        return [
            row
            for group in stack_by_shape(clips)
            for row in self.embed_clips(group, pooling=pooling, layers=layers, precision=precision)
        ]

    def _on(self, device: Device | Sequence[Device]) -> list[VJEPA]:
        """Return this model on each of some devices, once for all that are the same."""
        if device is None:
            return [self]
        names = [device] if isinstance(device, str | torch.device) else list(device)
        if not names:
            raise ConfigError("device is an empty list; pass at least one, or None for the model's own")
        copies = {self.device: self}
        for place in (places := [best_device(name) for name in names]):
            if place not in copies:
                encoder = deepcopy(self.encoder).to(place)
                copies[place] = VJEPA(
                    replace(self._pretrained, encoder=encoder),
                    device=place,
                    name=self.name,
                    precision=self.precision,
                    compile=self._is_compiled,
                )
        return [copies[place] for place in places]

    def extract(
        self,
        video: object,
        *,
        window_seconds: float | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        stride_seconds: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        tail: Tail = "pad",
        source_fps: float | None = None,
        pooling: Pooling = "mean",
        layers: int | Sequence[int] | None = None,
        batch_size: int = 8,
        normalize_embeddings: bool = False,
        show_progress_bar: bool | None = None,
        decoder: Decoder = "pyav",
    ) -> VideoFeatures:
        """Encode a video of any length window by window, in one pass and in memory that does not grow with it.

        Frame i of a window's `num_frames` is the one on screen `i / fps` seconds after its start, by the frames' own
        times, with `window_seconds = num_frames / fps`: two of the three give the third, and `num_frames` is the
        model's where it is not given. Image models (I-JEPA) take one frame a window, the one on screen at its start.

        Args:
            video: a path, a directory of frames, a list of PIL images, an array `[T, H, W, 3]` or a tensor
                `[T, 3, H, W]`.
            window_seconds: length of a window.
            num_frames: frames of a window; None: the model's own.
            fps: frames a second within a window.
            stride_seconds: from the start of one window to the start of the next; None: windows follow each other.
            start_seconds: where the first window starts, on the clock of the video's time stamps; None: first frame.
            end_seconds: where to stop; None: when the last frame ends.
            tail: what becomes of an end that does not fill a window. `pad`: a window in which the last frame repeats
                and whose `end_seconds` is where the video ends; `drop`: nothing; `overlap`: a whole window, moved
                back to end where the video ends. A video shorter than a window is padded unless `tail` is `drop`.
            source_fps: frame rate of arrays, lists of images and frame directories, which have no times of their own.
            pooling: `mean` [D], `temporal` [T', D], `grid` [T', 3, 3, D], `change` [T' - 1, H', W'] or `none`
                [T', H', W', D] for each window, as in `encode`.
            layers: the last so many blocks, or their numbers from 0, as in `get_intermediate_layers`; they add an axis
                after the first. None: the model's output.
            batch_size: windows encoded together.
            normalize_embeddings: scale each vector to length 1.
            show_progress_bar: on stderr; None: if it is a terminal.
            decoder: `pyav`, or `decord` for frame-for-frame parity with the official pipelines.

        Raises:
            ConfigError: an option that is not valid.
            InputError: not one video, or no window in it.
            VideoDecodeError: a file that cannot be decoded.
        """
        check_pooling(pooling, batch_size=batch_size)
        blocks = None if layers is None else self.layer_numbers(layers)
        loader = self.window_loader(
            window_seconds=window_seconds,
            num_frames=num_frames,
            fps=fps,
            stride_seconds=stride_seconds,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            tail=tail,
            source_fps=source_fps,
            decoder=decoder,
        )
        with loader.open(video) as opened:
            embeddings = self._encode_windows(
                opened,
                pooling=pooling,
                layers=blocks,
                batch_size=batch_size,
                normalize_embeddings=normalize_embeddings,
                show_progress_bar=show_progress_bar,
            )
        return VideoFeatures(
            embeddings=embeddings.numpy(),
            start_seconds=opened.windows.start_seconds,
            end_seconds=opened.windows.end_seconds,
            frame_indices=opened.windows.frame_indices,
            meta={
                "video": os.fspath(video) if isinstance(video, str | os.PathLike) else None,
                "model": self._description(),
                "pooling": pooling,
                "layers": blocks,
                "normalize_embeddings": normalize_embeddings,
                "sampling": {**to_dict(loader.windowing), "source_fps": loader.source_fps},
                "decoder": decoder,
                "preprocess": to_dict(self.preprocess),
                "environment": {
                    "vjepa_sdk": __version__,
                    "torch": str(torch.__version__),
                    "device": str(self.device),
                    "precision": self.precision,
                },
            },
        )

    def _encode_windows(
        self,
        opened: WindowedVideo,
        *,
        pooling: Pooling,
        layers: Sequence[int] | None,
        batch_size: int,
        normalize_embeddings: bool,
        show_progress_bar: bool | None,
    ) -> Tensor:
        """Return the features of all windows, in main memory."""
        clips, total, done = opened.clips(), len(opened.windows), 0
        embeddings = torch.empty(0)
        with progress_bar("extract", total=total, show=show_progress_bar, unit="window") as bar:
            while batch := list(islice(clips, batch_size)):
                features = self.embed_clips(torch.from_numpy(np.stack(batch)), pooling=pooling, layers=layers)
                if normalize_embeddings:
                    features = F.normalize(features, dim=-1)
                if not done:
                    embeddings = torch.empty(total, *features.shape[1:], dtype=torch.float32)
                embeddings[done : done + len(batch)] = features
                done += len(batch)
                bar.advance(by=len(batch))
        return embeddings

    def _description(self) -> dict[str, Any]:
        """Return what a file of features says of its model."""
        return {
            "name": self.name,
            "family": self.config.family,
            "encoder_weights": self.encoder_weights,
            "provenance": dict(self.provenance),
        }

    def window_loader(
        self,
        *,
        window_seconds: float | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        stride_seconds: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        tail: Tail = "pad",
        source_fps: float | None = None,
        decoder: Decoder = "pyav",
    ) -> WindowLoader:
        """Return what cuts a video into this model's windows, for use in decoding processes; see `VJEPA.extract`."""
        check_fork()
        return WindowLoader.for_model(
            self.config,
            self.preprocess,
            window_seconds=window_seconds,
            num_frames=num_frames,
            fps=fps,
            stride_seconds=stride_seconds,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            tail=tail,
            source_fps=source_fps,
            decoder=decoder,
        )

    def clip_loader(
        self,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        source_fps: float | None = None,
        decoder: Decoder = "pyav",
    ) -> ClipLoader:
        """Return what turns a video into this model's clip, for use in decoding processes; see `VJEPA.encode`."""
        check_fork()
        return ClipLoader.for_model(
            self.config, self.preprocess, num_frames=num_frames, fps=fps, source_fps=source_fps, decoder=decoder
        )

    def embed_clips(
        self,
        clips: Tensor,
        *,
        pooling: Pooling = "mean",
        layers: Sequence[int] | None = None,
        precision: Precision | None = None,
    ) -> Tensor:
        """Encode clips of cropped pixels `uint8 [B, T, 3, H, W]` and pool their tokens; float32, batch first.

        Args:
            clips: on any device; they are normalised here.
            pooling: see `VJEPA.encode`.
            layers: numbers of blocks, from 0; they become the second axis. None: the model's output, without that axis.
            precision: of this call; None: the model's.
        """
        check_fork()
        is_clip = clips.dtype == torch.uint8 and clips.ndim == 5 and clips.shape[2] == 3
        pixels = self._pixels(clips) if is_clip else self._normalize(clips)
        computation, grid = self._computation(precision), self.encoder.grid_of(pixels)
        if layers is None:
            return self.pool(computation.tokens(pixels), grid, pooling=pooling)
        outputs = computation.tokens_after(pixels, layers)
        return torch.stack([self.pool(tokens, grid, pooling=pooling) for tokens in outputs], dim=1)

    @staticmethod
    def pool(tokens: Tensor, grid: tuple[int, int, int], *, pooling: Pooling) -> Tensor:
        """Pool tokens `[B, N, D]` of a grid (frames, rows, columns) to `[B, ...]`; for `pooling` see `VJEPA.encode`."""
        return pool_tokens(tokens, grid, pooling=pooling)

    def similarity(self, first: np.ndarray | Tensor, second: np.ndarray | Tensor) -> np.ndarray:
        """Return the cosines of features `[N, D]`, or `[D]` for one, with others: float32 `[N, M]`.

        The call is that of sentence-transformers.
        """
        rows, columns = (
            F.normalize(torch.as_tensor(each).float().cpu().reshape(-1, each.shape[-1]), dim=-1)
            for each in (first, second)
        )
        return (rows @ columns.T).numpy()

    def forward_features(self, clips: Tensor) -> Tensor:
        """Encode normalised clips `[B, 3, T, H, W]` into tokens, float32 `[B, N, D]`, in order (t, h, w), layer-normed.

        Raises:
            InputError: frames, height or width do not divide into tokens.
        """
        return self._computation().tokens(self._to_weights(clips))

    def get_intermediate_layers(self, clips: Tensor, n: int | list[int] = 1, *, norm: bool = True) -> list[Tensor]:
        """Return tokens, float32 `[B, N, D]`, after chosen blocks.

        Args:
            clips: normalised, `[B, 3, T, H, W]`.
            n: the last `n` blocks, or their numbers from 0.
            norm: apply the final norm to each.

        Raises:
            ConfigError: a block that the model does not have.
        """
        blocks = self.layer_numbers(n, name="n")
        return self._computation().tokens_after(self._to_weights(clips), blocks, norm=norm)

    def layer_numbers(self, layers: int | Sequence[int], *, name: str = "layers") -> list[int]:
        """Return the numbers of blocks, from 0, that `layers` stands for: the last so many, or those it lists.

        Raises:
            ConfigError: a block that the model does not have; `name` is what the message calls the argument.
        """
        depth = self.config.depth
        blocks = range(depth - int(layers), depth) if isinstance(layers, int | np.integer) else layers
        if not len(blocks) or not all(isinstance(b, int | np.integer) and 0 <= b < depth for b in blocks):
            raise ConfigError(f"{name}={layers!r} must name blocks of the {depth} from 0 to {depth - 1}")
        return [int(block) for block in blocks]

    @torch.no_grad()
    def predict(
        self,
        video: object,
        *,
        context: Sequence[int] | np.ndarray | Tensor,
        target: Sequence[int] | np.ndarray | Tensor,
        mask_index: int = 0,
        num_frames: int | None = None,
        fps: float | None = None,
        source_fps: float | None = None,
        decoder: Decoder = "pyav",
    ) -> Tensor:
        """Predict the features of hidden tokens from visible ones; what is not in `context` is never encoded.

        Tokens count row-major in (frame, row, column) from 0. The context encoder sees them, behind which the predictor
        was trained, also where `encode` uses the target encoder; the latter only where the model has no other.

        Args:
            video: one video, as for `encode`; or normalised clips, a float tensor `[B, 3, T, H, W]` of any size.
            context: visible tokens, `[K]`, or `[B, K]` to differ between clips.
            target: tokens to predict, `[M]` or `[B, M]`; numbers beyond the clip's last token lie in its future.
            mask_index: which of the predictor's mask tokens stands for the hidden ones. Only token 0 is trained in
                released V-JEPA 2 and 2.1 weights; V-JEPA 1 has one for each of its two mask sets.
            num_frames: frames of a video's clip; None: the model's own.
            fps: take a video's frames at this rate; None: spread over the whole video.
            source_fps: frame rate of arrays and frame directories, needed with `fps`.
            decoder: `pyav` or `decord`.

        Returns:
            float32 `[M, O]` for one video, `[B, M, O]` for clips, on the model's device; O is the width of the features
            the predictor was trained on, which are layer-normed.

        Raises:
            WeightsError: the model has no predictor.
            InputError: not a video, or indices that are empty or out of range, or repeated in `context`.
        """
        if self.predictor is None:
            raise WeightsError("this model has no predictor; load one whose directory holds predictor.* weights")
        if isinstance(video, Tensor) and video.ndim == 5 and video.is_floating_point():
            clips = self._to_weights(video)
            return predict_tokens(
                self._context_encoder, self.predictor, clips, context=context, target=target, mask_index=mask_index
            )
        load = self.clip_loader(num_frames=num_frames, fps=fps, source_fps=source_fps, decoder=decoder)
        clips = self._normalize(torch.from_numpy(load(video)[0])[None])
        return self.predict(clips, context=context, target=target, mask_index=mask_index)[0]

    def surprise(
        self,
        video: object,
        *,
        protocol: SurpriseProtocol | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_step: int | None = None,
        stride_tubelets: int = 1,
        context: Sequence[float] = CONTEXTS,
        reduce: ContextReduction | int = "min",
        horizon: int | None = None,
        targets: SurpriseTargets = "window",
        crop: SurpriseCrop | None = None,
        floor: bool = False,
        normalizer: Normalizer | None = None,
        keep_tokens: bool = False,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        source_fps: float | None = None,
        batch_size: int = 8,
        show_progress_bar: bool | None = None,
        decoder: Decoder = "pyav",
    ) -> Surprise:
        """Measure how wrong the predicted future is, given the past, all along a video.

        Windows of `num_frames` follow each other, `stride_tubelets` apart; an end that fills none is dropped, never
        padded. In each, the context encoder sees the first tubelets alone, for several lengths of this context; the
        predictor guesses the features of the rest, and the error is their mean absolute distance from those of the
        target encoder (arXiv 2502.11831). Each window costs a pass of the target encoder, and for each context one of
        context encoder and predictor.

        Args:
            video: a path, a directory of frames, a list of PIL images, an array `[T, H, W, 3]` or a tensor
                `[T, 3, H, W]`.
            protocol: frames and pixels of the published study, by data set: `intphys`, `grasp`, `inflevel`. What is
                given beside it goes first.
            num_frames: frames of a window; None: the model's own.
            fps: frames a second that are looked at; None: the rate of training, where the model says it.
            frame_step: look at every n-th frame instead, whatever the video's rate.
            stride_tubelets: from one window to the next.
            context: shares of a window that are shown, rounded to tubelets.
            reduce: what `Surprise.score` takes of a window's contexts: `min`, `mean`, or the length of one in tubelets.
            horizon: how many tubelets after a context count in the timeline; None: all.
            targets: `window` encodes the truth of a window with all of it, as in training, so that an event colours
                windows that end after it; `past` encodes each tubelet with what came before it only: exactly causal,
                off the distribution of training, and slower.
            crop: `model`: its own resizing and crop; `square` and `squash`: the official pixels. None: the protocol's.
            floor: measure, too, the guess that nothing changes.
            normalizer: normal footage to compare with; see `SurpriseNormalizer`.
            keep_tokens: keep a map of surprise for each tubelet. Until the end this holds the errors of all tokens of
                all windows: 300 MB for an hour at 4 frames a second, 256 tokens a tubelet, and a few times that in the
                end.
            start_seconds: where to begin, on the clock of the video's time stamps.
            end_seconds: where to stop.
            source_fps: frame rate of arrays, lists of images and frame directories, which seconds need.
            batch_size: windows measured together.
            show_progress_bar: on stderr; None: if it is a terminal.
            decoder: `pyav`, or `decord` for frame-for-frame parity with the official pipelines.

        Raises:
            ConfigError: an option that is not valid, no frame rate, or a model of images.
            WeightsError: no predictor, or one that was distilled from another model.
            InputError: not one video, or shorter than a window.
            VideoDecodeError: a file that cannot be decoded.
            ResumeError: `normalizer` was fitted with another model or other settings.
        """
        meter = self.surprise_meter(
            protocol=protocol,
            num_frames=num_frames,
            fps=fps,
            frame_step=frame_step,
            stride_tubelets=stride_tubelets,
            context=context,
            targets=targets,
            crop=crop,
            floor=floor,
            source_fps=source_fps,
            batch_size=batch_size,
            decoder=decoder,
        )
        return meter.measure(
            video,
            normalizer=normalizer,
            reduce=reduce,
            horizon=horizon,
            keep_tokens=keep_tokens,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            show_progress_bar=show_progress_bar,
        )

    def surprise_meter(
        self,
        *,
        protocol: SurpriseProtocol | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_step: int | None = None,
        stride_tubelets: int = 1,
        context: Sequence[float] = CONTEXTS,
        targets: SurpriseTargets = "window",
        crop: SurpriseCrop | None = None,
        floor: bool = False,
        source_fps: float | None = None,
        batch_size: int = 8,
        decoder: Decoder = "pyav",
    ) -> SurpriseMeter:
        """Return what measures many videos with the same settings; see `VJEPA.surprise`."""
        check_fork()
        check_pooling("mean", batch_size=batch_size)
        predictor = check_predictor(self.config, self.predictor)
        stated = self.provenance.get("fps")
        settings = settle_surprise(
            protocol=protocol,
            num_frames=num_frames,
            fps=fps,
            frame_step=frame_step,
            stride_tubelets=stride_tubelets,
            context=context,
            targets=targets,
            crop=crop,
            default_num_frames=self.config.num_frames,
            default_fps=stated if isinstance(stated, int | float) else None,
            tubelet_size=self.config.tubelet_size,
        )
        context_encoder, target_encoder = self._both_encoders
        return SurpriseMeter(
            meter=ErrorMeter(
                context_encoder=context_encoder,
                target_encoder=target_encoder,
                predictor=predictor,
                contexts=settings.context_tubelets,
                targets=targets,
                with_floor=floor,
            ),
            normalize=lambda pixels: self._to_weights(self._normalize(pixels)),
            walk=FrameWalk(settings=settings, preprocess=self.preprocess, decoder=decoder, source_fps=source_fps),
            batch_size=batch_size,
            description=self._description(),
        )

    @property
    def _context_encoder(self) -> VideoEncoder:
        """The encoder whose features the predictor was trained to read; where it is not there, the other."""
        if self.encoder_weights == "context" or self._pretrained.second_encoder is None:
            return self.encoder
        return self._both_encoders[0]

    @cached_property
    def _both_encoders(self) -> tuple[VideoEncoder, VideoEncoder]:
        """Context and target encoder; the same one twice where the model has only one."""
        networks, held = self._pretrained.networks(both_encoders=True)
        if "context_encoder" not in networks:
            logger.warning("only the %s encoder is there; it sees the context and makes the targets too", held)
            return self.encoder, self.encoder
        both = (networks["context_encoder"], networks["encoder"])
        context, target = (network.to(self.device).eval().requires_grad_(False) for network in both)
        assert isinstance(context, VideoEncoder) and isinstance(target, VideoEncoder)
        return context, target

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        dtype: torch.dtype | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        both_encoders: bool = True,
        licence: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a model directory that `from_pretrained` reads: configuration, weights and model card.

        A copy of a model with two encoders has both, and `from_pretrained` takes the target encoder of it, as ever;
        `both_encoders=False` writes the one that this object has.

        A model directory that vjepa-sdk wrote there is replaced. Other files that lie there stay, and where one of them
        has the name of a file to be written, nothing is.

        How the weights were made is told of those that were loaded. If you have changed them since, the card says that
        they are modified, and what they were made from; say the rest with `provenance`.

        Args:
            dtype: of the weights on disk, for example `torch.float16`; None: as in memory.
            max_shard_size: in bytes, or with a unit; larger weights are written as several files with an index.
            both_encoders: read the encoder that was not loaded from where the model came from, and write it too.
            licence: of the weights, as an SPDX identifier such as `Apache-2.0`; None: the one they have.
            provenance: what else `config.json` and the card say of the weights, as plain JSON data; `data` is a list
                of `name`, `clips`, `licence` and `source`.

        Raises:
            ConfigError: no such size, a licence that gives more rights than the weights have, or a provenance that is
                no JSON.
            WeightsError: the second encoder is no longer where the model was loaded from.
            OutputError: the directory is a symbolic link, or holds something else under a name that is to be written.
            WriteError: the directory cannot be written.
        """
        check_model_place(Path(directory))
        modules, held = self._pretrained.networks(both_encoders=both_encoders)
        told = descended(
            self.provenance,
            licence=licence,
            stated=provenance,
            modified=self._pretrained.is_modified(),
            name=None if self.name is None else name_of(self.name),
        )
        return save_model_directory(
            directory,
            config=self.config,
            preprocess=self.preprocess,
            modules=modules,
            encoder_weights=held,
            provenance=told,
            card=model_card(self.config, provenance=told, preprocess=self.preprocess),
            dtype=dtype,
            max_shard_size=max_shard_size,
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        branch: str | None = None,
        private: bool = False,
        create_pr: bool = False,
        dry_run: bool = False,
        keep_card: bool = True,
        commit_message: str | None = None,
        token: str | None = None,
        dtype: torch.dtype | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        both_encoders: bool = True,
        licence: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> PushReport:
        """Write this model to a temporary directory and push that to the hub; see `push` and `VJEPA.save_pretrained`.

        A card that the repository has already stays; `keep_card=False` replaces it.

        Raises:
            ConfigError: no right to write, or options that do not fit.
            WeightsError: the second encoder is no longer where the model was loaded from; or the hub cannot be reached.
            WriteError: the temporary directory is full, or somebody else changed the repository meanwhile.
        """
        with tempfile.TemporaryDirectory(prefix="vjepa-push-") as place:
            directory = self.save_pretrained(
                Path(place) / "model",
                dtype=dtype,
                max_shard_size=max_shard_size,
                both_encoders=both_encoders,
                licence=licence,
                provenance=provenance,
            )
            return push(
                directory,
                repository,
                branch=branch,
                private=private,
                create_pr=create_pr,
                dry_run=dry_run,
                keep_card=keep_card,
                commit_message=commit_message,
                token=token,
            )

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Turn cropped pixels `uint8 [B, T, 3, H, W]` into clips for `forward_features`."""
        check_fork()
        return normalize(pixels.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def _pixels(self, clips: Tensor) -> Tensor | Pixels:
        """Return what `_normalize` does, as something that is not computed before the encoder has cut it up."""
        return Pixels(clips.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def _computation(self, precision: Precision | None = None) -> Computation:
        """Return what computes features in a precision; made at the first use of it."""
        wanted = self.precision if precision is None else precision
        if wanted not in self._computations:
            made = Computation(self.encoder, precision=wanted, is_compiled=self._is_compiled)
            self._computations |= {wanted: made, made.precision: made}
        return self._computations[wanted]

    def _to_weights(self, clips: Tensor) -> Tensor:
        check_fork()
        weight = self.encoder.patch_embed.proj.weight
        return clips.to(weight.device, weight.dtype)


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype={dtype!r} must be a floating-point dtype such as torch.float16")


def _initialized(config: ModelConfig, seed: int) -> tuple[VideoEncoder, Predictor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VideoEncoder(config), Predictor(config)


def _initial_digests(config: ModelConfig, seed: int) -> dict[str, str]:
    encoder, predictor = _initialized(config, seed)
    return network_digests({"encoder": encoder, "predictor": predictor})
