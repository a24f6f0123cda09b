"""The strangest rows are those farthest from their nearest others."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import Outline
from outputs import clustered, write_output
from tiny_models import save_tiny

from vjepa_sdk import embed_files, label_errors, outlier_scores
from vjepa_sdk.cli import app
from vjepa_sdk.downstream import outliers
from vjepa_sdk.errors import ConfigError, InputError


def rows(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 1.0, (count, 6)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 49, 100])
def test_distances_are_those_of_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_QUERY_ROWS", 7)
    unit = rows().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = [np.sort(1 - np.delete(unit @ unit[i], i))[: min(k, 49)].mean() for i in range(50)]
    found = outlier_scores(rows(), k=k)
    assert found.distance == pytest.approx(np.array(expected), abs=1e-6)
    assert found.strangest(3) == np.argsort(-np.array(expected))[:3].tolist()
    assert found.percentile.max() == 100 and found.percentile[found.strangest(2)[1]] == 98


def test_copies_of_a_row_are_not_strange() -> None:
    features = np.concatenate([np.repeat(rows(1), 5, axis=0), -rows(3)[1:]])
    assert outlier_scores(features, k=2).distance[:5] == pytest.approx(np.zeros(5), abs=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="k=0 must be at least 1"):
        outlier_scores(rows(), k=0)
    with pytest.raises(ConfigError, match="1 rows have no others to be compared with; pass at least 2"):
        outlier_scores(rows(1))
    with pytest.raises(InputError, match="row 3 is zero"):
        outlier_scores(rows() * (np.arange(50) != 3)[:, None])


def test_the_command_lists_the_strangest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    save_tiny(Path("model"))
    for number in range(4):
        write_video(Path(f"clips/{number}.mp4"), num_frames=20 + 10 * number)
    embed_files(["clips"], "feats.npy", model="model", num_workers=0)
    for extra in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["vjepa", "outliers", "feats.npy", "--count", "2", "-k", "2", *extra])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        printed = capsys.readouterr().out
        if extra:
            names = ["distance", "end_seconds", "id", "path", "percentile", "row", "start_seconds"]
            assert [sorted(entry) for entry in json.loads(printed)] == [names] * 2
        else:
            first, second = (line.split("\t") for line in printed.splitlines())
            assert first[1] == "100.0" and second[1] == "75.0" and first[2].startswith("clips/")


def brute_force_votes(vectors: np.ndarray, labels: list[str | None], *, k: int, temperature: float) -> list[object]:
    """Return row, label, suggested label and both shares of each row that is outvoted, with loops in float64."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    found = []
    for row, label in enumerate(labels):
        others = [other for other in range(len(labels)) if other != row and labels[other]]
        nearest = sorted(others, key=lambda other: (-float(unit[row] @ unit[other]), other))[:k]
        votes: dict[str, float] = {}
        for other in nearest:
            votes[str(labels[other])] = votes.get(str(labels[other]), 0) + np.exp(unit[row] @ unit[other] / temperature)
        best = max(sorted(votes), key=lambda name: votes[name])
        if label and best != label:
            total = sum(votes.values())
            found.append((row, label, best, votes[best] / total, votes.get(label, 0.0) / total))
    return sorted(found, key=lambda each: (round(each[4] - each[3], 4), each[0]))  # type: ignore[return-value]


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_label_errors_are_those_of_brute_force(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_QUERY_ROWS", 7)
    features = clustered(12, 12, 12, spread=1.0)
    labels: list[str | None] = [*("a",) * 12, *("b",) * 12, *("c",) * 12]
    labels[3], labels[20], labels[30], labels[31] = "c", "a", None, ""
    expected = brute_force_votes(features, labels, k=k, temperature=temperature)
    found = label_errors(features, labels, k=k, temperature=temperature)
    assert {(each.row, each.label, each.suggested) for each in found} == {each[:3] for each in expected}  # type: ignore[index]
    shares = {each.row: (each.share, each.own_share) for each in found}
    for row, _, _, share, own in expected:  # type: ignore[misc]
        assert shares[row] == pytest.approx((share, own), abs=1e-4)
    differences = [each.own_share - each.share for each in found]
    assert differences == sorted(differences) and found[0].row in (3, 20)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a"] * 50, {}, "labels must have at least two different values, got a"),
        ([None] * 50, {}, "labels must have at least two different values, got none"),
        (["a", "b"], {}, "labels has 2 values and there are 50 rows; pass one for each"),
        (["a", "b"] * 25, {"temperature": 0.0}, "temperature=0 must be above 0; pass for example 0.07"),
        (["a", "b"] * 25, {"metric": "l2"}, "metric='l2' must be one of 'cosine', 'centered'"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(
    labels: list[str | None], options: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        label_errors(rows(), labels, **options)  # type: ignore[arg-type]


def test_the_command_lists_label_errors_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_output(tmp_path / "feats.npy", clustered(8, 8))
    labels = ["=a"] * 8 + ["b\n<b>"] * 8
    labels[5] = "b\n<b>"
    with open("labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "kind"), *((f"{row}.mp4", label) for row, label in enumerate(labels))])
    options = ("--labels", "labels.csv", "--column", "kind", "-k", "5", "--out", "errors.csv", "--html", "errors.html")
    monkeypatch.setattr(sys, "argv", ["vjepa", "outliers", "feats.npy", *options])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    assert exit_.value.code in (0, None)
    assert capsys.readouterr().out == "1.000\t0.000\tb\\n<b>\t=a\t5.mp4\n"
    (line,) = csv.DictReader(io.StringIO(Path("errors.csv").read_text()))
    assert (line["path"], line["label"], line["suggested"]) == ("5.mp4", "b\n<b>", "'=a")
    assert "1 clip of 16 with another label than their neighbours." in Outline(Path("errors.html").read_bytes()).text
