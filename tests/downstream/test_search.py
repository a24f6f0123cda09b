"""A search finds the clips most like one, encoded as those of the corpus were."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import Outline
from tiny_models import save_tiny

from vjepa_sdk import VJEPA, Hit, SearchIndex, embed_files
from vjepa_sdk.cli import app, exit_codes
from vjepa_sdk.config.choices import Metric
from vjepa_sdk.downstream.queries import part_of
from vjepa_sdk.errors import ConfigError, InputError, ResumeError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model, videos, features of them whole, in windows, and as tokens."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "kitchen").mkdir()
    save_tiny(root / "model")
    for number in range(6):
        folder = root / "kitchen" if number < 3 else root
        write_video(folder / f"{number}.mp4", num_frames=20 + 4 * number, key_frame_every=4 + number)
    videos, common = [root / "kitchen", *sorted(root.glob("*.mp4"))], {"model": str(root / "model"), "num_workers": 0}
    embed_files(videos, root / "feats.npy", **common)  # type: ignore[arg-type]
    embed_files(videos, root / "half.npz", dtype="float16", **common)  # type: ignore[arg-type]
    embed_files(videos, root / "windows.npy", window_seconds=0.8, stride_seconds=0.2, **common)  # type: ignore[arg-type]
    embed_files(videos, root / "tokens.npy", pooling="temporal", **common)  # type: ignore[arg-type]
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    return int(exit_.value.code or 0)


def cosines_with(index: SearchIndex, vectors: np.ndarray) -> np.ndarray:
    """Return the cosines of vectors `[Q, D]` with every row, in float64."""
    rows, vectors = index.features.rows.astype(np.float64), vectors.astype(np.float64)
    if index.metric == "centered":
        rows, vectors = rows - rows.mean(axis=0), vectors - rows.mean(axis=0)
    lengths = np.outer(np.linalg.norm(vectors, axis=1), np.linalg.norm(rows, axis=1))
    cosines: np.ndarray = vectors @ rows.T / lengths
    return cosines


@pytest.mark.parametrize("name", ["feats.npy", "half.npz"])
def test_a_clip_of_the_corpus_finds_itself_and_then_what_numpy_finds(corpus: Path, name: str) -> None:
    index = SearchIndex.open(corpus / name)
    hits = index.search(corpus / "4.mp4", k=6)
    features = index.features.rows.astype(np.float64)
    query = VJEPA.from_pretrained(corpus / "model", device="cpu").encode(corpus / "4.mp4")
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    assert hits[0].is_query and hits[0].path.endswith("4.mp4") and hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert [hit.score for hit in hits] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]


def test_features_of_a_npy_stay_on_disk(corpus: Path) -> None:
    assert isinstance(SearchIndex.open(corpus / "feats.npy").features.rows, np.memmap)


def test_a_part_of_a_video_is_encoded_alone(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    whole, part, everything = (index.encode(f"{corpus / '5.mp4'}{end}") for end in ("", "#t=0.5,1.5", "#t=0"))
    assert part.start_seconds == (0.5,) and part.vectors.shape == whole.vectors.shape == (1, 24)
    assert not np.allclose(whole.vectors, part.vectors)
    assert np.array_equal(whole.vectors, everything.vectors)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a.mp4", ("a.mp4", None, None)),
        ("a.mp4#t=3,5", ("a.mp4", 3.0, 5.0)),
        ("a.mp4#t=npt:3.5", ("a.mp4", 3.5, None)),
        ("a.mp4#t=,5", ("a.mp4", None, 5.0)),
        ("a#t=1#t=2,3", ("a#t=1", 2.0, 3.0)),
        ("a.mp4#t=", ("a.mp4#t=", None, None)),
    ],
)
def test_the_seconds_of_a_query_are_a_media_fragment(query: str, expected: tuple[object, ...]) -> None:
    assert part_of(query) == expected


def test_a_file_whose_name_looks_like_a_fragment_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4#t=3,5").touch()
    assert part_of(str(tmp_path / "a.mp4#t=3,5")) == (str(tmp_path / "a.mp4#t=3,5"), None, None)


def test_a_part_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match="must end after it starts; exchange 5 and 3"):
        part_of("a.mp4#t=5,3")


def test_only_rows_that_fit_the_columns_are_found(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    hits = index.search(corpus / "4.mp4", where={"path": "*/kitchen/*"})
    assert len(hits) == 3 and all("/kitchen/" in hit.path for hit in hits)
    with pytest.raises(InputError, match=r"feats.npy: has no column 'label'; it has row, id, path"):
        index.search(corpus / "4.mp4", where={"label": "x"})
    with pytest.raises(InputError, match="no row fits path=garden"):
        index.search(corpus / "4.mp4", where={"path": "garden"})


def test_the_file_that_is_asked_for_can_be_left_out(corpus: Path) -> None:
    hits = SearchIndex.open(corpus / "feats.npy").search(corpus / "4.mp4", exclude_same_video=True)
    assert len(hits) == 5 and not any(hit.is_query for hit in hits)


def test_hits_side_by_side_in_one_video_are_merged(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "windows.npy")
    merged, all_of_them = (index.search(corpus / "5.mp4", k=8, min_gap_seconds=gap) for gap in (None, 0.0))
    assert len(merged) == len(all_of_them) == 8
    for hits, gap in ((merged, 0.8), (all_of_them, 0.2)):
        starts = [(hit.path, hit.start_seconds) for hit in hits]
        apart = [abs(a[1] - b[1]) for a in starts for b in starts if a[0] == b[0] and a != b]  # type: ignore[operator]
        assert min(apart) == pytest.approx(gap, abs=0.11)
    assert merged[0] == all_of_them[0]


def test_several_queries_are_averaged_by_direction(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    asked = [corpus / "4.mp4", corpus / "5.mp4"]
    cosines = np.stack([cosines_with(index, index.encode(name).vectors) for name in asked]).squeeze(1)
    hits = index.search(asked)
    # the cosine with a mean of directions is the mean of cosines, but for one factor
    assert [hit.row for hit in hits] == np.argsort(-cosines.mean(axis=0)).tolist()
    assert all(hit.query is None and hit.query_start_seconds is None for hit in hits)
    assert sorted(hit.path for hit in hits if hit.is_query) == list(map(str, asked))


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_several_vectors_are_averaged_as_seen_from_the_mean_of_the_index(corpus: Path, metric: Metric) -> None:
    index = SearchIndex.open(corpus / "feats.npy", metric=metric)
    vectors = np.random.default_rng(0).normal(size=(3, 24)) * [[0.1], [1], [10]]
    hits = index.search(vectors)
    means = cosines_with(index, vectors).mean(axis=0)
    assert [hit.row for hit in hits] == np.argsort(-means).tolist()
    assert np.ptp(means[[hit.row for hit in hits]] / [hit.score for hit in hits]) < 1e-4


def test_with_max_a_hit_names_the_query_it_is_most_like(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    asked = [str(corpus / "4.mp4"), str(corpus / "5.mp4")]
    cosines = np.stack([cosines_with(index, index.encode(name).vectors) for name in asked]).squeeze(1)
    hits = index.search(asked, aggregation="max")
    assert [hit.row for hit in hits] == np.argsort(-cosines.max(axis=0), kind="stable").tolist()
    assert [hit.query for hit in hits] == [asked[cosines[:, hit.row].argmax()] for hit in hits]
    assert [hit.score for hit in hits] == pytest.approx(sorted(cosines.max(axis=0), reverse=True), abs=1e-5)


def test_with_max_a_hit_says_which_window_of_the_query_it_is_like(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "windows.npy")
    hits = index.search(f"{corpus / '5.mp4'}#t=1,2.6", aggregation="max", min_gap_seconds=0, k=2)
    assert all(hit.score == pytest.approx(1.0, abs=1e-5) for hit in hits)
    assert all(hit.query_start_seconds == pytest.approx(hit.start_seconds, abs=0.11) for hit in hits)


def test_the_windows_of_a_query_are_averaged(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "windows.npy")
    windows = index.encode(corpus / "5.mp4").vectors
    assert len(windows) > 3
    means = cosines_with(index, windows).mean(axis=0)
    (hit,) = index.search(corpus / "5.mp4", k=1)
    assert hit.row == means.argmax() and hit.query == str(corpus / "5.mp4") and hit.query_start_seconds is None


def test_labels_are_columns_to_choose_by(corpus: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label,split\n" + "".join(f"{corpus}/{n}.mp4,=cut,test\n" for n in (3, 4)))
    index = SearchIndex.open(corpus / "feats.npy", labels=table)
    hits = index.search(corpus / "4.mp4", where={"label": "=cut", "split": "t*"})
    assert sorted(Path(hit.path).name for hit in hits) == ["3.mp4", "4.mp4"]
    with pytest.raises(InputError, match="no row fits label=cut; patterns are those of a shell"):
        index.search(corpus / "4.mp4", where={"label": "cut"})


def test_features_that_are_no_vectors_are_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="must have one row of numbers for each clip; embed with pooling='mean'"):
        SearchIndex.open(corpus / "tokens.npy")


def test_another_model_under_the_same_name_is_refused(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    meta = tmp_path / "copy" / "feats.meta.json"
    described = json.loads(meta.read_text())
    described["model"]["sha256"] = "0" * 64
    meta.write_text(json.dumps(described))
    with pytest.raises(ResumeError, match="was made by another model than .* is now; restore it, or embed again"):
        SearchIndex.open(tmp_path / "copy" / "feats.npy").search(corpus / "4.mp4")


def test_options_that_cannot_be_are_refused(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    with pytest.raises(ConfigError, match="k=0 must be at least 1"):
        index.search(corpus / "4.mp4", k=0)
    with pytest.raises(ConfigError, match="min_gap_seconds=-1 must be at least 0"):
        index.search(corpus / "4.mp4", min_gap_seconds=-1.0)
    with pytest.raises(InputError, match="the query is empty"):
        index.search([])
    with pytest.raises(InputError, match=r"the query has shape \(2, 3\) and must be \[24\] or \[n, 24\]"):
        index.search(np.ones((2, 3)))
    with pytest.raises(ConfigError, match="aggregation='median' must be one of 'mean', 'max'"):
        index.search(corpus / "4.mp4", aggregation="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="metric='centred' must be one of 'cosine', 'centered'"):
        SearchIndex.open(corpus / "feats.npy", metric="centred")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="factory and nprobe are for backend=faiss"):
        SearchIndex.open(corpus / "feats.npy", nprobe=3)


def test_a_model_that_did_not_make_the_features_is_refused(corpus: Path, tmp_path: Path) -> None:
    other = VJEPA.from_pretrained(save_tiny(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ResumeError, match="was made by another model than .*other is now"):
        SearchIndex.open(corpus / "feats.npy").search(corpus / "4.mp4", model=other)


def test_a_model_that_was_moved_is_named(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    shutil.move(tmp_path / "copy" / "model", tmp_path / "moved")
    meta = tmp_path / "copy" / "feats.meta.json"
    meta.write_text(meta.read_text().replace(str(corpus / "model"), str(tmp_path / "copy" / "model")))
    index = SearchIndex.open(tmp_path / "copy" / "feats.npy")
    with pytest.raises(ConfigError, match="the model that made it is not found; pass --model with its place"):
        index.load_model()
    assert index.search(corpus / "4.mp4", model=index.load_model(tmp_path / "moved"))[0].is_query


def test_the_command_prints_a_line_a_hit(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "search", corpus / "4.mp4", "--index", corpus / "feats.npy", "-k", "2") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("\t") == ["1", "1.0000", str(corpus / "4.mp4"), "0.00", "3.60", "same file"]
    assert second.split("\t")[0] == "2" and len(second.split("\t")) == 5
    options = ("--index", corpus / "feats.npy", "--json", "--where", "path=*kitchen*")
    assert run(monkeypatch, "search", corpus / "4.mp4", *options) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_the_command_writes_hits_and_a_page(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    table, page = tmp_path / f"hits{suffix}", tmp_path / "hits.html"
    arguments = ("search", corpus / "4.mp4", "--index", corpus / "feats.npy", "--json", "--out", table, "--html", page)
    assert run(monkeypatch, *arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    text = table.read_text()
    if suffix == ".csv":
        lines = list(csv.DictReader(text.splitlines()))
        assert lines == [{name: "" if value is None else str(value) for name, value in hit.items()} for hit in printed]
    else:
        assert printed == (json.loads(text) if suffix == ".json" else list(map(json.loads, text.splitlines())))
    assert f"6 clips most like {corpus / '4.mp4'}." in Outline(page.read_bytes()).text
    written = table.read_bytes(), page.read_bytes()
    assert run(monkeypatch, *arguments) == exit_codes.USAGE
    assert run(monkeypatch, *arguments, "--overwrite") == 0
    assert table.read_bytes() == written[0]


def test_every_option_of_the_command_reaches_the_library(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def fake(path: Path, **options: object) -> FakeIndex:
        calls.append(options)
        return FakeIndex(calls)

    monkeypatch.setattr(SearchIndex, "open", fake)
    options = (
        "--metric centered --labels l.csv --backend faiss --factory Flat --nprobe 3 --model me/m --device cpu -k 4"
    )
    options += " --aggregation max --where a=b --exclude-same-video --min-gap-seconds 2"
    assert run(monkeypatch, "search", "q", "--index", "x.npy", *options.split()) == 0
    opened, loaded, searched = calls
    assert opened == {"metric": "centered", "labels": Path("l.csv"), "backend": "faiss", "factory": "Flat", "nprobe": 3}
    assert loaded == {"model": "me/m", "device": "cpu"}
    assert searched == {
        **{"k": 4, "model": "loaded", "aggregation": "max", "where": {"a": "b"}},
        **{"exclude_same_video": True, "min_gap_seconds": 2.0},
    }


class FakeIndex:
    """An index that notes what it is asked."""

    recall = 1.0

    def __init__(self, calls: list[dict[str, object]]) -> None:
        self.calls = calls

    def load_model(self, model: str, *, device: str) -> str:
        self.calls.append({"model": model, "device": device})
        return "loaded"

    def search(self, query: list[str], **options: object) -> list[Hit]:
        self.calls.append(options)
        return []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("4.mp4", "--index", "absent.npy"), exit_codes.USAGE, "absent.meta.json: does not exist"),
        (("absent.mp4", "--index", "feats.npy"), exit_codes.USAGE, "absent.mp4: does not exist; pass a video"),
        (("4.mp4", "--index", "feats.npy", "--out", "hits.txt"), exit_codes.USAGE, "--out must end in .csv, .json"),
        (
            ("4.mp4", "--index", "feats.npy", "--out", "feats.meta.json"),
            exit_codes.USAGE,
            "exists; choose another",
        ),
        (("4.mp4", "--index", "feats.npy", "--html", "no/a.html"), exit_codes.USAGE, "its directory does not exist"),
        (("4.mp4", "--index", "feats.npy", "--where", "path"), exit_codes.USAGE, "must be COLUMN=PATTERN"),
        (("4.mp4#t=90", "--index", "feats.npy"), exit_codes.USAGE, "must lie before the end of the video"),
    ],
)
def test_mistakes_are_one_line(
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(corpus)
    assert run(monkeypatch, "search", *arguments) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_similarity_is_the_cosine_of_every_pair(corpus: Path) -> None:
    model = VJEPA.from_pretrained(corpus / "model", device="cpu")
    a, b = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    assert model.similarity(a, b) == pytest.approx(np.array(expected), abs=1e-6)
    assert model.similarity(a[0], b).shape == (1, 3)
