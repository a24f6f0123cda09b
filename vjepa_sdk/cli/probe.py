"""`vjepa probe`: fit small models to labelled videos, score them, and let them name videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config.choices import Decoder, EncoderWeights, Pooling, ProbeKind
from ..config.protocols import SIMPLE
from ..config.registry import DEFAULT_MODEL
from ..errors import ConfigError, printable
from .early import existing_labels
from .exit_codes import COMPLETE, SOME_SKIPPED
from .options import FollowSymlinks, Inputs, Json, Model, ProbedModel, Quiet, Verbose, command_line, set_up_logging
from .protocols import OfficialSampling, ProtocolOption

if TYPE_CHECKING:
    from ..downstream.probe_report import ProbeReport

_MAX_WARNINGS = 20

probe = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Fit small models to labelled videos, and use them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

LabelsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="LABELS", help="List with columns path and label, or a directory of classes.", callback=existing_labels
    ),
]
LabelColumn = Annotated[str, typer.Option(help="Column of the labels.")]
SplitColumn = Annotated[str, typer.Option(help="Column with train, val or test; drawn by group if it is not there.")]
GroupColumn = Annotated[str, typer.Option(help="Clips of one group stay together; those of one file if not there.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")]
NumWorkers = Annotated[int, typer.Option(help="Decoding processes.")]
DeadlineSeconds = Annotated[float, typer.Option(help="Give up on a clip that decodes longer than this, twice.")]
MaxFailures = Annotated[str | None, typer.Option(help="Stop when more than this share of the clips fails: 5%.")]
Bootstrap = Annotated[int, typer.Option(help="Samples of the groups for 95 % intervals.")]
Seed = Annotated[int, typer.Option(help="Of splits, folds and samples.")]
ProbeArgument = Annotated[str, typer.Argument(metavar="PROBE", help="Probe directory or hub id.")]
Html = Annotated[Path | None, typer.Option(help="Write the table as a page too, with classes and confusions.")]


@probe.command()
def train(
    labels: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LABELS]",
            help="List with columns path and label, or a directory of classes; those in --features if left out.",
            callback=existing_labels,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the probe.")],
    model: Model = DEFAULT_MODEL,
    features: Annotated[
        Path | None, typer.Option(help="Features that `vjepa embed` wrote, instead of encoding the videos.")
    ] = None,
    protocol: ProtocolOption = SIMPLE,
    test_labels: Annotated[
        Path | None, typer.Option(help="The test, where it is a list or directory of its own; LABELS is to learn from.")
    ] = None,
    cache: Annotated[
        Literal["tokens", "none"],
        typer.Option(help="Of a protocol: tokens on disk; none: decode, augment and encode anew in every epoch."),
    ] = "tokens",
    augmented_passes: Annotated[
        int, typer.Option(help="How often training videos are cut at random for the cache.")
    ] = 4,
    official_sampling: OfficialSampling = False,
    kind: Annotated[
        ProbeKind | None, typer.Option(help="What is fitted: linear if left out, attentive with a protocol.")
    ] = None,
    pooling: Annotated[
        Pooling | None, typer.Option(help="Of the features: mean if left out, tokens for attentive probes.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks: their numbers, as 5,11, or 4 for the last four.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a clip or window; the model's own.")] = None,
    fps: Annotated[float | None, typer.Option(help="Sample at this rate instead of evenly over the video.")] = None,
    window_seconds: Annotated[float | None, typer.Option(help="Cut videos into windows of this length.")] = None,
    stride_seconds: Annotated[float | None, typer.Option(help="From window to window.")] = None,
    source_fps: Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")] = None,
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    weights: Annotated[EncoderWeights | None, typer.Option(help="Which encoder, where both exist.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    group_column: GroupColumn = "group",
    test_share: Annotated[float, typer.Option(help="Of the groups, where splits are drawn.")] = 0.2,
    folds: Annotated[int | None, typer.Option(help="Test every video once, in so many folds.")] = None,
    select: Annotated[
        Literal["val", "test"], typer.Option(help="What hyper-parameters are chosen on; test: as official evaluations.")
    ] = "val",
    allow_group_overlap: Annotated[
        bool, typer.Option("--allow-group-overlap", help="Take splits that tear groups apart.")
    ] = False,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Do not compare with random weights and raw pixels.")
    ] = False,
    random_inits: Annotated[int, typer.Option(help="How many times random weights are drawn.")] = 3,
    c: Annotated[float | None, typer.Option("--C", help="Of linear probes; chosen if left out.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Neighbours of knn.")] = 20,
    class_weight: Annotated[
        Literal["balanced"] | None, typer.Option(help="balanced: rare classes weigh as much as frequent ones.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Blocks of attentive probes: the protocol's, else 1; V-JEPA 2 has 4.")
    ] = None,
    self_attention: Annotated[
        Literal["before", "after"] | None,
        typer.Option(help="The pooling, in deeper ones: V-JEPA 2 before, V-JEPA 1 after."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of attentive probes: the protocol's, else 20.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of attentive probes: the protocol's, else 64.")] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(help="Of attentive probes, all pairs are tried: the protocol's, else 1e-4,3e-4,1e-3,3e-3,5e-3."),
    ] = None,
    weight_decays: Annotated[
        str | None,
        typer.Option(help="Of attentive probes, all pairs are tried: the protocol's, else 0.01,0.1,0.4,0.8."),
    ] = None,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    device: Device = None,
    num_workers: NumWorkers = 2,
    deadline_seconds: DeadlineSeconds = 60.0,
    max_failures: MaxFailures = None,
    follow_symlinks: FollowSymlinks = False,
    keep_cache: Annotated[bool, typer.Option("--keep-cache", help="Leave the features in OUT.cache.")] = False,
    html: Html = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a probe and a page that are there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit a probe to labelled videos, and test it on others beside random weights and raw pixels."""
    set_up_logging(quiet, verbose)
    from ..downstream.probe_training import train_probe
    from .embed import read_layers

    _check_page(html, overwrite)
    report = train_probe(
        labels,
        out=out,
        model=model,
        features=features,
        protocol=protocol,
        test_labels=test_labels,
        cache=cache,
        augmented_passes=augmented_passes,
        official_sampling=official_sampling,
        kind=kind,
        pooling=pooling,
        layers=None if layers is None else read_layers(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        source_fps=source_fps,
        decoder=decoder,
        weights=weights,
        revision=revision,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        test_share=test_share,
        folds=folds,
        select=select,
        allow_group_overlap=allow_group_overlap,
        baseline=not no_baseline,
        random_inits=random_inits,
        C=c,
        k=k,
        class_weight=class_weight,
        depth=depth,
        self_attention=self_attention,
        epochs=epochs,
        batch_size=batch_size,
        learning_rates=_numbers("learning_rates", learning_rates),
        weight_decays=_numbers("weight_decays", weight_decays),
        bootstrap=bootstrap,
        seed=seed,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        follow_symlinks=follow_symlinks,
        keep_cache=keep_cache,
        overwrite=overwrite,
        show_progress_bar=False if quiet else None,
    )
    _write_page(out, html, overwrite, quiet)
    _print_report(report, as_json)


@probe.command("eval")
def evaluate(
    directory: ProbeArgument,
    labels: LabelsArgument,
    *,
    model: ProbedModel = None,
    features: Annotated[
        Path | None, typer.Option(help="Features that `vjepa embed` wrote, instead of encoding the videos.")
    ] = None,
    protocol: ProtocolOption = SIMPLE,
    official_sampling: OfficialSampling = False,
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="Score the clips of this split only.")
    ] = None,
    unknown: Annotated[
        Literal["error", "wrong"], typer.Option(help="Labels that the probe does not know: an error, or wrong.")
    ] = "error",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    group_column: GroupColumn = "group",
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    device: Device = None,
    num_workers: NumWorkers = 2,
    deadline_seconds: DeadlineSeconds = 60.0,
    max_failures: MaxFailures = None,
    follow_symlinks: FollowSymlinks = False,
    html: Html = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score a probe on labelled videos."""
    set_up_logging(quiet, verbose)
    from ..downstream.probe_use import evaluate_probe

    _check_page(html, overwrite)
    report = evaluate_probe(
        directory,
        labels,
        model=model,
        features=features,
        protocol=protocol,
        official_sampling=official_sampling,
        split=split,
        unknown=unknown,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        bootstrap=bootstrap,
        seed=seed,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        follow_symlinks=follow_symlinks,
        show_progress_bar=False if quiet else None,
    )
    _write_page(report, html, overwrite, quiet)
    _print_report(report, as_json)


@probe.command()
def predict(
    directory: ProbeArgument,
    inputs: Inputs,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write them to a .csv or .jsonl too.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Labels of each video.")] = 5,
    min_probability: Annotated[float, typer.Option(help="Say ? where the first label is less probable.")] = 0.0,
    window_seconds: Annotated[float | None, typer.Option(help="Name windows of this length too.")] = None,
    stride_seconds: Annotated[float | None, typer.Option(help="From window to window.")] = None,
    model: ProbedModel = None,
    decoder: Annotated[Decoder | None, typer.Option(help="As the probe was fitted, if left out.")] = None,
    device: Device = None,
    num_workers: NumWorkers = 2,
    deadline_seconds: DeadlineSeconds = 60.0,
    max_failures: MaxFailures = None,
    follow_symlinks: FollowSymlinks = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Name what videos show. One line a video: path, label, probability, and the next labels."""
    set_up_logging(quiet, verbose)
    from ..downstream.probe_use import predict_files
    from .probe_lines import check_predictions, lines_of, write_predictions

    check_predictions(out, overwrite=overwrite)
    if not 0 <= min_probability <= 1:
        raise ConfigError(f"min_probability={min_probability:g} must be from 0 to 1")
    report = predict_files(
        directory,
        inputs,
        model=model,
        top_k=top_k,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        follow_symlinks=follow_symlinks,
        show_progress_bar=False if quiet else None,
    )
    if out is not None:
        write_predictions(out, report.predictions, min_probability=min_probability)
    if as_json:
        print(
            json.dumps({"predictions": [vars(each) for each in report.predictions], "failed": report.failed}, indent=2)
        )
    else:
        print("\n".join(lines_of(report.predictions, min_probability=min_probability)))
    _warn_of(report.failed)
    raise typer.Exit(SOME_SKIPPED if report.failed else COMPLETE)


