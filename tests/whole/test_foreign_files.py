"""Whatever lies in the place of an output, nothing of the user's changes: by every door, with every kind of plant."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from corpora import copy_clips
from tiny_models import save_tiny
from tiny_runs import run_config, write_clips

from vjepa_sdk import VJEPA, Probe, embed_files, pretrain, train_probe
from vjepa_sdk.config.training import DataConfig
from vjepa_sdk.errors import OutputError, VJEPAError
from vjepa_sdk.features.video_features import VideoFeatures
from vjepa_sdk.hub.cache import discard
from vjepa_sdk.training.data.cache import open_cache
from vjepa_sdk.training.resume import claimed
from vjepa_sdk.viz.exports import MapTable, export_map
from vjepa_sdk.viz.page import check_output
from vjepa_sdk.weights.convert import convert

Door = Callable[[Path], object]
State = dict[str, bytes | str | None]


def state(directory: Path) -> State:
    """Return every entry below a directory: content of files, targets of links, None for directories."""
    found: State = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the doors need: a model, clips, a probe's features."""
    root = tmp_path_factory.mktemp("things")
    save_tiny(root / "model")
    (root / "clips").mkdir()
    write_clips(root / "clips")
    return root


def save_model(place: Path, things: Path) -> None:
    VJEPA.from_pretrained(things / "model", device="cpu").save_pretrained(place / "out")


def save_shards(place: Path, things: Path) -> None:
    VJEPA.from_pretrained(things / "model", device="cpu").save_pretrained(place / "out", max_shard_size="20KB")


def save_probe(place: Path, things: Path) -> None:
    Probe.fit(np.eye(4, dtype=np.float32), ["a", "a", "b", "b"], C=1.0).save_pretrained(place / "out")


def convert_model(place: Path, things: Path) -> None:
    convert(things / "model", place / "out", layout="transformers")


def embed(place: Path, things: Path) -> None:
    embed_files(things / "clips", place / "out.npy", model=things / "model", num_workers=0)


def train(place: Path, things: Path) -> None:
    labels = place.parent / "labels.csv"
    rows = [f"{path},{'ab'[number % 2]}" for number, path in enumerate(sorted((things / "clips").iterdir()))]
    labels.write_text("\n".join(["path,label", *rows, ""]))
    train_probe(labels, out=place / "out", model=things / "model", num_workers=0, overwrite=True, baseline=False)


def start_run(place: Path, things: Path) -> None:
    pretrain(run_config(things / "clips", place / "out"))


def go_on_with_run(place: Path, things: Path) -> None:
    with claimed(place / "out", resume=True):
        pass


def decode(place: Path, things: Path) -> None:
    config = DataConfig(cache=str(place), num_workers=0)
    paths = [str(path) for path in (things / "clips").iterdir()]
    os.rename(place / "out", place / cache_name(things)) if os.path.lexists(place / "out") else None
    try:
        open_cache(config, paths)
    finally:
        if os.path.lexists(place / cache_name(things)):
            os.rename(place / cache_name(things), place / "out")


def cache_name(things: Path) -> str:
    """Return how the cache of the clips is named."""
    made = things / "cache"
    if not made.exists():
        paths = [str(path) for path in (things / "clips").iterdir()]
        open_cache(DataConfig(cache=str(made), num_workers=0), paths)
    return next(made.iterdir()).name


def export(place: Path, things: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    index = [{"path": f"{number}.mp4"} for number in range(3)]
    table = MapTable(vectors=vectors, points=vectors[:, :2], index=index, labels=[None] * 3, pictures=[])
    export_map(table, place / "out", overwrite=True)


MODEL = ("config.json", "README.md", "model.safetensors", "model-00001-of-00009.safetensors")
DIRECTORIES: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "model": (save_model, MODEL),
    "shards": (save_shards, MODEL),
    "probe": (save_probe, (*MODEL, "predictions.csv")),
    "convert": (convert_model, ("notes.txt", *MODEL)),
    "train": (train, ("notes.txt", *MODEL, "predictions.csv")),
    "pretrain": (start_run, ("notes.txt", "lock", "metrics.jsonl", "checkpoints")),
    "resume": (go_on_with_run, ("lock", "model/README.md")),
    "data.cache": (decode, ("frames.u8", "index.json", "lock")),
    "export": (export, ("vectors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt")),
}
CASES = [(door, name) for door, (_, names) in DIRECTORIES.items() for name in names]
NOTES = b"years of work, in no other place"


@pytest.mark.parametrize(("door", "name"), CASES)
def test_a_directory_with_a_file_of_somebody_else_stays_as_it_is(
    door: str, name: str, things: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / "out" / name).parent.mkdir(parents=True)
    (place / "out" / name).write_bytes(NOTES)
    before = state(place)
    with pytest.raises(OutputError, match=rf"{name.split('/')[-1]}|not empty|other than a probe"):
        DIRECTORIES[door][0](place, things)
    after = state(place)
    if name != "lock":  # which a run makes before it looks around
        after.pop("out/lock", None)
    assert after == before


