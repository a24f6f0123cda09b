"""A search finds the clips most like one, encoded as those of the corpus were."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import VJEPA, SearchIndex, embed_files
from vjepa_sdk.cli import app, exit_codes
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


@pytest.mark.parametrize("name", ["feats.npy", "half.npz"])
def test_a_clip_of_the_corpus_finds_itself_and_then_what_numpy_finds(corpus: Path, name: str) -> None:
    index = SearchIndex.open(corpus / name)
    hits = index.search(corpus / "4.mp4", k=6)
    features = index.embeddings.features.astype(np.float64)
    query = VJEPA.from_pretrained(corpus / "model", device="cpu").encode(corpus / "4.mp4")
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    assert hits[0].is_query and hits[0].path.endswith("4.mp4") and hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert [hit.score for hit in hits] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]


def test_features_of_a_npy_stay_on_disk(corpus: Path) -> None:
    assert isinstance(SearchIndex.open(corpus / "feats.npy").embeddings.features, np.memmap)


def test_a_part_of_a_video_is_encoded_alone(corpus: Path) -> None:
    index = SearchIndex.open(corpus / "feats.npy")
    model = index.load_model()
    whole, part = (index.encode(f"{corpus / '5.mp4'}{end}", model) for end in ("", "#t=0.5,1.5"))
    assert not np.allclose(whole, part)
    everything = index.encode(f"{corpus / '5.mp4'}#t=0", model)
    assert np.array_equal(whole, everything)


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
    with pytest.raises(InputError, match="the index has no column 'label'; it has row, id, path"):
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
    model = index.load_model()
    vectors = np.stack([index.encode(corpus / name, model) for name in ("4.mp4", "5.mp4")])
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    both = index.search([corpus / "4.mp4", corpus / "5.mp4"], model=model)
    assert [hit.row for hit in both] == [hit.row for hit in index.search(mean)]


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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("4.mp4", "--index", "absent.npy"), exit_codes.USAGE, "absent.meta.json: does not exist"),
        (("absent.mp4", "--index", "feats.npy"), exit_codes.FAILED, "absent.mp4: does not exist"),
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