def _check_page(html: Path | None, overwrite: bool) -> None:
    """Refuse a page that cannot be written before anything is encoded."""
    if html is not None:
        from ..viz.probe_page import check_probe_page

        check_probe_page(html, overwrite=overwrite)


def _write_page(found: Path | ProbeReport, html: Path | None, overwrite: bool, quiet: bool) -> None:
    if html is not None:
        from ..viz.probe_page import draw_probe

        draw_probe(found, html, overwrite=overwrite, command=command_line(), show_progress_bar=False if quiet else None)


def _print_report(report: ProbeReport, as_json: bool) -> None:
    print(json.dumps(report.to_json(), indent=2) if as_json else printable_lines(str(report)))
    _warn_of(report.failed)
    raise typer.Exit(SOME_SKIPPED if report.failed else COMPLETE)


def printable_lines(text: str) -> str:
    """Escape what could drive a terminal, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _warn_of(failed: tuple[Any, ...]) -> None:
    for clip in failed[:_MAX_WARNINGS]:
        print(f"vjepa: {printable(clip['path'])}: {printable(clip['reason'])}", file=sys.stderr)
    if len(failed) > _MAX_WARNINGS:
        print(f"vjepa: and {len(failed) - _MAX_WARNINGS} clips more", file=sys.stderr)


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name}={text} must be numbers with commas between, such as 1e-4,1e-3") from None
