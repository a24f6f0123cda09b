"""Pretrain a JEPA: the life of a run, and what happens at each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..config.documents import to_toml
from ..config.recipes import settings_of_run
from ..config.training import TrainConfig
from ..errors import CheckpointError, ConfigError, GuardError, VJEPAError
from ..models.jepa import JEPA
from ..runtime.devices import best_device
from ..runtime.files import write_text
from ..runtime.progress import ProgressBar, progress_bar
from ..runtime.signals import StopRequest, stop_on_signal
from .checkpoint import (
    Checkpoint,
    CheckpointSaver,
    module_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .data.batches import BadClips
from .data.loader import StepBatch, StepLoader
from .data.order import derive_seed
from .distributed import Group, join_group
from .export import export_model
from .guards import CollapseError, Guards, Spread, spread, write_nan_report
from .initialize import Origin, initialize
from .loggers import Loggers, MetricsLogger, check_loggers
from .metrics import MetricsLog, last_step
from .plan.memory import check_memory
from .plan.preflight import Forecast, preflight
from .resume import claimed, load_run
from .step import NonFiniteError, StepReport, make_optimizer, make_scaler, train_step

logger = logging.getLogger(__name__)

_WEIGHTS = 10


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


def pretrain(
    config: TrainConfig,
    *,
    resume: bool = False,
    log: Sequence[str | MetricsLogger] = (),
    show_progress_bar: bool | None = None,
) -> PretrainResult:
    """Pretrain a model on a directory or list of videos and export a model directory to `config.out/model`.

    SIGINT, SIGTERM or SIGUSR1 finishes the step, saves and returns with `finished=False`; call again with
    `resume=True`. A step whose loss or gradient is not finite changes nothing, and training goes on.

    Args:
        config: the run, complete; see `vjepa_sdk.train_config`.
        resume: go on from the newest checkpoint in `config.out`, bit for bit as if never stopped.
        log: where metrics go beside `metrics.jsonl`: `tensorboard`, which writes to `config.out/tensorboard`, or
            objects with `log(step, values)` and `close()`. Only the first process of several calls them; one that
            fails is left out with a warning.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: no clips or output given, `config.init_from` is not found or another kind of model, the run
            surely needs more memory than there is, or `log` names what there is not.
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
    check_loggers(log)
    if resume:
        settings_of_run(config.out)
    with join_group(best_device(config.device)) as group:
        return Trainer(config, group, log=log).run(resume=resume, show_progress_bar=show_progress_bar)


