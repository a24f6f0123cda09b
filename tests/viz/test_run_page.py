"""The curves of a run are what it logged: gaps, spikes and skipped steps included."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from outlines import HOSTILE, Outline
from tiny_runs import run_config, write_clips

from vjepa_sdk import pretrain
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.viz import run_page
from vjepa_sdk.viz.page import plain_text
from vjepa_sdk.viz.run_page import draw_run, read_run


def write_run(directory: Path, lines: list[dict[str, Any]], *, unfinished: str = "") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + unfinished)
    return directory


LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": None, "lr": 0.5, "context_loss": 0.0, "is_overflow": False},
    {"step": 2, "loss": 4.0, "lr": 0.25, "context_loss": 0.0, "is_overflow": False},
    {"step": 3, "loss": None, "skipped": "loss is NaN", "clips": ["a.mp4"]},
    {"step": 4, "loss": 2.0, "lr": 0.125, "context_loss": 0.0, "is_overflow": False},
]


def test_what_was_logged_is_read(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "run", LINES, unfinished='{"step": 5, "lo'))
    assert found.steps == (1, 2, 4) and found.skipped == {3: "loss is NaN"}
    assert found.values == {"loss": (None, 4.0, 2.0), "lr": (0.5, 0.25, 0.125)}
    assert (found.first("loss"), found.last("loss")) == (4.0, 2.0)


def test_a_page_has_a_curve_and_a_row_for_each_metric(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", LINES)
    (run / "config.toml").write_text('steps = 4\n[optim]\nlr = 0.5\n[data]\npath = "clips"\n')
    draw_run(run, tmp_path / "a.html", command=["vjepa"])
    outline = Outline((tmp_path / "a.html").read_bytes())
    assert [label for label in outline.attributes["div.aria-label"] if "over the steps" in label] == [
        "Loss over the steps, from 4 to 2",
        "Learning rate over the steps, from 0.5 to 0.125",
    ]
    text = re.sub(r"\s+", " ", outline.text)
    assert "In 4 steps the loss went from 4 to 2." in text and "loss is NaN" in text
    assert "optim.lr0.5" in text.replace(" ", "") and "context_loss" not in text


def test_a_spike_in_a_long_run_stays_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "_MAX_POINTS", 20)
    values: list[float | None] = [1.0] * 1000
    values[517], values[700], values[800] = 9.0, -3.0, None
    steps, kept = run_page._thinned(range(1, 1001), values)
    assert len(steps) <= 22 and steps == sorted(steps) and (steps[0], steps[-1]) == (1, 1000)
    assert kept[steps.index(518)] == 9.0 and kept[steps.index(701)] == -3.0


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg"])
def test_equal_runs_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    run = write_run(tmp_path / "run", LINES)
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        draw_run(run, path, command=["vjepa"])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_hostile_reasons_stay_text(tmp_path: Path) -> None:
    lines = [*LINES, *({"step": 5 + i, "loss": None, "skipped": name} for i, name in enumerate(HOSTILE))]
    draw_run(write_run(tmp_path / "run", lines), tmp_path / "a.html", command=["vjepa"])
    outline = Outline((tmp_path / "a.html").read_bytes())
    assert not {element for element, _ in outline.elements} & {"b", "img"} and not outline.script
    assert plain_text(HOSTILE[0]) in outline.text and f"{len(HOSTILE) + 1 - 20} more are left out." in outline.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read .*; pass the --out directory of `vjepa pretrain`"):
        draw_run(tmp_path / "none", tmp_path / "a.html")
    for lines, message in (
        ("", "nothing is logged yet; wait for log_every steps"),
        ('{"step": 1', "nothing is logged yet"),
        ("nonsense\n", "line 1: is no JSON"),
        ("[1]\n", "line 1: must be an object with a step"),
    ):
        write_run(tmp_path / "run", [], unfinished=lines)
        with pytest.raises(InputError, match=message):
            draw_run(tmp_path / "run", tmp_path / "a.html")
    write_run(tmp_path / "run", LINES)
    with pytest.raises(ConfigError, match="suffix '.pdf' must be one of .html, .png, .svg"):
        draw_run(tmp_path / "run", tmp_path / "a.pdf")
    (tmp_path / "a.html").touch()
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        draw_run(tmp_path / "run", tmp_path / "a.html")


def test_the_command_draws_what_pretrain_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    write_clips(tmp_path / "clips")
    pretrain(run_config(tmp_path / "clips", tmp_path / "run"))
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for extra in ([], ["--json", "--overwrite"]):
        monkeypatch.setattr(
            sys, "argv", ["vjepa", "viz", "run", str(tmp_path / "run"), "-o", str(tmp_path / "a.svg"), *extra]
        )
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        out = capsys.readouterr().out
        if extra:
            loss = json.loads(out)["metrics"]["loss"]
            assert loss == {"first": logged[0]["loss"], "last": logged[-1]["loss"]}
        else:
            assert out.splitlines()[0] == f"loss\t{logged[0]['loss']:.6g}\t{logged[-1]['loss']:.6g}"
