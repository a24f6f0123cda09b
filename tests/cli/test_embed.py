"""The options of a job are spelt for the command, for the library call and as `EmbedOptions`, and are the same."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

from vjepa_sdk.cli import app
from vjepa_sdk.cli.embed import describe_seconds, embed
from vjepa_sdk.inference.embed import job
from vjepa_sdk.inference.embed.job import embed_files
from vjepa_sdk.inference.embed.options import EmbedOptions

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(embed_files).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
"""Of the options of the library call."""

VALUES: dict[str, Any] = {
    "split": "train",
    "model": "me/m",
    "revision": "r",
    "weights": "context",
    "pooling": "temporal",
    "layers": (1, 2),
    "num_frames": 4,
    "fps": 2.5,
    "window_seconds": 3.5,
    "stride_seconds": 1.5,
    "tail": "drop",
    "source_fps": 9.0,
    "batch_size": 3,
    "normalize_embeddings": True,
    "dtype": "float16",
    "precision": "int8",
    "compile": True,
    "decoder": "decord",
    "device": "cpu",
    "num_workers": 5,
    "deadline_seconds": 8.0,
    "max_failures": "5%",
    "on_error": "stop",
    "follow_symlinks": True,
    "shard": "3/16",
    "extend": True,
    "overwrite": True,
    "show_progress_bar": False,
}
"""One for each option, none of them its default, so that an option which is lost on the way shows."""

OF_EVALUATIONS_ALONE = {"clip_set", "augmentation"}
OF_THE_COMMAND_ALONE = {"inputs", "out", "as_json", "quiet", "verbose"}


class Stop(Exception):
    """Enough was seen."""


@pytest.fixture
def handed_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keywords that a function of `job` is called with, the one that the test names."""
    keywords: dict[str, Any] = {}

    def record(*arguments: Any, **given: Any) -> None:
        keywords.update(given)
        raise Stop

    monkeypatch.setattr(job, request.param, record)
    return keywords


def test_there_is_a_value_other_than_the_default_for_every_option() -> None:
    assert VALUES.keys() == DEFAULTS.keys()
    assert not [name for name, default in DEFAULTS.items() if VALUES[name] == default]


def test_options_of_the_call_are_the_fields_that_are_checked() -> None:
    fields = [field for field in dataclasses.fields(EmbedOptions) if field.name not in OF_EVALUATIONS_ALONE]
    assert [field.name for field in fields] == list(DEFAULTS)
    # a default of its own could differ
    assert all(field.default is field.default_factory is dataclasses.MISSING for field in fields)


def test_options_of_the_command_are_those_of_the_call_with_the_same_defaults() -> None:
    command = typer.main.get_command(app.app).commands["embed"]  # type: ignore[attr-defined]
    options = {option.name: option.default for option in command.params if option.name not in OF_THE_COMMAND_ALONE}
    # --quiet stands for the bar
    assert options == {name: default for name, default in DEFAULTS.items() if name != "show_progress_bar"}


def test_options_have_the_same_types_everywhere() -> None:
    hints = {place: get_type_hints(place) for place in (embed, embed_files, EmbedOptions)}
    # a command line has text for paths, lists, shares and devices
    for name in DEFAULTS.keys() - {"model", "layers", "max_failures", "show_progress_bar", "device"}:
        assert hints[embed][name] == hints[embed_files][name] == hints[EmbedOptions][name], name


@pytest.mark.parametrize("handed_on", ["EmbedOptions"], indirect=True)
def test_every_option_of_the_call_is_handed_on(handed_on: dict[str, Any]) -> None:
    with pytest.raises(Stop):
        embed_files("clips", "feats.npy", **VALUES)
    assert handed_on == VALUES


@pytest.mark.parametrize("handed_on", ["embed_files"], indirect=True)
def test_every_option_of_the_command_is_handed_on(
    handed_on: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path)
    written = {**VALUES, "layers": "1,2"}
    del written["show_progress_bar"]
    options = ["--quiet"]
    for name, value in written.items():
        options += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    monkeypatch.setattr(sys, "argv", ["vjepa", "embed", "a", "--out", str(tmp_path / "x.npy"), *options])
    with pytest.raises(Stop):
        app.main()
    assert handed_on == {**VALUES, "layers": [1, 2]}


def test_seconds_are_told_apart_and_add_up() -> None:
    result = job.EmbedResult(
        out=Path("x.npy"),
        rows=1,
        failed=0,
        seconds=10.0,
        listing_seconds=1.0,
        starting_seconds=2.0,
        decode_wait_seconds=3.0,
        encode_seconds=3.5,
        decode_cpu_seconds=4.25,
    )
    assert describe_seconds(result) == (
        "listing 1.00 s, starting 2.00 s, waiting for decoding 3.00 s, encoding 3.50 s, writing 0.50 s; "
        "decoding processes took 4.25 CPU s"
    )
    assert "CPU s" not in describe_seconds(dataclasses.replace(result, decode_cpu_seconds=0.0))
