"""Pretrain a JEPA: step, log, save, resume, export."""

from __future__ import annotations

import json
import logging
import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from .cards import training_card
from .checkpoint import (
    Checkpoint,
    load_latest,
    module_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .config import PreprocessConfig, TrainConfig
from .data import BadClips, Batch, TrainingData, derive_seed
from .devices import best_device
from .errors import ConfigError, GuardError, OutputError, ResumeError, VJEPAError
from .hub import save_model_directory
from .jepa import JEPA, spread
from .masks import Masks, MultiBlockMasking
from .optim import adamw, cosine, linear, set_hyperparameters, warmup_then
from .preprocess import normalize
from .progress import progress_bar
from .schema import from_dict, read_toml, to_dict, to_toml
from .signals import stop_on_signal
from .storage import Lock, write_text

logger = logging.getLogger(__name__)

_WEIGHTS, _MASKS = 10, 11


@dataclass(frozen=True)
class Hyperparameters:
    """Scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did."""

    loss: float
    prediction_loss: float
    context_loss: float
    variance_loss: float
    covariance_loss: float
    encoder_grad_norm: float
    predictor_grad_norm: float
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class PretrainResult:
    """How a run ended."""

    step: int
    """Optimizer steps done."""
    finished: bool
    """False if a signal stopped the run; its state is saved."""
    model_directory: Path | None
    bad_clips: dict[str, str]
    """Reason by path of every clip that could not be decoded."""


def hyperparameters(config: TrainConfig, step: int) -> Hyperparameters:
    """Return learning rate, weight decay and momentum of a step (counted from 0)."""
    optim, total = config.optim, int(config.steps * config.optim.schedule_scale)
    return Hyperparameters(
        lr=warmup_then(
            step,
            schedule=optim.schedule,
            start=optim.start_lr,
            peak=optim.lr,
            final=optim.final_lr,
            warmup_steps=optim.warmup_steps,
            total_steps=total,
            decay_steps=optim.decay_steps,
        ),
        weight_decay=cosine(step, start=optim.weight_decay, final=optim.final_weight_decay, total_steps=total),
        momentum=linear(step, start=config.objective.ema_start, final=config.objective.ema_end, total_steps=total),
    )


def make_optimizer(jepa: JEPA, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over context encoder and predictor."""
    return adamw((jepa.context_encoder, jepa.predictor), betas=config.optim.betas, eps=config.optim.eps)


def train_step(
    jepa: JEPA, optimizer: torch.optim.Optimizer, clips: Tensor, masks: Masks, *, config: TrainConfig, step: int
) -> StepReport:
    """Do one optimizer step and move the target encoder.

    Args:
        clips: normalised pixels `[B, 3, T, H, W]`.
        step: optimizer steps done before, from 0.

    Raises:
        GuardError: loss or gradient is not finite; weights and target encoder are untouched.
    """
    values = hyperparameters(config, step)
    set_hyperparameters(optimizer, lr=values.lr, weight_decay=values.weight_decay)
    optimizer.zero_grad(set_to_none=True)
    with _autocast(config, clips.device):
        losses = jepa(clips, masks)
    losses.total.backward()
    limit = config.optim.max_grad_norm or math.inf
    encoder_norm = float(clip_grad_norm_(jepa.context_encoder.parameters(), limit))
    predictor_norm = float(clip_grad_norm_(jepa.predictor.parameters(), limit))
    report = StepReport(
        loss=float(losses.total.detach()),
        prediction_loss=float(losses.prediction.detach()),
        context_loss=float(losses.context.detach()),
        variance_loss=float(losses.variance.detach()),
        covariance_loss=float(losses.covariance.detach()),
        encoder_grad_norm=encoder_norm,
        predictor_grad_norm=predictor_norm,
        hyperparameters=values,
    )
    for name in ("loss", "encoder_grad_norm", "predictor_grad_norm"):
        value = getattr(report, name)
        if not math.isfinite(value):
            raise GuardError(f"step {step + 1}: {name}={value} must be finite; lower optim.lr={config.optim.lr:g}")
    optimizer.step()
    jepa.update_target(values.momentum)
    return report


def draw_masks(config: TrainConfig, *, batch_size: int, step: int) -> Masks:
    """Draw the masks of a step; they depend on seed and step alone."""
    pairs = []
    for index, mask in enumerate(config.masks):
        masking = MultiBlockMasking(
            grid=config.model.grid,
            num_blocks=mask.num_blocks,
            spatial_scale=mask.spatial_scale,
            aspect_ratio=mask.aspect_ratio,
            temporal_scale=mask.temporal_scale,
            equalize=mask.equalize,
        )
        generator = torch.Generator().manual_seed(derive_seed(config.seed, _MASKS, step, index))
        pairs.append(masking(batch_size, generator=generator))
    return Masks(tuple(context for context, _ in pairs), tuple(target for _, target in pairs))


def pretrain(config: TrainConfig, *, resume: bool = False, show_progress_bar: bool | None = None) -> PretrainResult:
    """Pretrain a model on a directory or list of videos and export a model directory to `config.out/model`.

    SIGINT or SIGTERM finishes the step, saves and returns with `finished=False`; call again with `resume=True`.

    Args:
        config: the run, complete; see `vjepa_sdk.train_config`.
        resume: go on from the newest checkpoint in `config.out`, bit for bit as if never stopped.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: no clips or output given.
        OutputError: `config.out` holds a run and `resume` is False, or another process uses it.
        ResumeError: `config` differs from the run's in something that matters.
        GuardError: the loss became non-finite, or too many clips cannot be decoded.
    """
    if not config.out:
        raise ConfigError("out is empty; pass a directory for the run, for example runs/first")
    if not config.data.path:
        raise ConfigError("data.path is empty; pass a directory of videos or a CSV")
    return Trainer(config).run(resume=resume, show_progress_bar=show_progress_bar)


class Trainer:
    """One pretraining run in one directory."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.out = config, Path(config.out)
        self.device = best_device(config.device)
        self.bad = BadClips()
        self.data = TrainingData(
            config.data,
            num_frames=config.model.num_frames,
            crop_size=config.model.img_size,
            batch_size=config.batch_size,
            seed=config.seed,
            bad=self.bad,
        )
        self.preprocess = PreprocessConfig.for_crop(config.model.img_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, _WEIGHTS))
            self.jepa = JEPA(config.model, config.objective).to(self.device)
        self.optimizer = make_optimizer(self.jepa, config)
        self.step = 0

    def run(self, *, resume: bool, show_progress_bar: bool | None) -> PretrainResult:
        """Train to the end or to a signal; see `pretrain`."""
        with ExitStack() as stack:
            stack.enter_context(self._claimed(resume))
            self._check_content(resume)
            stop = stack.enter_context(stop_on_signal())
            if resume:
                self._restore()
            write_text(self.out / "config.toml", to_toml(self.config))
            bar = stack.enter_context(
                progress_bar("pretrain", total=self.config.steps, done=self.step, show=show_progress_bar)
            )
            batches = self.data.batches(first_step=self.step, last_step=self.config.steps)
            stack.callback(batches.close)
            with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as metrics:
                for batch in batches:
                    report = self._step(batch)
                    is_last = self.step == self.config.steps
                    if self.step % self.config.log_every == 0 or is_last:
                        metrics.write(json.dumps(self._metrics(report, batch)) + "\n")
                        metrics.flush()
                    bar.advance(f"loss {report.loss:.4f}")
                    if self.step % self.config.save_every == 0 or is_last or stop.is_requested:
                        self._save()
                    if stop.is_requested and not is_last:
                        return PretrainResult(self.step, False, None, self.bad.reasons)
            return PretrainResult(self.step, True, self._export(), self.bad.reasons)

    def _step(self, batch: Batch) -> StepReport:
        clips = self._normalized(batch)
        masks = draw_masks(self.config, batch_size=len(clips), step=self.step)
        masks = Masks(*(tuple(index.to(self.device) for index in part) for part in (masks.context, masks.target)))
        try:
            report = train_step(self.jepa, self.optimizer, clips, masks, config=self.config, step=self.step)
        except GuardError as error:
            raise GuardError(f"{error}; clips: {', '.join(batch.paths)}") from None
        self.step += 1
        return report

    def _normalized(self, batch: Batch) -> Tensor:
        return normalize(batch.clips.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def _metrics(self, report: StepReport, batch: Batch) -> dict[str, float]:
        """Return one line of `metrics.jsonl`: losses, gradients, schedules and signs of collapse."""
        width = self.config.model.embed_dim
        collapse = spread(self.jepa.targets(self._normalized(batch))[..., -width:])
        line = asdict(report)
        return {
            "step": self.step,
            **line.pop("hyperparameters"),
            **line,
            **{f"target_{name}": value for name, value in asdict(collapse).items()},
            "clips_tried": self.bad.tried,
            "clips_failed": self.bad.failed,
        }

    def _claimed(self, resume: bool) -> Lock:
        """Make the run's directory and return its lock; nothing is written into a directory that is not a run's."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if not (self.out / "lock").exists():
                self._check_content(resume)
                (self.out / "lock").touch()
        except VJEPAError:
            raise
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written ({error.strerror}); choose another --out") from error
        return Lock(self.out / "lock")

    def _check_content(self, resume: bool) -> None:
        """Refuse a directory that holds something, or one without a run where it should have one."""
        content = [path for path in self.out.iterdir() if path.name != "lock" and not path.name.endswith(".tmp")]
        if not resume and content:
            raise OutputError(f"{self.out}: is not empty; pass --resume to continue it, or choose another --out")
        if resume and not (self.out / "config.toml").is_file():
            raise OutputError(f"{self.out}: holds no run to resume; leave out --resume")

    def _restore(self) -> None:
        old = to_dict(from_dict(TrainConfig, read_toml(self.out / "config.toml")))
        changes = _differences(old, to_dict(self.config))
        if changes:
            raise ResumeError(
                f"{self.out}: cannot resume, the configuration changed: {'; '.join(changes)}; "
                "restore it or start a new run in another --out"
            )
        checkpoint = load_latest(self.out / "checkpoints")
        if checkpoint is not None:
            saved = checkpoint.state["clips"]
            if saved["digest"] != self.data.digest:
                raise ResumeError(
                    f"{self.out}: cannot resume, the list of clips changed from {saved['count']} to "
                    f"{len(self.data.paths)} clips or in order; restore it or start a new run in another --out"
                )
            self.jepa.load_state_dict(checkpoint.weights)
            restore_optimizer(self.optimizer, checkpoint.optimizer)
            self.step = checkpoint.step
            self.bad.restore(checkpoint.state["bad_clips"])
        _drop_metrics_after(self.out / "metrics.jsonl", self.step)

    def _save(self) -> None:
        checkpoint = Checkpoint(
            step=self.step,
            weights=module_tensors(self.jepa),
            optimizer=optimizer_tensors(self.optimizer),
            state={
                "clips": {"digest": self.data.digest, "count": len(self.data.paths)},
                "bad_clips": self.bad.state(),
            },
        )
        save_checkpoint(self.out / "checkpoints", checkpoint, keep=self.config.keep_checkpoints)

    def _export(self) -> Path:
        """Write `model/`: target encoder, context encoder and predictor."""
        config = self.config
        provenance = {
            "made_by": "vjepa pretrain",
            "preset": config.preset or "none",
            "steps": self.step,
            "clips_seen": self.step * config.batch_size,
            "videos": len(self.data.paths),
            "seed": config.seed,
        }
        return save_model_directory(
            self.out / "model",
            config=config.model,
            preprocess=self.preprocess,
            modules={
                "encoder": self.jepa.target_encoder,
                "context_encoder": self.jepa.context_encoder,
                "predictor": self.jepa.predictor,
            },
            encoder_weights="target",
            provenance=provenance,
            card=training_card(config, provenance=provenance),
        )


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    if config.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


_MAY_CHANGE = {"out", "device", "log_every", "save_every", "keep_checkpoints"}
_DATA_MAY_CHANGE = {"path", "num_workers", "prefetch", "deadline_seconds", "max_bad_fraction"}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Name the settings that decide the result and differ, as `key: old -> new`."""

    def flat(data: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(data, dict):
            return {prefix: data}
        return {k: v for key, value in data.items() for k, v in flat(value, f"{prefix}.{key}".lstrip(".")).items()}

    before, after = flat(old), flat(new)
    free = _MAY_CHANGE | {f"data.{name}" for name in _DATA_MAY_CHANGE}
    keys = sorted((before.keys() | after.keys()) - free)
    return [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _drop_metrics_after(path: Path, step: int) -> None:
    """Forget what an interrupted run logged after its last checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))