@pytest.mark.parametrize("kind", ["directory", "dangling"])
@pytest.mark.parametrize("door", DIRECTORIES)
def test_a_link_in_the_place_of_a_directory_is_refused(door: str, kind: str, things: Path, tmp_path: Path) -> None:
    precious, place = tmp_path / "precious", tmp_path / "place"
    place.mkdir()
    if kind == "directory":
        precious.mkdir()
        for name in (*MODEL, "part-00000000", "frames.u8"):
            (precious / name).write_bytes(NOTES)
    (place / "out").symlink_to(precious)
    before = state(tmp_path)
    with pytest.raises(OutputError, match="link|not a directory"):
        DIRECTORIES[door][0](place, things)
    after = state(tmp_path)
    after.pop("labels.csv", None)
    assert after == before


@pytest.mark.parametrize("door", ["model", "probe", "convert", "data.cache", "export"])
def test_a_link_in_the_place_of_a_file_is_refused(door: str, things: Path, tmp_path: Path) -> None:
    call, names = DIRECTORIES[door]
    for number, name in enumerate(names):
        place, precious = tmp_path / f"{number}" / "place", tmp_path / f"{number}" / "precious"
        (place / "out").mkdir(parents=True)
        precious.write_bytes(NOTES)
        (place / "out" / name).symlink_to(precious)
        before = state(place.parent)
        with pytest.raises(OutputError):
            call(place, things)
        assert state(place.parent) == before


@pytest.mark.parametrize("name", ["out.index.jsonl", "out.errors.jsonl", "out.inputs.jsonl", "out.meta.json"])
def test_files_beside_an_output_that_are_not_of_one_are_refused(name: str, things: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(NOTES)
    with pytest.raises(OutputError, match=f"{name}: exists and was not made by `vjepa embed`; choose another --out"):
        embed(tmp_path, things)
    assert state(tmp_path) == {name: NOTES}


def test_the_list_of_errors_of_a_run_before_is_replaced(things: Path, tmp_path: Path) -> None:
    clips = copy_clips(things / "clips", tmp_path / "clips")
    whole = {path: path.read_bytes() for path in clips.iterdir()}
    for path in whole:
        path.write_bytes(b"no video")
    with pytest.raises(VJEPAError, match="all 4 clips failed"):
        embed_files(clips, tmp_path / "out.npy", model=things / "model", num_workers=0)
    for path, content in whole.items():
        path.write_bytes(content)
    assert embed_files(clips, tmp_path / "out.npy", model=things / "model", num_workers=0).rows == 4


@pytest.mark.parametrize("name", ["features.npy", "notes.txt"])
def test_a_directory_in_the_place_of_the_cache_of_a_probe_stays_as_it_is(
    name: str, things: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / "out.cache").mkdir(parents=True)
    (place / "out.cache" / name).write_bytes(NOTES)
    with pytest.raises(OutputError, match=f"out.cache: holds {name}, which is no file of a probe's cache"):
        train(place, things)
    assert state(place) == {"out.cache": None, f"out.cache/{name}": NOTES}


def features(path: Path) -> object:
    numbers = np.zeros((1, 4), np.float32)
    seconds = np.zeros(1)
    frames = np.zeros((1, 2), np.int64)
    return VideoFeatures(
        embeddings=numbers, start_seconds=seconds, end_seconds=seconds, frame_indices=frames, meta={}
    ).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("f.npz", features), ("f.safetensors", features), ("p.html", lambda path: check_output(path, overwrite=False))],
)
def test_a_dangling_link_in_the_place_of_a_file_is_somebody_s(name: str, write: Door, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "unmounted")
    with pytest.raises(OutputError):
        write(tmp_path / name)
    assert state(tmp_path) == {name: str(tmp_path / "unmounted")}


def test_a_link_out_of_the_hub_s_cache_deletes_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(NOTES)
    snapshot = tmp_path / "hub" / "models--me--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(tmp_path / "precious")
    before = state(tmp_path)
    with pytest.raises(VJEPAError, match="outside the hub's cache; delete the link"):
        discard(snapshot / "model.safetensors")
    assert state(tmp_path) == before


def test_a_model_that_was_written_here_is_replaced_and_its_neighbours_stay(things: Path, tmp_path: Path) -> None:
    save_shards(tmp_path, things)
    (tmp_path / "out" / "LICENSE").write_bytes(NOTES)
    (tmp_path / "out" / "thesis").mkdir()
    save_model(tmp_path, things)
    assert {*state(tmp_path / "out")} == {"config.json", "README.md", "model.safetensors", "LICENSE", "thesis"}
    assert (tmp_path / "out" / "LICENSE").read_bytes() == NOTES


@pytest.mark.parametrize("door", ["model", "shards", "probe", "convert", "train", "export"])
def test_a_writing_that_was_killed_anywhere_is_done_again(
    door: str, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, call = os.replace, DIRECTORIES[door][0]
    (tmp_path / "whole").mkdir()
    call(tmp_path / "whole", things)
    expected = {*state(tmp_path / "whole")}
    for allowed in range(1, 12):
        place = tmp_path / f"{allowed}"
        place.mkdir()
        left = [allowed]

        def dying(source: Path, final: Path, left: list[int] = left, out: Path = place / "out") -> None:
            if Path(final).parent == out:
                left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt  # which no handler of errors takes
            replace(source, final)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", dying)
            call(place, things)
        is_complete = left[0] >= 0
        if not (is_complete and door == "convert"):
            call(place, things)
        assert {*state(place)} == expected
        if is_complete:
            return
    raise AssertionError("it makes more files than this test knows of")
