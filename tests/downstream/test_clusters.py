"""Clusters are those of scikit-learn and of sentence-transformers, numbered by size, each with its middle."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from outlines import Outline
from outputs import clustered, write_output
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from vjepa_sdk import cluster
from vjepa_sdk.cli import app
from vjepa_sdk.config.choices import ClusterMethod, Metric
from vjepa_sdk.downstream.clusters import Clusters
from vjepa_sdk.errors import ConfigError, InputError

SIZES = (12, 30, 18)


def directions(rows: np.ndarray, metric: Metric) -> np.ndarray:
    vectors = rows.astype(np.float64) - (rows.mean(axis=0) if metric == "centered" else 0.0)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def check(found: Clusters, vectors: np.ndarray) -> None:
    """Check what holds of all methods: numbers by size, labels that agree, likeness as defined."""
    sizes = [len(each.rows) for each in found.clusters]
    assert sizes == sorted(sizes, reverse=True)
    for number, each in enumerate(found.clusters):
        assert each.number == number and each.rows == tuple(np.flatnonzero(found.labels == number).tolist())
        assert each.medoid in each.rows
        assert each.likeness == pytest.approx((vectors[list(each.rows)] @ vectors[each.medoid]).mean(), abs=1e-5)
    assert sum(sizes) == (found.labels >= 0).sum()


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_kmeans_is_that_of_scikit_learn(metric: Metric) -> None:
    rows = clustered(*SIZES, spread=1.5)
    vectors = directions(rows, metric)
    found = cluster(rows, n_clusters=4, metric=metric, seed=3)
    check(found, vectors)
    expected = KMeans(4, n_init=10, random_state=3).fit(vectors)
    inertia = sum(
        ((vectors[list(each.rows)] - vectors[list(each.rows)].mean(axis=0)) ** 2).sum() for each in found.clusters
    )
    assert inertia == pytest.approx(expected.inertia_, rel=1e-5)
    for each in found.clusters:
        middle = vectors[list(each.rows)].mean(axis=0)
        assert each.medoid == each.rows[(vectors[list(each.rows)] @ middle).argmax()]


@pytest.mark.parametrize("method", ["kmeans", "hdbscan", "communities"])
def test_clusters_that_are_far_apart_are_found_by_all(method: ClusterMethod) -> None:
    rows = clustered(*SIZES)
    found = cluster(rows, method=method, n_clusters=3, metric="cosine")
    check(found, directions(rows, "cosine"))
    assert [len(each.rows) for each in found.clusters] == [30, 18, 12]
    assert adjusted_rand_score(np.repeat([0, 1, 2], SIZES), found.labels) == 1.0


def test_hdbscan_leaves_out_what_lies_nowhere() -> None:
    rows = np.concatenate([clustered(*SIZES, spread=0.3), np.random.default_rng(5).normal(size=(6, 8))])
    found = cluster(rows.astype(np.float32), method="hdbscan", min_size=8, metric="cosine")
    check(found, directions(rows.astype(np.float32), "cosine"))
    expected = HDBSCAN(min_cluster_size=8, copy=True).fit_predict(directions(rows.astype(np.float32), "cosine"))
    assert adjusted_rand_score(expected, found.labels) == 1.0
    assert np.array_equal(found.labels < 0, expected < 0) and (expected < 0).any()


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
def test_communities_are_those_of_sentence_transformers(threshold: float) -> None:
    rows = clustered(*SIZES, spread=0.9)
    vectors = directions(rows, "cosine")
    found = cluster(rows, method="communities", threshold=threshold, min_size=4, metric="cosine")
    near = [np.flatnonzero(line >= threshold).tolist() for line in vectors @ vectors.T]
    taken: set[int] = set()
    expected = []
    for centre in sorted(range(len(rows)), key=lambda row: (-len(near[row]), row)):
        free = [row for row in near[centre] if row not in taken]
        if centre not in taken and len(free) >= 4:
            taken.update(free)
            expected.append((centre, tuple(free)))
    assert len(expected) > 1
    assert sorted((each.medoid, each.rows) for each in found.clusters) == sorted(expected)
    check(found, vectors)


def test_equal_seeds_give_equal_clusters_and_plain_data() -> None:
    rows = clustered(*SIZES, spread=1.5)
    first, second = (cluster(rows, n_clusters=5).to_json() for _ in range(2))
    assert first == second == json.loads(json.dumps(first)) | {"clusters": first["clusters"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters=0 must be from 1 to the number of rows, 6"),
        ({"n_clusters": 7}, "n_clusters=7 must be from 1 to the number of rows, 6"),
        (
            {"method": "communities", "threshold": 2},
            "threshold=2 must be a cosine, from -1 to 1; pass for example 0.75",
        ),
        ({"method": "hdbscan", "min_size": 1}, "min_size=1 must be from 2 to the number of rows, 6"),
        ({"method": "ward"}, "method='ward' must be one of 'kmeans', 'hdbscan', 'communities'"),
        ({"n_clusters": 2, "metric": "l2"}, "metric='l2' must be one of 'cosine', 'centered'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster(clustered(6), **options)  # type: ignore[arg-type]


def test_a_row_without_direction_is_named() -> None:
    with pytest.raises(InputError, match="row 2 is zero"):
        cluster(clustered(6) * (np.arange(6) != 2)[:, None], n_clusters=2, metric="cosine")


def test_the_command_prints_a_line_a_cluster_and_writes_a_line_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    names = [f"clips/{number}.mp4" for number in range(60)]
    names[12] = "clips/<img src=x>\n.mp4"
    write_output(tmp_path / "feats.npy", clustered(*SIZES), names)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vjepa", "cluster", "feats.npy", "--metric", "cosine", *arguments])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        return capsys.readouterr().out

    found = cluster(tmp_path / "feats.npy", n_clusters=3, metric="cosine")
    lines = [line.split("\t") for line in run("-n", "3", "--out", "out/c.csv", "--html", "c.html").splitlines()]
    assert [(number, size) for number, size, *_ in lines] == [("0", "30"), ("1", "18"), ("2", "12")]
    assert [line[2] for line in lines] == [f"{each.likeness:.4f}" for each in found.clusters]
    table = list(csv.DictReader(io.StringIO(Path("out/c.csv").read_text())))
    assert [line["path"] for line in table] == [f"../{name}" for name in names]
    assert [int(line["cluster"]) for line in table] == found.labels.tolist()
    assert [int(line["row"]) for line in table if line["is_medoid"] == "True"] == sorted(
        e.medoid for e in found.clusters
    )
    assert "60 clips in 3 clusters." in Outline(Path("c.html").read_bytes()).text
    assert json.loads(run("-n", "3", "--json"))["labels"] == found.labels.tolist()
    alone = run("--method", "communities", "--min-size", "20").splitlines()
    assert len(alone) == 2 and alone[1] == "-\t30"
