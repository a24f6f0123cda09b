"""An index of FAISS finds what it says it finds, with exact scores, and is never taken for one of other features."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from outputs import clustered, write_output

from vjepa_sdk import SearchIndex
from vjepa_sdk.config.choices import Metric
from vjepa_sdk.downstream import approximate
from vjepa_sdk.downstream.nearest import nearest_rows
from vjepa_sdk.errors import ConfigError, InputError, OutputError

pytest.importorskip("faiss", reason="the extra faiss is not installed")

ROWS = clustered(*[40] * 10, spread=1.0)
QUERIES = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
SAMPLED = np.sort(np.random.default_rng(1).permutation(400)[:100])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_output(tmp_path / "feats.npy", ROWS)


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_a_flat_index_finds_what_the_exact_search_finds(path: Path, metric: Metric) -> None:
    index = SearchIndex.open(path, metric=metric, backend="faiss")
    exact = SearchIndex.open(path, metric=metric)
    for query in QUERIES:
        assert index.search(query, k=7) == exact.search(query, k=7)
    assert index.recall == 1.0
    assert index.search(QUERIES, k=7, where={"path": "1*"}) == exact.search(QUERIES, k=7, where={"path": "1*"})


def test_the_recall_of_a_coarse_index_is_what_it_finds_of_the_ten_nearest(path: Path) -> None:
    index = SearchIndex.open(path, backend="faiss", factory="IVF8,PQ2x4", nprobe=1)
    unit = ROWS.astype(np.float64) / np.linalg.norm(ROWS.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    shares = []
    for row in SAMPLED:
        expected = set(np.argsort(-cosines[row], kind="stable")[:10].tolist())
        hits = index.search(ROWS[row], k=11)
        shares.append(len(expected & {hit.row for hit in hits}) / 10)
        assert [hit.score for hit in hits if hit.row != row] == pytest.approx(
            [cosines[row, hit.row] for hit in hits if hit.row != row], abs=1e-5
        )
    assert index.recall == pytest.approx(np.mean(shares), abs=1e-4)
    assert 0.2 < index.recall < 1.0
    assert SearchIndex.open(path, backend="faiss", factory="IVF8,PQ2x4", nprobe=8).recall > index.recall


def test_a_search_ends_where_the_index_finds_no_more(path: Path) -> None:
    index = SearchIndex.open(path, backend="faiss", factory="IVF8,Flat", nprobe=1)
    assert 0 < len(index.search(QUERIES[0], k=400)) < 400


def test_an_index_is_built_once_and_again_for_other_features(path: Path) -> None:
    built, about = path.with_suffix(".faiss"), path.with_suffix(".faiss.json")
    SearchIndex.open(path, backend="faiss")
    before = built.stat().st_mtime_ns
    SearchIndex.open(path, backend="faiss")
    assert built.stat().st_mtime_ns == before
    write_output(path, ROWS[::-1].copy())
    index = SearchIndex.open(path, backend="faiss")
    assert built.stat().st_mtime_ns != before
    assert index.search(QUERIES[0], k=3) == SearchIndex.open(path).search(QUERIES[0], k=3)
    assert json.loads(about.read_text())["recall"] == {"1": 1.0}


def test_an_index_that_was_not_written_here_is_left_alone(path: Path) -> None:
    built = path.with_suffix(".faiss")
    built.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"feats.faiss: exists, and feats.faiss.json, .*, does not; move it away"):
        SearchIndex.open(path, backend="faiss")
    assert built.read_bytes() == b"mine"


def test_a_damaged_index_is_named(path: Path) -> None:
    SearchIndex.open(path, backend="faiss")
    path.with_suffix(".faiss").write_bytes(b"IxFI")
    with pytest.raises(InputError, match=r"feats.faiss: is damaged; delete it, and it is built again"):
        SearchIndex.open(path, backend="faiss")
    path.with_suffix(".faiss.json").write_text("{")
    with pytest.raises(InputError, match=r"feats.faiss.json: is damaged \(.*\); delete it"):
        SearchIndex.open(path, backend="faiss")


def test_a_build_that_is_cut_short_is_begun_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(approximate, "_recall", interrupted)
        SearchIndex.open(path, backend="faiss")
    assert SearchIndex.open(path, backend="faiss").recall == 1.0


def test_an_index_is_never_described_as_that_of_other_features(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    SearchIndex.open(path, backend="faiss")
    write_output(path, ROWS[::-1].copy())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(approximate, "write_json", interrupted)
        SearchIndex.open(path, backend="faiss")
    write_output(path, ROWS)
    with pytest.raises(OutputError, match=r"feats.faiss.json, which says of what, does not; move it away"):
        SearchIndex.open(path, backend="faiss")


def test_an_index_of_fewer_rows_is_refused(path: Path, tmp_path: Path) -> None:
    SearchIndex.open(path, backend="faiss")
    other = write_output(tmp_path / "few.npy", ROWS[:30])
    SearchIndex.open(other, backend="faiss")
    other.with_suffix(".faiss").replace(path.with_suffix(".faiss"))
    with pytest.raises(InputError, match=r"feats.faiss: has 30 rows instead of 400; delete it"):
        SearchIndex.open(path, backend="faiss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "HNSW32"}, "factory=HNSW32 must be Flat or begin with IVF, as IVF4096,PQ64"),
        ({"factory": "IVF8,PQ3"}, "factory=IVF8,PQ3 does not fit 400 rows of 8 numbers"),
        ({"factory": "IVF8,Nonsense"}, "factory=IVF8,Nonsense does not fit 400 rows"),
        ({"nprobe": 0}, "nprobe=0 must be at least 1; pass for example 16"),
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(
    path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchIndex.open(path, backend="faiss", **options)  # type: ignore[arg-type]
    assert not list(path.parent.glob("*.faiss*"))


def test_without_faiss_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"needs FAISS; install it with `pip install 'vjepa-sdk\[faiss\]'`"):
        SearchIndex.open(path, backend="faiss")


@pytest.mark.parametrize(
    ("count", "dim", "factory"),
    [
        (49_999, 1024, "Flat"),
        (1_000_000, 1024, "IVF4096,PQ128"),
        (50_000, 24, "IVF1024,PQ3"),
        (10**8, 1408, "IVF4888,PQ176"),
    ],
)
def test_the_index_that_is_built_fits_the_number_of_rows(count: int, dim: int, factory: str) -> None:
    assert approximate._factory(count, dim) == factory


def test_scores_are_those_of_the_features_whatever_the_codes(path: Path) -> None:
    index = SearchIndex.open(path, backend="faiss", factory="IVF4,PQ1x4", nprobe=4)
    hits = index.search(QUERIES[0], k=5)
    rows, scores = nearest_rows(QUERIES[:1], ROWS, k=400)
    exact = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
    assert [hit.score for hit in hits] == pytest.approx([exact[hit.row] for hit in hits], abs=1e-6)
