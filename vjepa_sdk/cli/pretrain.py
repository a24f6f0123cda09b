"""`vjepa pretrain`: train a model, or say what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..config.recipes import RECIPES, settings_of_run, train_config
from ..config.schema import find_key
from ..config.training import TrainConfig
from ..errors import ConfigError
from .early import check_exists
from .exit_codes import COMPLETE, SOME_SKIPPED, STOPPED
from .options import Json, Quiet, Verbose, print_result, set_up_logging


class PretrainCommand(TyperCommand):
    """Says of `--steps 4` that it is `--set steps=4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line.

        Raises:
            ConfigError: a key of the configuration is given as an option.
        """
        options = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word, after in zip(args, [*args[1:], "..."], strict=True):
            name, _, value = word.partition("=")
            if name.startswith("--") and name not in {*options, "--help"}:
                key = find_key(TrainConfig, name.removeprefix("--").replace("-", "_"))
                if key is not None:
                    raise ConfigError(f"{name} is a key of the configuration: pass --set {key}={value or after}")
        return super().parse_args(ctx, args)


def pretrain(
    clips: Annotated[str | None, typer.Argument(help="Directory of videos, or a CSV with a column `path`.")] = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory of the run.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"Recipe: {', '.join(RECIPES)}.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings over the recipe.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, for example optim.lr=3e-4; may be repeated.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only rows of the CSV with this value in the column `split`.")
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Weights to start from: a run, a model directory, hub id or official file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on in --out, with the run's own settings if neither recipe nor file is named."
        ),
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Where metrics go beside metrics.jsonl: tensorboard, to OUT/tensorboard; may be repeated."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run will cost, and stop.")] = False,
    world_size: Annotated[int, typer.Option(help="With --plan: devices that share each step.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Pretrain a model on videos, without labels. Exports a model directory to OUT/model."""
    set_up_logging(quiet, verbose)
    if world_size != 1 and not plan:
        raise ConfigError(
            f"--world-size {world_size} belongs to --plan; to train on several devices start with torchrun"
        )
    data = {key: value for key, value in (("path", clips), ("split", split)) if value is not None}
    given = {"out": out and str(out), "device": device, "init_from": init_from}
    run = {key: value for key, value in given.items() if value is not None}
    if resume and out is not None and preset is None and config is None:
        config = settings_of_run(out)
    resolved = train_config(preset=preset, path=config, settings={**run, "data": data}, overrides=set_ or ())
    # imported only now: a mistake in the settings is told before torch takes its seconds
    if plan:
        _print_plan(resolved, world_size, as_json)
        return
    if not resolved.out:
        raise ConfigError("out is empty; pass a directory for the run, for example --out runs/first")
    for source in resolved.data.all_sources:
        check_exists(source.path)
    from ..training.loggers import check_loggers

    check_loggers(log or ())
    from ..training.distributed import is_first_process
    from ..training.trainer import pretrain as run_pretraining

    result = run_pretraining(resolved, resume=resume, log=log or (), show_progress_bar=False if quiet else None)
    if not is_first_process():
        raise typer.Exit(COMPLETE if result.finished else STOPPED)
    if not result.finished:
        print_result(result, as_json, f"{out}: stopped after step {result.step}; add --resume to go on")
        raise typer.Exit(STOPPED)
    bad = f"; {len(result.bad_clips)} clips could not be decoded" if result.bad_clips else ""
    skipped = f"; {result.skipped_steps} steps were skipped, see metrics.jsonl" if result.skipped_steps else ""
    print_result(result, as_json, f"{result.model_directory}: trained {result.step} steps{bad}{skipped}")
    raise typer.Exit(SOME_SKIPPED if result.bad_clips else COMPLETE)


def _print_plan(config: TrainConfig, world_size: int, as_json: bool) -> None:
    from ..training.plan.estimate import plan
    from ..training.plan.report import plan_lines

    planned = plan(config, world_size=world_size)
    print_result(planned, as_json, "\n".join(plan_lines(planned)))
