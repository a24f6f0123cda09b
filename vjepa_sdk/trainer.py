"""Pretrain a JEPA: step, log, save, resume, export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cards import read_metrics, training_card
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
from .masks import Masks
from .preprocess import normalize
from .progress import progress_bar
from .schema import from_dict, read_toml, to_dict, to_toml
from .signals import stop_on_signal
from .steps import (
    ForwardPass,
    NonFiniteError,
    StepReport,
    draw_image_masks,
    draw_masks,
    make_optimizer,
    make_scaler,
    train_step,
)
from .storage import Lock, write_text

logger = logging.getLogger(__name__)

_WEIGHTS, _IMAGES = 10, 20


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
        self.images = None
        if config.images is not None:
            self.images = TrainingData(
                config.images.data,
                num_frames=1,
                crop_size=config.images.img_size,
                batch_size=config.images.batch_size,
                seed=derive_seed(config.seed, _IMAGES),
                bad=self.bad,
            )
        self.preprocess = PreprocessConfig.for_crop(config.model.img_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, _WEIGHTS))
            self.jepa = JEPA(config.model, config.objective).to(self.device)
        self.jepa.set_activation_checkpointing(config.activation_checkpointing)
        self.optimizer = make_optimizer(self.jepa, config)
        self.scaler = make_scaler(config, self.device)
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
            batches, images = (stack.enter_context(self._batches(data)) for data in (self.data, self.images))
            with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as metrics:
                for batch in batches:
                    report = self._step(batch, next(images, None))
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

    @contextmanager
    def _batches(self, data: TrainingData | None) -> Iterator[Iterator[Batch]]:
        """Lend the batches of the steps that are left; none, if the run has no such data."""
        if data is None:
            yield iter(())
            return
        batches = data.batches(first_step=self.step, last_step=self.config.steps)
        try:
            yield batches
        finally:
            batches.close()

    def _step(self, batch: Batch, images: Batch | None) -> StepReport:
        try:
            report = train_step(
                self.jepa,
                self.optimizer,
                self._passes(batch, images),
                config=self.config,
                step=self.step,
                scaler=self.scaler,
            )
        except NonFiniteError as error:
            raise GuardError(f"{error}; clips: {', '.join(batch.paths)}") from None
        self.step += 1
        return report

    def _passes(self, batch: Batch, images: Batch | None) -> Iterator[ForwardPass]:
        """Cut a step's clips, and its stills, into parts that go through the networks one at a time."""
        share = self.config.images.weight if self.config.images else 0.0
        size = self.config.micro_batch_size or self.config.batch_size
        yield from self._parts(batch, size, 1.0 - share, draw_masks)
        if images is not None and self.config.images is not None:
            size = self.config.images.micro_batch_size or self.config.images.batch_size
            yield from self._parts(images, size, share, draw_image_masks)

    def _parts(self, batch: Batch, size: int, share: float, draw: Callable[..., Masks]) -> Iterator[ForwardPass]:
        parts = torch.split(batch.clips, size)
        for number, clips in enumerate(parts):
            masks = draw(self.config, batch_size=len(clips), step=self.step, forward_pass=number)
            yield ForwardPass(self._normalized(clips), masks.to(self.device), share / len(parts))

    def _normalized(self, clips: Tensor) -> Tensor:
        return normalize(clips.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def _metrics(self, report: StepReport, batch: Batch) -> dict[str, float]:
        """Return one line of `metrics.jsonl`: losses, gradients, schedules and signs of collapse."""
        width = self.config.model.embed_dim
        size = self.config.micro_batch_size or self.config.batch_size
        collapse = spread(self.jepa.targets(self._normalized(batch.clips[:size]))[..., -width:])
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
            self.scaler.load_state_dict(checkpoint.state["scaler"])
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
                "scaler": self.scaler.state_dict(),
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
            card=training_card(
                config,
                provenance=provenance,
                preprocess=self.preprocess,
                metrics=read_metrics(self.out / "metrics.jsonl"),
            ),
        )


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
