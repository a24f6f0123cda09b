"""A page of a probe says what was measured: its numbers, its confusions, its surest mistakes; labels stay text."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_video
from outlines import HOSTILE, Outline
from probes import report_of, write_probe

from vjepa_sdk import Probe, draw_probe
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.viz.page import plain_text
from vjepa_sdk.viz.probe_results import read_results

LABELS = ["run", "sit", "=1+1"]


def words(path: Path) -> str:
    """Return the text of a page, its cells apart."""
    return re.sub(r"\s+", " ", Outline(path.read_bytes().replace(b"<", b" <")).text)


def test_results_are_read_as_they_were_reported(tmp_path: Path) -> None:
    directory, report, predictions = write_probe(tmp_path / "probe", LABELS)
    found = read_results(directory)
    assert found.scores.to_json() == report.scores.to_json()
    assert (found.sentence, found.notes, found.model) == (report.sentence, report.notes, "vjepa-tiny")
    assert [row[0] for row in found.table] == ["trained encoder", "raw pixels"]
    wrong = np.flatnonzero(predictions.outputs.argmax(1) != predictions.truth)
    surest = wrong[np.argsort(-np.round(predictions.outputs[wrong].max(1), 6), kind="stable")]
    assert [each.path for each in found.mistakes] == [f"absent/{video}.mp4" for video in surest]
    assert {each.label for each in found.tested} == set(LABELS)  # without the apostrophe that keeps spreadsheets quiet


def test_a_page_counts_pairs_and_says_intervals_and_recall(tmp_path: Path) -> None:
    directory, report, predictions = write_probe(tmp_path / "probe", LABELS)
    draw_probe(directory, tmp_path / "r.html", thumbnails=0)
    text = words(tmp_path / "r.html")
    truth, said = predictions.truth, predictions.outputs.argmax(1)
    counted = [str(((truth == i) & (said == j)).sum()) for i in range(3) for j in range(3)]
    matrix = text[text.index("taken for →") :]
    assert re.findall(r"\d+", matrix.replace("=1+1", ""))[:9] == counted
    low, high = report.scores.intervals["accuracy"]
    assert f"{(truth == said).mean():.3f} [{low:.3f}, {high:.3f}]" in text and report.sentence in text
    assert f"run 20 {(said[truth == 0] == 0).mean():.3f}" in text
    assert "0.1 1.5000" in text and "1 0.7500 chosen" in text and "10 -" in text
    assert "Groups are files." in text and "expected calibration error" in text


def test_of_many_classes_the_pairs_that_are_confused_most_are_listed(tmp_path: Path) -> None:
    report, predictions = report_of([f"c{i:02}" for i in range(51)], videos=600)
    draw_probe(report, tmp_path / "r.html")
    pairs: dict[tuple[int, int], int] = {}
    for truth, said in zip(predictions.truth.tolist(), predictions.outputs.argmax(1).tolist(), strict=True):
        if truth != said:
            pairs[truth, said] = pairs.get((truth, said), 0) + 1
    most = max(pairs.values())
    first = min(pair for pair, count in pairs.items() if count == most)
    text = words(tmp_path / "r.html")
    assert f"share of the class c{first[0]:02} c{first[1]:02} {most} " in text
    assert f"{len(pairs) - 30} pairs more are left out." in text and "taken for →" not in text


def test_mistakes_have_pictures_where_files_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "good.mp4", num_frames=4)
    (tmp_path / "damaged.mp4").write_bytes(b"nothing")
    paths = ["good.mp4", "damaged.mp4", "absent.mp4"] * 20
    directory, _, _ = write_probe(tmp_path / "probe", LABELS, paths=paths)
    found = draw_probe(directory, tmp_path / "r.html", thumbnails=60, num_workers=0, show_progress_bar=False)
    outline = Outline((tmp_path / "r.html").read_bytes())
    readable = sum(each.path == "good.mp4" for each in found.mistakes)
    assert 0 < readable == sum(address.startswith("data:image/webp;") for address in outline.addresses)
    assert outline.text.count("no picture") == len(found.mistakes) - readable
    assert "does not exist" in outline.text and "./damaged.mp4" in outline.addresses


def test_a_probe_of_numbers_shows_what_it_predicts_and_its_largest_errors(tmp_path: Path) -> None:
    directory, report, predictions = write_probe(tmp_path / "probe", [])
    for suffix in (".html", ".png", ".svg"):
        found = draw_probe(directory, tmp_path / f"r{suffix}", num_workers=0, show_progress_bar=False)
    errors = np.abs(predictions.outputs - predictions.truth)
    assert found.mistakes[0].path == f"absent/{int(errors.argmax())}.mp4"
    text = words(tmp_path / "r.html")
    assert f"{report.scores.metrics['r2']:.3f}" in text and "The largest errors" in text
    assert "alpha squared error" in text


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg"])
def test_equal_probes_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    directory, _, _ = write_probe(tmp_path / "probe", LABELS)
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        draw_probe(directory, path, thumbnails=3, num_workers=0, show_progress_bar=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_hostile_labels_and_paths_stay_text(tmp_path: Path) -> None:
    harmless = [f"label {i}" for i in range(len(HOSTILE) + 1)]
    hostile = [*HOSTILE, "$\\frac{$"]  # the last would be a broken formula to matplotlib
    outlines = []
    for name, labels, paths in (("a", harmless, [f"{i}.mp4" for i in range(20)]), ("b", hostile, HOSTILE)):
        directory, _, _ = write_probe(tmp_path / name, labels, paths=paths)
        for suffix in (".html", ".png", ".svg"):
            draw_probe(directory, tmp_path / f"{name}{suffix}", num_workers=0, show_progress_bar=False)
        outlines.append(Outline((tmp_path / f"{name}.html").read_bytes()))
    assert {element for element in outlines[1].elements if element[0] not in ("bdi",)} <= set(outlines[0].elements)
    assert "script-src 'none'" in outlines[1].policy
    assert all(address.startswith(("data:", "./", "#")) for address in outlines[1].addresses)
    assert plain_text(HOSTILE[0]) in outlines[1].text and "line\\nbreak" in outlines[1].text
    drawn = Outline((tmp_path / "b.svg").read_bytes())
    assert not {element for element, _ in drawn.elements} & {"img", "script", "b"}


def test_what_says_nothing_or_is_damaged_is_refused(tmp_path: Path) -> None:
    directory, _, _ = write_probe(tmp_path / "probe", LABELS)
    with pytest.raises(ConfigError, match=r"suffix '.pdf' must be one of .html, .png, .svg"):
        draw_probe(directory, tmp_path / "r.pdf")
    (tmp_path / "r.html").touch()
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        draw_probe(directory, tmp_path / "r.html")
    config = json.loads((directory / "config.json").read_text())
    changes: list[dict[str, Any]] = [
        {"confusion": [[1, 2], [3, 4]]},
        {"per_class": config["scores"]["per_class"][1:]},
        {"metrics": {}},
        {"table": [{"what": "a"}]},
        {"calibration": {"expected_error": 0.1, "bins": [{"confidence": 7, "accuracy": 0, "count": 1}]}},
    ]
    for change in changes:
        (directory / "config.json").write_text(json.dumps({**config, "scores": {**config["scores"], **change}}))
        with pytest.raises(InputError, match=r"probe: its scores are damaged .*; fit the probe again"):
            draw_probe(directory, tmp_path / "new.html")
    (directory / "config.json").write_text(json.dumps(config))
    for content in (b"path\n", b"id,path,label,predicted,probability\na,a,run,sit,much\n"):
        (directory / "predictions.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"predictions.csv: is damaged .*; fit the probe again, or remove it"):
            draw_probe(directory, tmp_path / "new.html")
    bare = Probe.fit(np.eye(4, dtype=np.float32), ["a", "a", "b", "b"], C=1.0).save_pretrained(tmp_path / "bare")
    with pytest.raises(
        InputError, match="bare: the probe does not say what it reaches; fit it with `vjepa probe train`"
    ):
        draw_probe(bare, tmp_path / "new.html")


def test_the_commands_draw_what_was_trained_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_models import save_tiny

    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "model")
    rows = ["path,label"]
    for number in range(8):
        size = {"width": 64, "height": 48} if number % 2 else {"width": 48, "height": 64}
        rows.append(f"{write_video(tmp_path / f'{number}.mp4', num_frames=4, **size).name},{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vjepa", *arguments])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        return capsys.readouterr().out

    options = ["--num-workers", "0", "-q"]
    trained = ["probe", "train", "labels.csv", "--model", "model", "--out", "p", "--html", "train.html"]
    out = run(*trained, "--folds", "2", "--no-baseline", *options)
    assert "8 test videos" in out and "vjepa probe train labels.csv" in words(tmp_path / "train.html")
    run("probe", "eval", "p", "labels.csv", "--html", "eval.html", *options)
    assert "Linear probe on model" in words(tmp_path / "eval.html")
    assert run("viz", "probe", "p", "-o", "r.png", *options) == (
        f"r.png: top-1 {read_results('p').scores.metrics['accuracy']:.3f} on 8 test videos\n"
    )
    facts = json.loads(run("viz", "probe", "p", "-o", "r.html", "--json", *options))
    assert facts["out"] == "r.html" and facts["num_videos"] == 8
