"""Pretrain a JEPA: step, log, save, resume, export."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cards import read_metrics, training_card
from .checkpoint import (
    Checkpoint,
    CheckpointSaver,
    load_latest,
    module_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .config import PreprocessConfig, TrainConfig
from .data import BadClips, Batch, TrainingData, derive_seed
from .devices import best_device
from .distributed import Group, join_group
from .errors import CheckpointError, ConfigError, GuardError, OutputError, ResumeError, VJEPAError
from .guards import CollapseError, Guards, write_nan_report
from .hub import save_model_directory
from .initialize import Origin, initialize
from .jepa import JEPA, Spread, spread
from .masks import Masks
from .metrics import MetricsLog, last_step
from .preflight import check_memory, preflight
from .preprocess import normalize
from .progress import ProgressBar, progress_bar
from .recipes import settings_of_run
from .schema import differences, from_dict, read_toml, to_dict, to_toml
from .signals import StopRequest, stop_on_signal
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
    skipped_steps: int
    """Steps that changed nothing because their loss or gradient was not finite."""


def pretrain(config: TrainConfig, *, resume: bool = False, show_progress_bar: bool | None = None) -> PretrainResult:
    """Pretrain a model on a directory or list of videos and export a model directory to `config.out/model`.

    SIGINT, SIGTERM or SIGUSR1 finishes the step, saves and returns with `finished=False`; call again with
    `resume=True`. A step whose loss or gradient is not finite changes nothing, and training goes on.

    Args:
        config: the run, complete; see `vjepa_sdk.train_config`.
        resume: go on from the newest checkpoint in `config.out`, bit for bit as if never stopped.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: no clips or output given, `config.init_from` is not found or another kind of model, or the run
            surely needs more memory than there is.
        WeightsError: `config.init_from` cannot be read or does not fit.
        VideoDecodeError: none of a sample of the clips can be opened.
        WriteError: the disk has too little room for the checkpoints.
        OutputError: `config.out` holds a run and `resume` is False or the reverse, or another process uses it.
        ResumeError: `config` differs from the run's in something that matters.
        CheckpointError: three saves in a row failed, or the last one.
        GuardError: losses are not finite again and again, the features collapsed, or too many clips cannot be decoded.
    """
    if not config.out:
        raise ConfigError("out is empty; pass a directory for the run, for example runs/first")
    if resume:
        settings_of_run(config.out)
    with join_group(best_device(config.device)) as group:
        return Trainer(config, group).run(resume=resume, show_progress_bar=show_progress_bar)


class Trainer:
    """One pretraining run in one directory, or one process's part in it.

    Processes that torchrun started do the same steps together; the first of them writes all files.
    """

    def __init__(self, config: TrainConfig, group: Group) -> None:
        self.config, self.out, self.group = config, Path(config.out), group
        self.device = group.device or best_device(config.device)
        self.bad, self.guards = BadClips(), Guards()
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
            if not config.images.data.all_sources:
                raise ConfigError(
                    "images.data.path is empty; set it to a directory or list of stills, or images=none for clips alone"
                )
            self.images = TrainingData(
                config.images.data,
                num_frames=1,
                crop_size=config.images.img_size,
                batch_size=config.images.batch_size,
                seed=derive_seed(config.seed, _IMAGES),
                bad=self.bad,
            )
        self.preprocess = PreprocessConfig.for_crop(config.model.img_size)
        self.memory = check_memory(config, self.device, world_size=group.world_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, _WEIGHTS))
            self.jepa = JEPA(config.model, config.objective).to(self.device)
        self.jepa.set_activation_checkpointing(config.activation_checkpointing)
        self.optimizer = make_optimizer(self.jepa, config)
        self.scaler = make_scaler(config, self.device)
        self.saver = CheckpointSaver(
            self.out / "checkpoints", keep=config.keep_checkpoints, keep_every=config.keep_every
        )
        self.step, self.saved_step = 0, -1
        self.decoded = self.bad.state()
        self.origin: Origin | None = None

    def run(self, *, resume: bool, show_progress_bar: bool | None) -> PretrainResult:
        """Train to the end or to a signal; see `pretrain`."""
        with ExitStack() as stack:
            if self.group.is_first:
                stack.enter_context(self._claimed(resume))
                self._check_content(resume)
            stop = stack.enter_context(stop_on_signal())
            # the first process may set damaged checkpoints aside and fill caches; the others find it done
            is_new = self._begin(resume) if self.group.is_first else False
            self.group.wait()
            if not self.group.is_first:
                is_new = self._begin(resume)
            self.group.wait()
            log = self._open_files(stack) if self.group.is_first else None
            if is_new:
                # a disk that is too small is told now, not after hours
                self._save(log)
                self.saver.finish()
            show = show_progress_bar if self.group.is_first else False
            bar = stack.enter_context(progress_bar("pretrain", total=self.config.steps, done=self.step, show=show))
            self._train(stop, log, bar)
            return self._end(log)

    def _begin(self, resume: bool) -> bool:
        """Take the first weights from a checkpoint or from `init_from`; return whether the run is new."""
        is_new = not (resume and self._restore())
        if self.group.is_first:
            self._look_ahead()
        if is_new and self.config.init_from is not None:
            self.origin = initialize(self.jepa, self.optimizer, self.config)
        return is_new

    def _open_files(self, stack: ExitStack) -> MetricsLog:
        write_text(self.out / "config.toml", to_toml(self.config))
        stack.enter_context(self.saver)
        return stack.enter_context(MetricsLog(self.out / "metrics.jsonl", last_step=self.step))

    def _train(self, stop: StopRequest, log: MetricsLog | None, bar: ProgressBar) -> None:
        """Do the steps that are left, until a signal comes to any of the processes."""
        with self._batches(self.data, self._sizes[0]) as batches, self._batches(self.images, self._sizes[1]) as images:
            # several processes must agree when to stop, so they do so between steps only
            may_interrupt = self.group.world_size == 1
            while self.step < self.config.steps and not self.group.any(stop.is_requested):
                try:
                    with stop.interrupting() if may_interrupt else nullcontext():
                        batch, stills = next(batches), next(images, None)
                except KeyboardInterrupt:
                    if not stop.is_requested:
                        raise
                # a decoder in this process may take the interruption for a bad clip, which was then replaced
                if may_interrupt and stop.is_requested:
                    break
                # taken here, since clips count while they are decoded, also those of a batch that a signal cuts short
                self.decoded = self.bad.state()
                bar.advance(self._advance(batch, stills, log))
                self.saver.check()
                if self.step % self.config.save_every == 0:
                    self._save(log)

    def _end(self, log: MetricsLog | None) -> PretrainResult:
        """Save what no checkpoint has yet, wait for it, and export a finished model."""
        if self.saved_step != self.step:
            self._save(log)
        is_finished = self.step == self.config.steps
        try:
            self.saver.finish()
        except CheckpointError:
            # a disk without room for the training state may have some for the model
            if is_finished and self.group.is_first:
                self._export()
            raise
        model = self._export() if is_finished and self.group.is_first else None
        bad = self._all_bad_clips()["reasons"]
        return PretrainResult(self.step, is_finished, model, bad, self.guards.skipped.count)

    def _look_ahead(self) -> None:
        """Refuse what cannot work before any time is spent on it."""
        if self.step < self.config.steps:
            preflight(
                self.config,
                self.memory,
                clips=self.data.paths,
                stills=self.images.paths if self.images else (),
                device=self.device,
                steps_left=self.config.steps - self.step,
            )

    @contextmanager
    def _batches(self, data: TrainingData | None, size: int) -> Iterator[Iterator[Batch]]:
        """Lend this process's part of the batches of the steps that are left; none, if the run has no such data."""
        if data is None:
            yield iter(())
            return
        batches = data.batches(
            first_step=self.step,
            last_step=self.config.steps,
            rank=self.group.rank,
            world_size=self.group.world_size,
            micro_batch_size=size,
        )
        try:
            yield batches
        finally:
            batches.close()

    def _advance(self, batch: Batch, stills: Batch | None, log: MetricsLog | None) -> str:
        """Do one step, log it, and return a note for the progress bar."""
        passes = self._passes(batch, stills)
        try:
            report = train_step(
                self.jepa,
                self.optimizer,
                passes,
                config=self.config,
                step=self.step,
                scaler=self.scaler,
                group=self.group,
            )
        except NonFiniteError as error:
            self._skip(error, batch, stills, log)
            return "skipped"
        except torch.OutOfMemoryError as error:
            raise VJEPAError(
                f"step {self.step + 1}: {self.device.type} has too little memory ({error}); checkpoints are intact; "
                "resume with activation_checkpointing=true, or start again with a smaller micro_batch_size"
            ) from error
        self.step += 1
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            signs = self._signs_of_collapse(batch)
            line = self._metrics(report, signs)
            if log is not None:
                log.write(line)
            self._check_collapse(signs)
        return f"loss {report.loss:.4f}"

    def _skip(self, error: NonFiniteError, batch: Batch, stills: Batch | None, log: MetricsLog | None) -> None:
        """Leave out a step that would have damaged the weights; too many of them end the run."""
        self.step += 1
        skipped = self.guards.skipped
        skipped.add(self.step)
        clips = self._clips_of(error, batch, stills)
        paths = [clip["path"] for clip in clips]
        what = f"{error}; clips: {', '.join(paths)}"
        if log is not None:
            log.write({"step": self.step, "loss": None, "skipped": str(error), "clips": paths})
        if skipped.are_too_many:
            path = write_nan_report(self.out, error, step=self.step, clips=clips, skipped=skipped, jepa=self.jepa)
            raise GuardError(f"{what}; {len(skipped.recent)} of the last 1000 steps had to be skipped, see {path}")
        logger.warning("%s; the step is skipped, nothing was changed", what)

    def _clips_of(self, error: NonFiniteError, batch: Batch, stills: Batch | None) -> list[dict[str, Any]]:
        """Describe the clips of the forward passes that failed, one for each process, or all of the step's."""
        parts = []
        for given, size in zip((batch, stills), self._sizes, strict=True):
            if given is not None:
                facts = zip(given.paths, given.seeds, given.frames, strict=True)
                clips = [{"path": path, "seed": seed, "frames": frames} for path, seed, frames in facts]
                parts += [clips[first : first + size] for first in range(0, len(clips), size)]
        is_located = self.group.any(error.forward_pass is not None)
        mine = parts if not is_located else [] if error.forward_pass is None else [parts[error.forward_pass]]
        return [clip for clips in self.group.gather([clip for part in mine for clip in part]) for clip in clips]

    @property
    def _sizes(self) -> tuple[int, int]:
        """Return how many clips, and how many stills, go through the networks at a time."""
        images = self.config.images
        stills = (images.micro_batch_size or images.batch_size) if images is not None else 1
        return self.config.micro_batch_size or self.config.batch_size, stills

    def _passes(self, batch: Batch, stills: Batch | None) -> Iterator[ForwardPass]:
        """Cut a step's clips, and its stills, into parts that go through the networks one at a time."""
        share = self.config.images.weight if self.config.images else 0.0
        size, still_size = self._sizes
        yield from self._parts(batch, size, 1.0 - share, draw_masks)
        if stills is not None:
            yield from self._parts(stills, still_size, share, draw_image_masks)

    def _parts(self, batch: Batch, size: int, share: float, draw: Callable[..., Masks]) -> Iterator[ForwardPass]:
        parts, world_size = torch.split(batch.clips, size), self.group.world_size
        for number, clips in enumerate(parts):
            forward_pass = self.group.rank + number * world_size
            masks = draw(self.config, batch_size=len(clips), step=self.step, forward_pass=forward_pass)
            yield ForwardPass(self._normalized(clips), masks.to(self.device), share / (len(parts) * world_size))

    def _normalized(self, clips: Tensor) -> Tensor:
        return normalize(clips.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def _signs_of_collapse(self, batch: Batch) -> Spread:
        """Measure the target features of a step's first clips, of the last layer alone."""
        signs = None
        if self.group.is_first:
            clips = self._normalized(batch.clips[: self._sizes[0]])
            signs = asdict(spread(self.jepa.targets(clips)[..., -self.config.model.embed_dim :]))
        return Spread(**self.group.gather(signs)[0])

    def _metrics(self, report: StepReport, signs: Spread) -> dict[str, float]:
        """Return one line of `metrics.jsonl`: losses, gradients, schedules and signs of collapse."""
        line, decoded = asdict(report), self._all_bad_clips()
        return {
            "step": self.step,
            **line.pop("hyperparameters"),
            **line,
            **{f"target_{name}": value for name, value in asdict(signs).items()},
            "clips_tried": decoded["tried"],
            "clips_failed": decoded["failed"],
            "skipped_steps": self.guards.skipped.count,
        }

    def _check_collapse(self, signs: Spread) -> None:
        """Warn of a collapse, or stop at one and keep the collapsed state apart from those that can be resumed."""
        try:
            self.guards.collapse.check(self.step, signs)
        except CollapseError as error:
            snapshot, path = self._snapshot(self._all_bad_clips()), self.out / "collapsed"
            if self.group.is_first:
                path = save_checkpoint(path, snapshot, keep=1)
            raise GuardError(f"{error}; the state is kept in {path}, those before it in checkpoints") from None

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
        """Refuse a directory that holds something, if it is not a run to go on with."""
        content = [path for path in self.out.iterdir() if path.name != "lock" and not path.name.endswith(".tmp")]
        if not resume and content:
            raise OutputError(f"{self.out}: is not empty; pass --resume to continue it, or choose another --out")

    def _restore(self) -> bool:
        """Go back to the newest checkpoint; False if the run was stopped before its first."""
        if changes := _changes(from_dict(TrainConfig, read_toml(settings_of_run(self.out))), self.config):
            raise ResumeError(
                f"{self.out}: cannot resume, the configuration changed: {'; '.join(changes)}; restore it, as --resume "
                "--out alone does, or start a new run in another --out"
            )
        checkpoint = load_latest(self.out / "checkpoints")
        if checkpoint is None:
            # the first step comes after the first checkpoint
            if step := last_step(self.out / "metrics.jsonl"):
                raise CheckpointError(
                    f"{self.out}: did {step} steps or more, but its checkpoints are gone; restore one "
                    "from a copy or start a new run in another --out"
                )
            return False
        state = checkpoint.state
        for kind, data in self._lists().items():
            saved = state[kind]
            if saved["digest"] != data.digest:
                raise ResumeError(
                    f"{self.out}: cannot resume, the list of {kind} changed from {saved['count']} to "
                    f"{len(data.paths)} {kind} or in order; restore it or start a new run in another --out"
                )
        self.jepa.load_state_dict(checkpoint.weights)
        restore_optimizer(self.optimizer, checkpoint.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.saved_step = checkpoint.step
        if self.group.is_first:  # clips count once, whatever the number of processes
            self.bad.restore(state["bad_clips"])
        self.decoded = self.bad.state()
        self.guards.restore(state["guards"])
        self.origin = Origin(**state["origin"]) if state["origin"] is not None else None
        return True

    def _lists(self) -> dict[str, TrainingData]:
        return {"clips": self.data} if self.images is None else {"clips": self.data, "images": self.images}

    def _save(self, log: MetricsLog | None) -> None:
        """Begin to save; training goes on meanwhile."""
        self.saved_step, bad_clips = self.step, self._all_bad_clips()
        if log is not None:
            log.sync()
            self.saver.save(lambda: self._snapshot(bad_clips))

    def _all_bad_clips(self) -> dict[str, Any]:
        """Return what became of the clips of all processes."""
        states = self.group.gather(self.decoded)
        reasons = {path: reason for state in states for path, reason in state["reasons"].items()}
        totals = {name: sum(state[name] for state in states) for name in ("tried", "failed")}
        return {**states[0], **totals, "reasons": reasons}

    def _snapshot(self, bad_clips: dict[str, Any]) -> Checkpoint:
        """Copy all that decides the rest of the run."""
        return Checkpoint(
            step=self.step,
            weights=module_tensors(self.jepa),
            optimizer=optimizer_tensors(self.optimizer),
            state={
                **{kind: {"digest": data.digest, "count": len(data.paths)} for kind, data in self._lists().items()},
                "bad_clips": bad_clips,
                "scaler": self.scaler.state_dict(),
                "guards": self.guards.state(),
                "origin": asdict(self.origin) if self.origin is not None else None,
            },
        )

    def _export(self) -> Path:
        """Write `model/`: target encoder, context encoder and predictor."""
        config = self.config
        provenance: dict[str, Any] = {
            "made_by": "vjepa pretrain",
            "preset": config.preset or "none",
            "steps": self.step,
            "clips_seen": self.step * config.batch_size,
            "videos": len(self.data.paths),
            "seed": config.seed,
        }
        if self.origin is not None:
            provenance["initialized_from"] = str(self.origin)
            if self.origin.licence is not None:
                provenance["licence"] = self.origin.licence
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


# what a continued run may change: where things are, how fast they come, and what is kept
_MAY_CHANGE = {
    "out", "preset", "device", "log_every", "save_every", "keep_checkpoints", "keep_every", "activation_checkpointing",
    "data.path", "data.sources.path", "data.num_workers", "data.prefetch", "data.deadline_seconds",
    "data.max_bad_fraction",
}  # fmt: skip


def _changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Name the settings that decide the result and differ, as `key: old -> new`."""
    return [
        f"{key}: {change}"
        for key, change in differences(to_dict(old), to_dict(new)).items()
        if re.sub(r"^images\.(?=data\.)|\[\d+\]", "", key) not in _MAY_CHANGE
    ]