class Trainer:
    """One pretraining run in one directory, or one process's part in it.

    Processes that torchrun started do the same steps together; the first of them writes all files.
    """

    def __init__(self, config: TrainConfig, group: Group, *, log: Sequence[str | MetricsLogger] = ()) -> None:
        self.config, self.out, self.group, self.log_to = config, Path(config.out), group, log
        self.device = group.device or best_device(config.device)
        self.bad, self.guards = BadClips(), Guards()
        self.loader = StepLoader(config, group=group, device=self.device, bad=self.bad)
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
        # the first process's alone, while it trains
        self.log: MetricsLog | None = None
        self.loggers: Loggers | None = None
        self.step, self.saved_step = 0, -1
        self.decoded = self.bad.state()
        self.origin: Origin | None = None

    def run(self, *, resume: bool, show_progress_bar: bool | None) -> PretrainResult:
        """Train to the end or to a signal; see `pretrain`."""
        with ExitStack() as stack:
            if self.group.is_first:
                stack.enter_context(claimed(self.out, resume=resume))
            stop = stack.enter_context(stop_on_signal())
            show = show_progress_bar if self.group.is_first else False
            # the first process may set damaged checkpoints aside and fill caches
            with self.group.first_process_first():
                self.loader.open_caches(show_progress_bar=show)
                is_new = self._begin(resume)
            if self.group.is_first:
                self._open_files(stack)
            if is_new:
                # a disk that is too small is told now, not after hours
                self._save()
                self.saver.finish()
            bar = stack.enter_context(progress_bar("pretrain", total=self.config.steps, done=self.step, show=show))
            self._train(stop, bar)
            return self._end()

    def _begin(self, resume: bool) -> bool:
        """Take the first weights from a checkpoint or from `init_from`; return whether the run is new."""
        is_new = not (resume and self._restore())
        if self.group.is_first:
            self._look_ahead()
        if is_new and self.config.init_from is not None:
            self.origin = initialize(self.jepa, self.optimizer, self.config)
        return is_new

    def _look_ahead(self) -> None:
        """Refuse what cannot work before any time is spent on it."""
        if self.step < self.config.steps:
            paths = self.loader.paths
            preflight(
                self.config,
                self.memory,
                clips=paths["clips"],
                stills=paths.get("images", ()),
                device=self.device,
                steps_left=self.config.steps - self.step,
            )

    def _open_files(self, stack: ExitStack) -> None:
        write_text(self.out / "config.toml", to_toml(self.config))
        stack.enter_context(self.saver)
        path = self.out / "metrics.jsonl"
        # steps after the checkpoint are done again, to the bit, and were sent already
        self.loggers = stack.enter_context(Loggers(self.log_to, self.out, after=last_step(path)))
        self.log = stack.enter_context(MetricsLog(path, last_step=self.step))

    def _write(self, line: Mapping[str, Any]) -> None:
        """Log a line, in the first process."""
        if self.log is not None and self.loggers is not None:
            self.log.write(line)
            self.loggers.log(line)

    def _train(self, stop: StopRequest, bar: ProgressBar) -> None:
        """Do the steps that are left, until a signal comes to any of the processes."""
        forecast = Forecast()
        with self.loader.batches(first_step=self.step) as batches:
            while self.step < self.config.steps and not self.group.any(stop.is_requested):
                batch = self._next(batches, stop)
                if batch is None:
                    break
                self.decoded = batch.bad_clips
                bar.advance(self._advance(batch))
                if self.group.is_first:
                    forecast.step_done(self.config.steps - self.step)
                self.saver.check()
                if self.step % self.config.save_every == 0:
                    self._save()

    def _next(self, batches: Iterator[StepBatch], stop: StopRequest) -> StepBatch | None:
        """Take the next batch; None if a signal comes while it is decoded."""
        # several processes must agree when to stop, so they do so between steps only
        if self.group.world_size > 1:
            return next(batches)
        try:
            with stop.interrupting():
                batch = next(batches)
        except KeyboardInterrupt:
            if not stop.is_requested:
                raise
            return None
        # a decoder in this process may take the interruption for a bad clip, which was then replaced
        return None if stop.is_requested else batch

    def _advance(self, batch: StepBatch) -> str:
        """Do one step, log it, and return a note for the progress bar."""
        try:
            report = train_step(
                self.jepa,
                self.optimizer,
                self.loader.passes(batch, step=self.step),
                config=self.config,
                step=self.step,
                scaler=self.scaler,
                group=self.group,
            )
        except NonFiniteError as error:
            self._skip(error, batch)
            return "skipped"
        except torch.OutOfMemoryError as error:
            raise VJEPAError(
                f"step {self.step + 1}: {self.device.type} has too little memory ({error}); checkpoints are intact; "
                "resume with activation_checkpointing=true, or start again with a smaller micro_batch_size"
            ) from error
        self.step += 1
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            signs = self._signs_of_collapse(batch)
            self._report(report, signs)
            self._check_collapse(signs)
        return f"loss {report.loss:.4f}"

    def _skip(self, error: NonFiniteError, batch: StepBatch) -> None:
        """Leave out a step that would have damaged the weights; too many of them end the run."""
        self.step += 1
        skipped = self.guards.skipped
        skipped.add(self.step)
        clips = self.loader.describe(batch, error.forward_pass)
        paths = [clip["path"] for clip in clips]
        what = f"{error}; clips: {', '.join(paths)}"
        self._write({"step": self.step, "loss": None, "skipped": str(error), "clips": paths})
        if skipped.are_too_many:
            path = write_nan_report(self.out, error, step=self.step, clips=clips, skipped=skipped, jepa=self.jepa)
            raise GuardError(f"{what}; {len(skipped.recent)} of the last 1000 steps had to be skipped, see {path}")
        logger.warning("%s; the step is skipped, nothing was changed", what)

    def _signs_of_collapse(self, batch: StepBatch) -> Spread:
        """Measure the target features of a step's first clips, of the last layer alone."""
        signs = None
        if self.group.is_first:
            features = self.jepa.targets(self.loader.first_clips(batch))
            signs = asdict(spread(features[..., -self.config.model.embed_dim :]))
        return Spread(**self.group.gather(signs)[0])

    def _report(self, report: StepReport, signs: Spread) -> None:
        """Write a line of `metrics.jsonl`: losses, gradients, schedules and signs of collapse."""
        values, clips = asdict(report), self._all_bad_clips()
        self._write(
            {
                "step": self.step,
                **values.pop("hyperparameters"),
                **values,
                **{f"target_{name}": value for name, value in asdict(signs).items()},
                "clips_tried": clips["tried"],
                "clips_failed": clips["failed"],
                "skipped_steps": self.guards.skipped.count,
            }
        )

    def _check_collapse(self, signs: Spread) -> None:
        """Warn of a collapse, or stop at one and keep the collapsed state apart from those that can be resumed."""
        try:
            self.guards.collapse.check(self.step, signs)
        except CollapseError as error:
            snapshot, path = self._snapshot(self._all_bad_clips()), self.out / "collapsed"
            if self.group.is_first:
                path = save_checkpoint(path, snapshot, keep=1)
            raise GuardError(f"{error}; the state is kept in {path}, those before it in checkpoints") from None

    def _all_bad_clips(self) -> dict[str, Any]:
        """Return what became of the clips of all processes."""
        states = self.group.gather(self.decoded)
        reasons = {path: reason for state in states for path, reason in state["reasons"].items()}
        totals = {name: sum(state[name] for state in states) for name in ("tried", "failed")}
        return {**states[0], **totals, "reasons": reasons}

    def _save(self) -> None:
        """Begin to save; training goes on meanwhile."""
        self.saved_step, bad_clips = self.step, self._all_bad_clips()
        if self.log is not None:
            self.log.sync()
            self.saver.save(lambda: self._snapshot(bad_clips))

    def _snapshot(self, bad_clips: dict[str, Any]) -> Checkpoint:
        """Copy all that decides the rest of the run."""
        return Checkpoint(
            step=self.step,
            weights=module_tensors(self.jepa),
            optimizer=optimizer_tensors(self.optimizer),
            state={
                **self.loader.lists,
                "bad_clips": bad_clips,
                "scaler": self.scaler.state_dict(),
                "guards": self.guards.state(),
                "origin": asdict(self.origin) if self.origin is not None else None,
            },
        )

    def _restore(self) -> bool:
        """Go back to the newest checkpoint; False if the run was stopped before its first."""
        checkpoint = load_run(self.out, self.config, self.loader.lists)
        if checkpoint is None:
            return False
        state = checkpoint.state
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

    def _end(self) -> PretrainResult:
        """Save what no checkpoint has yet, wait for it, and export a finished model."""
        if self.saved_step != self.step:
            self._save()
        is_finished = self.step == self.config.steps
        try:
            self.saver.finish()
        except CheckpointError:
            # a disk without room for the training state may have some for the model
            if is_finished:
                self._export()
            raise
        model = self._export() if is_finished else None
        bad = self._all_bad_clips()["reasons"]
        return PretrainResult(self.step, is_finished, model, bad, self.guards.skipped.count)

    def _export(self) -> Path | None:
        """Write `model/`; None in all processes but the first."""
        if not self.group.is_first:
            return None
        num_videos = len(self.loader.paths["clips"])
        return export_model(self.jepa, self.config, step=self.step, num_videos=num_videos, origin=self.origin)
