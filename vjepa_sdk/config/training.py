"""Describe training runs as frozen, validated data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from ..errors import ConfigError
from .choices import Decoder, EncoderWeights
from .model import ModelConfig
from .schema import check_interval, check_multiple, check_range, check_types

Equalize = Literal["columns", "truncate"]
MaskKind = Literal["multiblock", "random_tube", "ijepa", "future"]
IndexRule = Literal["even", "official"]
LearningRateSchedule = Literal["cosine", "constant", "linear", "wsd"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What one mask set hides; each set gives one prediction task per step (V-JEPA section 3.2, I-JEPA section 3)."""

    kind: MaskKind = "multiblock"
    """`multiblock`: the union of blocks; `random_tube`: scattered places, the same in every frame (V-JEPA's ablation);
    `ijepa`: several target blocks of a still, predicted one by one from one large context block;
    `future`: all that comes after the clip's first time steps (intuitive physics, arXiv 2502.11831)."""
    share: float | None = None
    """Where the mask sets of a run take turns: how often a forward pass draws this one, relative to the others. None:
    every pass predicts for every set, as in all official recipes."""
    num_blocks: int = 8
    """Blocks that are hidden; with `ijepa` the number of target blocks."""
    spatial_scale: tuple[float, float] = (0.15, 0.15)
    """Share of a frame that one block covers, (low, high)."""
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    """Share of the clip's duration that one block covers."""
    hidden_share: float = 0.9
    """Share of the places that `random_tube` hides."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Share of a still that the context block of `ijepa` covers, before the target blocks are cut out of it."""
    min_keep: int = 10
    """Tokens that `ijepa` leaves in each block and context, at least."""
    max_temporal_keep: float = 1.0
    """Share of the clip, from its start, that the context may show; what comes later is hidden too."""
    max_keep: int | None = None
    """Most tokens that the context may have."""
    complement: EncoderWeights | None = None
    """`target`: it becomes all that the context, cut to the batch's length, does not show (official `full_complement`);
    `context`: the reverse (`pred_full_complement`)."""
    context_steps: tuple[int, int] = (1, 1)
    """Time steps, of one tubelet each, that the context of `future` shows, drawn from (low, high) for each forward
    pass; the same for its whole batch."""
    invert: bool = False
    """Swap context and target (official `inv_block`)."""
    equalize: Equalize = "columns"
    """How a batch's index lists get one length: `columns` drops whole spatial positions over all frames, `truncate`
    cuts the late tokens (the official code)."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range("num_blocks", self.num_blocks, 1, 256)
        check_range("min_keep", self.min_keep, 1, 65536)
        if self.max_keep is not None:
            check_range("max_keep", self.max_keep, 1, 1_000_000_000)
        intervals = {"spatial_scale": 1.0, "temporal_scale": 1.0, "aspect_ratio": 16.0, "context_scale": 1.0}
        for name, high in intervals.items():
            check_interval(name, getattr(self, name), 0.0, high)
        if not 1 <= self.context_steps[0] <= self.context_steps[1]:
            raise ConfigError(f"context_steps={self.context_steps} must be (low, high) with 1 <= low <= high")
        if self.share is not None and not 0.0 < self.share <= 1e6:
            raise ConfigError(f"share={self.share} must be above 0; leave the mask set out instead")
        for name in ("hidden_share", "max_temporal_keep"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}={getattr(self, name)} must be a share above 0, at most 1")
        if self.kind == "multiblock" and self.equalize == "columns":
            for name, whole in (("temporal_scale", (1.0, 1.0)), ("max_temporal_keep", 1.0)):
                if getattr(self, name) != whole:
                    raise ConfigError(
                        f"{name}={getattr(self, name)} must be {whole} with equalize='columns', which hides the same "
                        "area in every frame; pass equalize='truncate'"
                    )
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse settings that the kind does not know: they would be without effect."""
        known = {
            "multiblock": {"num_blocks", "spatial_scale", "aspect_ratio", "temporal_scale", "max_temporal_keep",
                           "max_keep", "complement", "invert", "equalize"},
            "random_tube": {"hidden_share", "invert"},
            "ijepa": {"num_blocks", "spatial_scale", "aspect_ratio", "context_scale", "min_keep"},
            "future": {"context_steps", "invert"},
        }[self.kind]  # fmt: skip
        for item in fields(self):
            if item.name not in known | {"kind", "share"} and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"{item.name}={getattr(self, item.name)!r} has no effect on kind={self.kind!r}; leave it out"
                )


