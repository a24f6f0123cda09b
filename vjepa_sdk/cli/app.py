"""The `vjepa` command: parse, call one library function, print one line per result."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._version import __version__
from ..config.choices import Decoder, Dtype, EncoderWeights, Layout, OnError, Pooling, Tail
from ..config.documents import read_json, read_toml
from ..config.model import ModelConfig
from ..config.recipes import RECIPES, settings_of_run, train_config
from ..config.registry import DEFAULT_MODEL, list_models
from ..config.schema import from_dict
from ..config.training import TrainConfig
from ..errors import (
    ConfigError,
    GuardError,
    InputError,
    InUseError,
    OutputError,
    ResumeError,
    VJEPAError,
    WriteError,
    one_line,
    printable,
)

if TYPE_CHECKING:
    from ..corpus.check import CheckedFile

app = typer.Typer(
    rich_markup_mode=None,  # its table cuts off the names of options
    epilog="Exit codes: 0 complete; 1 failed; 2 wrong option or input; 3 complete, some clips skipped; "
    "4 output in use; 5 resume refused; 6 training stopped by a guard; 75 stopped by a signal, run again to go on.",
    help="Turn video into features with joint-embedding predictive models, and train such models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMPLETE, FAILED, USAGE, SOME_SKIPPED, IN_USE, RESUME_REFUSED, GUARDED, STOPPED = 0, 1, 2, 3, 4, 5, 6, 75

# the first class that fits decides
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InUseError, IN_USE),
    (WriteError, FAILED),
    (ResumeError, RESUME_REFUSED),
    (GuardError, GUARDED),
    (ConfigError, USAGE),
    (InputError, USAGE),
    (OutputError, USAGE),
    (VJEPAError, FAILED),
)

_INPUTS_HELP = "Files, directories (searched recursively), patterns, and lists of clips: .txt, .csv or .jsonl."

FollowSymlinks = Annotated[bool, typer.Option("--follow-symlinks", help="Read what symbolic links point to.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, warnings only for failures.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and an exit code."""
    try:
        app()
    except VJEPAError as error:
        code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
        print(f"vjepa: {one_line(str(error))}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        print("vjepa: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # a disk that fills up, a closed stdout: nothing that a traceback would explain better
        print(f"vjepa: {one_line(str(error))}", file=sys.stderr)
        sys.exit(FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vjepa-sdk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def embed(
    inputs: Annotated[list[str], typer.Argument(help=_INPUTS_HELP)],
    *,
    out: Annotated[
        Path, typer.Option(help="Output; the suffix decides the format: .npy, .npz, .safetensors or .parquet.")
    ],
    model: Annotated[str, typer.Option(help="Name from `vjepa models`, model directory or hub id.")] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    weights: Annotated[EncoderWeights | None, typer.Option(help="Which encoder, where both exist.")] = None,
    pooling: Annotated[Pooling, typer.Option(help="One vector a row, one a tubelet, or one a token.")] = "mean",
    layers: Annotated[
        str | None, typer.Option(help="Blocks to take features of: their numbers, as 5,11, or 4 for the last four.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of a clip or window; the model's own if left out.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Sample at this rate instead of evenly over the video.")] = None,
    window_seconds: Annotated[
        float | None, typer.Option(help="Cut videos into windows of this length, a row for each.")
    ] = None,
    stride_seconds: Annotated[
        float | None, typer.Option(help="From window to window; their length if left out.")
    ] = None,
    tail: Annotated[Tail, typer.Option(help="What becomes of an end that does not fill a window.")] = "pad",
    source_fps: Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips encoded together.")] = 8,
    normalize_embeddings: Annotated[
        bool, typer.Option("--normalize-embeddings", help="Scale every vector to length 1.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of the features on disk.")] = "float32",
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    deadline_seconds: Annotated[
        float, typer.Option(help="Give up on a clip that decodes longer than this, twice.")
    ] = 60.0,
    max_failures: Annotated[
        str | None, typer.Option(help="Stop when more than this share of the clips fails: 0.05 or 5%.")
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="List a clip that fails and go on, or stop at it.")] = "skip",
    follow_symlinks: FollowSymlinks = False,
    extend: Annotated[bool, typer.Option("--extend", help="Add clips that the output does not have yet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export features of videos. One row for each clip or window, in the order of the sorted paths."""
    from ..inference.embed.job import embed_files

    _set_up_logging(quiet, verbose)
    result = embed_files(
        inputs,
        out,
        model=model,
        revision=revision,
        weights=weights,
        pooling=pooling,
        layers=None if layers is None else _layers(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        tail=tail,
        source_fps=source_fps,
        batch_size=batch_size,
        normalize_embeddings=normalize_embeddings,
        dtype=dtype,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        on_error=on_error,
        follow_symlinks=follow_symlinks,
        extend=extend,
        overwrite=overwrite,
        show_progress_bar=False if quiet else None,
    )
    if result.clips and not quiet:
        number, unit = (result.windows, "windows") if result.windows else (result.clips, "clips")
        rate = f"{number} {unit} in {result.clips_seconds:.1f} s, {number / result.clips_seconds:.3g} {unit}/s"
        print(f"vjepa: {rate}; the encoder waited {result.decode_wait_seconds:.1f} s for decoding", file=sys.stderr)
    if result.interrupted:
        _print(result, as_json, f"{out}: stopped; run the same command again to go on")
        raise typer.Exit(STOPPED)
    state = "already complete, " if result.already_complete else ""
    skipped = f", {result.failed} skipped (see {result.errors_path})" if result.failed else ""
    _print(result, as_json, f"{out}: {state}{result.rows} rows{skipped}")
    raise typer.Exit(SOME_SKIPPED if result.failed else COMPLETE)


@app.command()
def check(
    inputs: Annotated[list[str], typer.Argument(help=_INPUTS_HELP)],
    *,
    full: Annotated[bool, typer.Option("--full", help="Decode every frame, not three.")] = False,
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    deadline_seconds: Annotated[
        float, typer.Option(help="Give up on a file that decodes longer than this, twice.")
    ] = 60.0,
    follow_symlinks: FollowSymlinks = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, and list bad files only.")] = False,
    verbose: Verbose = False,
) -> None:
    """Find out which videos and images can be decoded. Says why the others cannot."""
    from ..corpus.check import check_files

    _set_up_logging(quiet, verbose)
    files = check_files(
        inputs,
        full=full,
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        follow_symlinks=follow_symlinks,
        show_progress_bar=False if quiet else None,
    )
    num_bad = sum(not file.is_good for file in files)
    if as_json:
        listed = [dataclasses.asdict(file) for file in files if not (quiet and file.is_good)]
        print(json.dumps({"checked": len(files), "bad": num_bad, "files": listed}, indent=2))
    else:
        for file in files:
            if not (quiet and file.is_good):
                print(_describe(file))
        print(f"{len(files) - num_bad} of {len(files)} can be decoded")
    raise typer.Exit(FAILED if num_bad == len(files) else SOME_SKIPPED if num_bad else COMPLETE)


def _describe(file: CheckedFile) -> str:
    """Return a line of the table: verdict, codec, size, rate, frames, duration, path, and the reason if it is bad."""
    cells = (
        (file.codec or file.kind, 8),
        (f"{file.width}x{file.height}" if file.width else "-", 11),
        (f"{file.fps:.5g} fps" if file.fps else "-", 10),
        (f"{file.num_frames} frames" if file.num_frames else "-", 12),
        (f"{file.duration_seconds:.2f} s" if file.duration_seconds is not None else "-", 10),
    )
    facts = " ".join(f"{text:<{width}}" for text, width in cells)
    reason = "" if file.is_good else f": {file.reason}"
    return f"{'ok ' if file.is_good else 'BAD'} {facts} {printable(file.path)}{reason}"


@app.command()
def pretrain(
    clips: Annotated[str | None, typer.Argument(help="Directory of videos, or a CSV with a column `path`.")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Directory of the run.")] = None,
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
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run will cost, and stop.")] = False,
    world_size: Annotated[int, typer.Option(help="With --plan: devices that share each step.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Pretrain a model on videos, without labels. Exports a model directory to OUT/model."""
    _set_up_logging(quiet, verbose)
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
    from ..training.distributed import is_first_process
    from ..training.trainer import pretrain as run_pretraining

    result = run_pretraining(resolved, resume=resume, show_progress_bar=False if quiet else None)
    if not is_first_process():
        raise typer.Exit(COMPLETE if result.finished else STOPPED)
    if not result.finished:
        _print(result, as_json, f"{out}: stopped after step {result.step}; add --resume to go on")
        raise typer.Exit(STOPPED)
    bad = f"; {len(result.bad_clips)} clips could not be decoded" if result.bad_clips else ""
    skipped = f"; {result.skipped_steps} steps were skipped, see metrics.jsonl" if result.skipped_steps else ""
    _print(result, as_json, f"{result.model_directory}: trained {result.step} steps{bad}{skipped}")
    raise typer.Exit(SOME_SKIPPED if result.bad_clips else COMPLETE)


def _print_plan(config: TrainConfig, world_size: int, as_json: bool) -> None:
    from ..training.plan.estimate import plan
    from ..training.plan.report import plan_lines

    planned = plan(config, world_size=world_size)
    _print(planned, as_json, "\n".join(plan_lines(planned)))


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Official checkpoint or probe file, or model directory.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not hold anything.")],
    *,
    arch: Annotated[
        str | None, typer.Option(help="Published model or probe the file is, where the file cannot tell.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML or JSON file with the model's shape, instead of --arch.")
    ] = None,
    layout: Annotated[Layout, typer.Option(help="Write our layout, or transformers' for V-JEPA 2.")] = "vjepa",
    weights: Annotated[
        EncoderWeights | None, typer.Option(help="Encoder to write in transformers' layout, which holds one.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Convert official checkpoints and transformers directories. Says what became of every tensor."""
    _set_up_logging(False, verbose)
    if arch is not None and config is not None:
        raise ConfigError(f"--arch {arch} and --config {config} exclude each other; pass one")
    shape = (
        from_dict(ModelConfig, read_json(config) if config.suffix == ".json" else read_toml(config)) if config else arch
    )
    from ..weights.convert import convert as run_conversion

    report = run_conversion(source, out, arch=shape, layout=layout, weights=weights)
    reasons = Counter(report.dropped.values())
    dropped = "".join(f"\n  dropped {count}: {reason}" for reason, count in sorted(reasons.items()))
    _print(report, as_json, f"{out}: {report.kind} {report.architecture}, {len(report.mapped)} tensors{dropped}")


@app.command()
def push(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Model or probe directory, or features.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Hub id, owner/name; made if it is not there.")],
    *,
    branch: Annotated[str | None, typer.Option(help="Branch to push to, made if it is not there; or main.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the commit as a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files, but send nothing.")] = False,
    new_card: Annotated[bool, typer.Option("--new-card", help="Write the model's README.md anew first.")] = False,
    keep_card: Annotated[bool, typer.Option("--keep-card", help="Leave the card that the hub has as it is.")] = False,
    commit_message: Annotated[str | None, typer.Option(help="First line of the commit's message.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Publish a model, a probe or features on the hub. Log in first: `hf auth login`, or set HF_TOKEN."""
    _set_up_logging(quiet, verbose)
    from ..hub.publish import push as run_push

    report = run_push(
        path,
        repository,
        branch=branch,
        private=private,
        create_pr=create_pr,
        dry_run=dry_run,
        new_card=new_card,
        keep_card=keep_card,
        commit_message=commit_message,
    )
    lines = [f"{name}  {size:,} bytes" for name, size in report.files.items()]
    lines += [f"{name}  deleted on the hub, replaced by these" for name in report.deleted]
    lines += [f"{name}  left out: {reason}" for name, reason in report.left_out.items()]
    state = (
        "would be pushed" if report.dry_run else f"pushed, {report.url}" if report.changed else "unchanged, no commit"
    )
    _print(report, as_json, "\n".join([*map(printable, lines), f"{repository}: {state}"]))


@app.command()
def models(as_json: Json = False) -> None:
    """List the models known by name."""
    known = list_models()
    if as_json:
        print(json.dumps([dataclasses.asdict(model) for model in known], indent=2))
        return
    for model in known:
        print(
            f"{model.name:<27} {model.family:<9} {model.parameters / 1e6:>7.1f} M  {model.num_frames} x "
            f"{model.resolution} px  {model.licence:<12} {model.source}"
        )


@app.command()
def doctor(as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what works on this machine. Versions, devices, decoders, the hub, its cache; exit code 1 if one fails."""
    _set_up_logging(False, verbose)
    from .diagnosis import examine

    report = examine()
    hub, cache = report.hub, report.cache
    tables = {
        "versions": report.versions,
        "devices": report.devices,
        **{f"decoder {name}": states for name, states in report.decoders.items()},
        "hub": {hub.endpoint: hub.state, "token": "yes" if hub.has_token else "no"},
        "cache": {
            cache.directory: f"{cache.bytes / 1e9:.1f} GB in {cache.repositories} repositories, "
            f"{cache.free_bytes / 1e9:.1f} GB free"
        },
        "sandbox": {layer: "yes" if is_active else "no" for layer, is_active in report.sandbox.items()},
        "problems": {problem: "" for problem in report.problems} or {"none": ""},
    }
    lines = [f"platform  {report.platform}"]
    for title, table in tables.items():
        width = max(map(len, table))
        lines += [title, *(f"  {key:<{width}}  {value}".rstrip() for key, value in table.items())]
    _print(report, as_json, "\n".join(map(printable, lines)))
    raise typer.Exit(FAILED if report.problems else COMPLETE)


def _layers(text: str) -> int | list[int]:
    """Read `4` as the last four blocks and `5,11`, or `5,` for a single one, as their numbers."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise ConfigError(f"layers={text} must be numbers of blocks such as 5,11, or 4 for the last four")
    return numbers if "," in text else numbers[0]


def _print(result: Any, as_json: bool, text: str) -> None:
    print(json.dumps(dataclasses.asdict(result), default=os.fspath, indent=2) if as_json else text)


def _set_up_logging(quiet: bool, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="vjepa: %(message)s")
    logging.getLogger("vjepa_sdk").setLevel(level)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    # what a long run is told before it starts is for everyone
    logging.getLogger("vjepa_sdk.training.plan.preflight").setLevel(logging.ERROR if quiet else logging.INFO)