def paper_masks(equalize: Equalize) -> tuple[MaskConfig, MaskConfig]:
    """Return the short-range and long-range mask sets of V-JEPA (section 3.2) and V-JEPA 2."""
    return (
        MaskConfig(num_blocks=8, spatial_scale=(0.15, 0.15), equalize=equalize),
        MaskConfig(num_blocks=2, spatial_scale=(0.7, 0.7), equalize=equalize),
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised: the distance of predicted and layer-normed target features, and optional extra terms."""

    loss: Literal["l1", "l2", "smooth_l1"] = "l1"
    """`l1` in all V-JEPAs; `l2` is half the squared distance (V-JEPA's `loss_exp=2`, I-JEPA's paper); `smooth_l1`
    with its bend at 1 is what I-JEPA's code runs."""
    context_weight: float = 0.0
    """Weight of the loss on the context tokens themselves (V-JEPA 2.1); needs `model.predictor_context`."""
    context_ramp: tuple[int, int] | None = None
    """Step up to which the context loss weighs nothing, and step from which it has its whole weight; linear between
    (V-JEPA 2.1: 15000, 30000). None: whole from the start."""
    context_distance_weighted: bool = True
    """Divide each context token's loss by the root of its distance to the nearest hidden token (V-JEPA 2.1)."""
    variance_weight: float = 0.0
    """Weight of the hinge that keeps each context feature's standard deviation above 1 (VICReg, arXiv 2105.04906)."""
    covariance_weight: float = 0.0
    """Weight of the squared off-diagonal covariance of the context features (VICReg)."""
    mask_token: Literal["per_mask", "shared"] = "per_mask"
    """`per_mask`: mask set i uses mask token i (V-JEPA 1); `shared`: all use token 0 (V-JEPA 2, 2.1)."""
    ema_start: float = 0.998
    ema_end: float = 1.0
    """Momentum of the target encoder, linear from start to end over the schedule."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("context_weight", "variance_weight", "covariance_weight"):
            check_range(name, getattr(self, name), 0.0, 1000.0)
        for name in ("ema_start", "ema_end"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        if self.context_ramp is not None and not 0 <= self.context_ramp[0] < self.context_ramp[1]:
            raise ConfigError(f"context_ramp={self.context_ramp} must be (start, end) with 0 <= start < end")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One of several datasets that are drawn from by weight."""

    path: str
    """As `DataConfig.path`."""
    split: str | None = None
    weight: float = 1.0
    """Share of the clips drawn from here, relative to the other sources, however many clips each has."""

    def __post_init__(self) -> None:
        check_types(self)
        if not 0.0 < self.weight <= 1e6:
            raise ConfigError(f"weight={self.weight} of {self.path!r} must be above 0; leave the source out instead")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which clips are read and how they are cut and augmented."""

    path: str = ""
    """Directory of videos or images, or a list: a CSV (`path[,split,label,group]`, or the official headerless
    `path label`), or an `.npy` array of paths."""
    split: str | None = None
    """Only rows of a CSV with this value in the column `split`."""
    sources: tuple[SourceConfig, ...] = ()
    """Several datasets, drawn from by weight; instead of `path`."""
    frame_stride: tuple[int, int] = (4, 4)
    """Frames from one sampled frame to the next, drawn from (low, high) for each clip."""
    fps: float | None = None
    """Sampled frames per second, instead of `frame_stride`; each video's own rate decides its stride."""
    index_rule: IndexRule = "even"
    """`even`: a constant stride; `official`: the positions of the official code, whose strides differ by one."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Share of the frame's area that the random crop covers."""
    crop_aspect_ratio: tuple[float, float] = (0.75, 1.35)
    antialias: bool = True
    """Smooth before the crop is scaled down; the official video code does not."""
    horizontal_flip: bool = True
    still: float = 0.0
    """Probability that one frame of a video stands for the whole clip."""
    moving_window: float = 0.0
    """Probability that the crop moves or zooms steadily from one rectangle to another; over a still frame this is all
    that moves."""
    sprites: float = 0.0
    """Probability that a patch of the clip itself, with other colours, crosses it on a straight line."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation, one draw a clip; 0: none, as in all official recipes."""
    rand_augment: bool = False
    """Two random operations of RandAugment (arXiv 1909.13719), one draw a clip."""
    random_erasing: float = 0.0
    """Probability that one rectangle is erased from all frames of a clip."""
    cache: str | None = None
    """Directory in which the clips are kept decoded and small, for all runs over the same files: made once, read from
    then on. Crops are then cut from the small frames. None: decode every clip every time."""
    cache_short_side: int = 96
    """Pixels of the short side of the frames that are kept; smaller frames stay as they are."""
    cache_fps: float | None = None
    """Frames a second that are kept; None: all."""
    cache_gigabytes: float = 16.0
    """A cache that would become larger than this is refused."""
    num_workers: int = 2
    """Decoding processes; 0 decodes in the training process, without a deadline."""
    prefetch: int = 32
    """Clips decoded ahead of the step that needs them."""
    deadline_seconds: float = 60.0
    """A clip that takes longer to decode counts as bad."""
    max_bad_fraction: float = 0.1
    """Training stops when more than this share of the clips cannot be decoded, as far as those it tried can tell."""
    decoder: Decoder = "pyav"

    def __post_init__(self) -> None:
        check_types(self)
        low, high = self.frame_stride
        if not 1 <= low <= high <= 1000:
            raise ConfigError(f"frame_stride={self.frame_stride} must be (low, high) with 1 <= low <= high <= 1000")
        if self.fps is not None:
            check_range("fps", self.fps, 0.001, 1000)
        check_interval("crop_scale", self.crop_scale, 0.0, 1.0)
        check_interval("crop_aspect_ratio", self.crop_aspect_ratio, 0.0, 16.0)
        for name in ("color_jitter", "random_erasing", "max_bad_fraction", "still", "moving_window", "sprites"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        check_range("cache_short_side", self.cache_short_side, 16, 4096)
        if self.cache_fps is not None:
            check_range("cache_fps", self.cache_fps, 0.001, 1000)
        check_range("cache_gigabytes", self.cache_gigabytes, 0.001, 1e6)
        check_range("num_workers", self.num_workers, 0, 256)
        check_range("prefetch", self.prefetch, 1, 65536)
        check_range("deadline_seconds", self.deadline_seconds, 0.1, 86400)
        if self.sources and (self.path or self.split):
            raise ConfigError(f"path={self.path!r} excludes sources; move it into a [[data.sources]] table")

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The datasets to draw from; one, if only `path` is given; none, if nothing is."""
        return self.sources or ((SourceConfig(path=self.path, split=self.split),) if self.path else ())


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Stills beside the clips, in every step (V-JEPA 2.1); they go through the image tokenizer.

    The official code gives some ranks stills and the others clips, and averages the gradients: so does this.
    """

    data: DataConfig = field(default_factory=DataConfig)
    masks: tuple[MaskConfig, ...] = (MaskConfig(num_blocks=10),)
    img_size: int = 256
    batch_size: int = 72
    """Stills per optimizer step."""
    micro_batch_size: int | None = None
    """Stills per forward pass; None: all at once."""
    weight: float = 0.5
    """Share of the gradient that comes from stills; the rest comes from clips (official `rank_ratio`)."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range("img_size", self.img_size, 1, 4096)
        _check_batch(self.batch_size, self.micro_batch_size)
        if not 0.0 < self.weight < 1.0:
            raise ConfigError(f"weight={self.weight} must lie between 0 and 1; set images=none for clips alone")
        if not self.masks:
            raise ConfigError("masks=[] must hold at least one mask set; add an [[images.masks]] table")


def _check_batch(batch_size: int, micro_batch_size: int | None) -> None:
    """Check that a step's batch divides into equal forward passes."""
    check_range("batch_size", batch_size, 1, 1_000_000)
    if micro_batch_size is not None:
        check_range("micro_batch_size", micro_batch_size, 1, batch_size)
        check_multiple("batch_size", batch_size, "micro_batch_size", micro_batch_size)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedules; every value is a function of the step."""

    lr: float = 6.25e-4
    start_lr: float = 2e-4
    final_lr: float = 1e-6
    schedule: LearningRateSchedule = "cosine"
    """After warm-up: `cosine` or `linear` to `final_lr`, `constant`, or `wsd`: constant, then linear to `final_lr` over
    the last `decay_steps`."""
    warmup_steps: int = 0
    decay_steps: int = 0
    schedule_scale: float = 1.0
    """Schedules are laid out over `steps * schedule_scale`; above 1 they stop early (1.25 in the official recipes)."""
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = None
    """Gradients of encoder and predictor are clipped to this norm, each on its own; None: not clipped."""
    clip_from_step: int = 0
    """Steps done before clipping begins; V-JEPA 1 clips only after its warm-up."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("lr", "start_lr", "final_lr", "weight_decay", "final_weight_decay"):
            check_range(name, getattr(self, name), 0.0, 100.0)
        for name in ("warmup_steps", "decay_steps", "clip_from_step"):
            check_range(name, getattr(self, name), 0, 1_000_000_000)
        check_range("schedule_scale", self.schedule_scale, 1.0, 100.0)
        check_range("eps", self.eps, 1e-16, 1.0)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"betas={self.betas} must lie in [0, 1); the usual ones are (0.9, 0.999)")
        if self.max_grad_norm is not None:
            check_range("max_grad_norm", self.max_grad_norm, 1e-6, 1e6)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One pretraining run, complete: the same file, clips and machine give the same weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    masks: tuple[MaskConfig, ...] = field(default_factory=lambda: paper_masks("columns"))
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    images: ImagesConfig | None = None
    """Stills in every step beside the clips (V-JEPA 2.1)."""
    preset: str | None = None
    """Name of the recipe this run started from."""
    out: str = ""
    """Directory of the run: `config.toml`, `metrics.jsonl`, `checkpoints/`, `model/`."""
    init_from: str | None = None
    """Weights to start from: a run's directory (with its optimizer state), a model directory, a hub id or an official
    checkpoint file."""
    init_predictor: bool = True
    """Take the predictor from `init_from` too; false starts it anew, where only the encoder has the same shape."""
    steps: int = 90_000
    batch_size: int = 24
    """Clips per optimizer step."""
    micro_batch_size: int | None = None
    """Clips per forward pass; gradients add up over a step's passes, and each pass equalises its own masks, as one rank
    of the official code does. None: all at once."""
    seed: int = 0
    precision: Precision = "float32"
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    device: str | None = None
    """`cuda`, `mps` or `cpu`, also as a `torch.device`, of which the name is kept; None: the best there is."""
    log_every: int = 10
    save_every: int = 1000
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int | None = None
    """Checkpoints of steps divisible by this are kept for good."""

    def __post_init__(self) -> None:
        if type(self.device).__module__ == "torch":  # which is not imported here
            object.__setattr__(self, "device", str(self.device))
        check_types(self)
        check_range("steps", self.steps, 1, 1_000_000_000)
        _check_batch(self.batch_size, self.micro_batch_size)
        if self.keep_every is not None:
            check_multiple("keep_every", self.keep_every, "save_every", self.save_every)
        check_range("seed", self.seed, 0, 2**31 - 1)
        for name in ("log_every", "save_every", "keep_checkpoints"):
            check_range(name, getattr(self, name), 1, 1_000_000_000)
        if not self.masks:
            raise ConfigError("masks=[] must hold at least one mask set; add a [[masks]] table")
        self._check_objective()
        self._check_masks()

    def _check_objective(self) -> None:
        if self.objective.context_weight and not self.model.predictor_context:
            raise ConfigError(
                f"objective.context_weight={self.objective.context_weight} needs predicted context features; "
                "set model.predictor_context=true"
            )
        if self.model.prediction_dim != self.model.predictor_levels * self.model.embed_dim:
            raise ConfigError(
                f"model.predictor_out_dim={self.model.predictor_out_dim} must equal the target features "
                f"{self.model.predictor_levels * self.model.embed_dim}; leave it out"
            )

    def _check_masks(self) -> None:
        sets = [("masks", self.masks, self.model.num_frames)]
        if self.images is not None:
            if not self.model.image_tokenizer:
                raise ConfigError(
                    "images needs a model that embeds stills; set model.image_tokenizer=true or images=none"
                )
            check_multiple("images.img_size", self.images.img_size, "patch_size", self.model.patch_size)
            sets.append(("images.masks", self.images.masks, 1))
        for where, masks, frames in sets:
            self._check_mask_sets(where, masks, frames)
        if self.objective.context_weight and any(mask.kind == "ijepa" for mask in self.masks):
            raise ConfigError(
                f"objective.context_weight={self.objective.context_weight} is not defined for kind='ijepa'; set it to 0"
            )
        if self.objective.mask_token == "per_mask" and self.model.num_mask_tokens < len(self.masks):
            raise ConfigError(
                f"model.num_mask_tokens={self.model.num_mask_tokens} must be at least the number of mask sets; "
                f"pass {len(self.masks)} or objective.mask_token='shared'"
            )

    def _check_mask_sets(self, where: str, masks: tuple[MaskConfig, ...], frames: int) -> None:
        """Check the mask sets of clips of so many frames, one for stills."""
        if frames != 1 and any(mask.kind == "ijepa" for mask in masks):
            raise ConfigError(f"{where}: kind='ijepa' hides blocks of stills; clips take kind='multiblock'")
        steps = max(1, frames // self.model.tubelet_size)
        for mask in masks:
            if mask.kind == "future" and mask.context_steps[1] >= steps:
                remedy = f"pass at most {steps - 1}" if steps > 1 else "pass longer clips"
                raise ConfigError(
                    f"{where}: context_steps={mask.context_steps} leaves no future to clips of {steps} time steps; "
                    f"{remedy}"
                )
        takes_turns = {mask.share is not None for mask in masks}
        if len(takes_turns) > 1:
            raise ConfigError(f"{where}: share must be set for all mask sets, which then take turns, or for none")
        if takes_turns == {True} and self.objective.mask_token == "per_mask":
            raise ConfigError(
                f"{where}: mask sets that take turns have one mask token; set objective.mask_token='shared'"
            )
