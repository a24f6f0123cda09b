"""A probe is fitted to features, asked, scored and saved; it refuses features of another kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import VJEPA, Embeddings, Probe, embed_files, load_embeddings
from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError, WeightsError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig

KINDS = ("linear", "knn", "regression")


def rows_of(count: int = 60, *, classes: int = 3, dim: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    return (rng.normal(size=(classes, dim))[targets] * 2 + rng.normal(size=(count, dim))).astype(np.float32), targets


def labels_for(kind: str, targets: np.ndarray) -> list[Any]:
    return [1.5 * target for target in targets] if kind == "regression" else [f"class {target}" for target in targets]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model and another, videos, and features of them."""
    root = tmp_path_factory.mktemp("corpus")
    save_tiny(root / "model")
    save_tiny(root / "other", seed=1)
    (root / "clips").mkdir()
    for number in range(8):
        write_video(root / "clips" / f"{number}.mp4", num_frames=12 + 4 * number, key_frame_every=3 + number)
    common: dict[str, Any] = {"model": root / "model", "num_workers": 0}
    embed_files(root / "clips", root / "mean.npy", **common)
    embed_files(root / "clips", root / "windows.npy", window_seconds=0.8, **common)
    embed_files(root / "clips", root / "temporal.npy", pooling="temporal", **common)
    embed_files(root / "clips", root / "tokens.npy", pooling="none", **common)
    embed_files(root / "clips", root / "other.npy", **{**common, "model": root / "other"})
    return root


@pytest.fixture(scope="module")
def fitted(corpus: Path) -> Probe:
    return Probe.fit(load_embeddings(corpus / "mean.npy"), ["a", "b"] * 4, C=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_probe_says_the_same_bit_for_bit_in_a_fresh_process(kind: Any, tmp_path: Path) -> None:
    rows, targets = rows_of()
    probe = Probe.fit(rows, labels_for(kind, targets), kind=kind)
    probe.save_pretrained(tmp_path / "probe")
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import sys, numpy as np; from vjepa_sdk import Probe; p = Probe.from_pretrained(sys.argv[1] + '/probe');"
        "np.save(sys.argv[1] + '/said.npy', p.outputs(np.load(sys.argv[1] + '/rows.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    torch.set_num_threads(1)
    assert (np.load(tmp_path / "said.npy") == probe.outputs(rows)).all()
    again = Probe.from_pretrained(tmp_path / "probe")
    assert (again.kind, again.labels) == (kind, probe.labels)
    assert dict(again.fitted) == json.loads(json.dumps(probe.fitted))


def test_probabilities_sum_to_one_and_the_label_is_the_most_probable(fitted: Probe, corpus: Path) -> None:
    given = load_embeddings(corpus / "mean.npy")
    shares = fitted.predict_proba(given)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert shares.dtype == np.float32
    assert fitted.predict(given).tolist() == [fitted.labels[number] for number in shares.argmax(1)]


def test_classes_are_sorted_texts() -> None:
    rows, _ = rows_of(classes=3)
    assert Probe.fit(rows, [10, 9, 1] * 20, C=1.0).labels == ("1", "10", "9")


def test_a_probe_that_is_nowhere_is_no_unknown_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'absent': no such probe; pass a probe directory, a hub id such as"):
        Probe.from_pretrained("absent")


def test_labels_of_the_index_are_taken_where_none_are_passed(corpus: Path) -> None:
    found = load_embeddings(corpus / "mean.npy")
    index = [{**entry, "label": "ab"[number % 2]} for number, entry in enumerate(found.index)]
    assert Probe.fit(Embeddings(found.features, index, found.meta), C=1.0).labels == ("a", "b")
    with pytest.raises(InputError, match="features come without labels; pass labels"):
        Probe.fit(found)


def test_a_probe_of_numbers_predicts_them_and_has_no_probabilities() -> None:
    rows, _ = rows_of()
    values = rows @ np.arange(6)
    probe = Probe.fit(rows, values, kind="regression")
    assert probe.score(rows, values).metrics["r2"] > 0.999
    assert probe.predict(rows).shape == (60,)
    with pytest.raises(ConfigError, match="a probe of numbers has no probabilities"):
        probe.predict_proba(rows)


def test_windows_count_as_one_video_in_scores(corpus: Path) -> None:
    windows = load_embeddings(corpus / "windows.npy")
    videos = sorted({entry["id"] for entry in windows.index})
    labels = ["ab"[videos.index(entry["id"]) % 2] for entry in windows.index]
    probe = Probe.fit(windows, labels, C=1.0)
    assert probe.fitted["videos"] == 8 < probe.fitted["rows"] == len(labels)
    scores = probe.score(windows, labels)
    shares = probe.predict_proba(windows)
    mean = [shares[[entry["id"] == video for entry in windows.index]].mean(0) for video in videos]
    expected = [probe.labels[number] == "ab"[place % 2] for place, number in enumerate(np.argmax(mean, axis=1))]
    assert scores.num_videos == 8 and scores.accuracy == pytest.approx(np.mean(expected))


def test_windows_of_one_video_with_two_labels_are_refused(corpus: Path) -> None:
    windows = load_embeddings(corpus / "windows.npy")
    with pytest.raises(InputError, match="rows of one video have different labels"):
        Probe.fit(windows, ["ab"[number % 2] for number in range(len(windows.index))])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other.npy", "model sha256: [0-9a-f]{12}… -> [0-9a-f]{12}…"),
        ("temporal.npy", "pooling: mean -> temporal"),
        ("windows.npy", "window_seconds: None -> 0.8"),
    ],
)
def test_features_of_another_kind_are_refused(fitted: Probe, corpus: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"these features are not what the probe reads .*{message}"):
        fitted.predict(load_embeddings(corpus / name))


def test_other_preprocessing_is_refused(fitted: Probe, corpus: Path) -> None:
    found = load_embeddings(corpus / "mean.npy")
    meta = {**found.meta, "preprocess": {**found.meta["preprocess"], "crop_size": 16}}
    with pytest.raises(ConfigError, match="crop_size: 32 -> 16"):
        fitted.predict(Embeddings(found.features, found.index, meta))


def test_rows_of_another_width_are_refused(fitted: Probe) -> None:
    with pytest.raises(InputError, match="rows of 5 numbers must have 24"):
        fitted.predict(np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match="row 0 of the features is not finite"):
        fitted.predict(np.full((2, 24), np.nan, np.float32))


def test_videos_are_named_as_their_features_are(fitted: Probe, corpus: Path) -> None:
    model = VJEPA.from_pretrained(corpus / "model", device="cpu")
    paths = sorted((corpus / "clips").iterdir())
    named = fitted.classify(model, paths, top_k=2)
    shares = fitted.predict_proba(load_embeddings(corpus / "mean.npy"))
    for row, said in zip(shares, named, strict=True):
        assert dict(said) == pytest.approx(dict(zip(fitted.labels, row.tolist(), strict=True)), abs=1e-5)
        assert said[0][1] >= said[1][1]


def test_windows_are_named_by_the_mean_over_the_video(corpus: Path) -> None:
    windows = load_embeddings(corpus / "windows.npy")
    videos = sorted({entry["id"] for entry in windows.index})
    probe = Probe.fit(windows, ["ab"[videos.index(entry["id"]) % 2] for entry in windows.index], C=1.0)
    model = VJEPA.from_pretrained(corpus / "model", device="cpu")
    rows = [number for number, entry in enumerate(windows.index) if entry["id"] == videos[3]]
    expected = probe.predict_proba(windows)[rows].mean(0)
    named = dict(probe.classify(model, videos[3])[0])
    assert [named[label] for label in probe.labels] == pytest.approx(expected.tolist(), abs=1e-5)


def test_another_model_is_refused(fitted: Probe, corpus: Path) -> None:
    with pytest.raises(ConfigError, match="and .*other is another model; load that one, or fit a probe to this"):
        fitted.classify(VJEPA.from_pretrained(corpus / "other", device="cpu"), corpus / "clips" / "0.mp4")
    with pytest.raises(ConfigError, match="the model was not loaded from files"):
        fitted.classify(VJEPA.untrained(VJEPA.from_pretrained(corpus / "model").config), corpus / "clips" / "0.mp4")


def test_a_damaged_video_is_an_error_or_an_empty_list(fitted: Probe, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    model = VJEPA.from_pretrained(corpus / "model", device="cpu")
    both = [tmp_path / "bad.mp4", corpus / "clips" / "0.mp4"]
    with pytest.raises(VideoDecodeError, match="bad.mp4"):
        fitted.classify(model, both)
    first, second = fitted.classify(model, both, on_error="skip")
    assert first == [] and len(second) == 2


def test_an_attentive_probe_reads_tokens_and_says_what_its_network_does(corpus: Path) -> None:
    torch.manual_seed(0)
    network = AttentiveProbe(ProbeConfig(embed_dim=24, num_classes=3, num_heads=4)).eval()
    probe, tokens = Probe(network, ("a", "b", "c")), load_embeddings(corpus / "tokens.npy")
    with torch.no_grad():
        expected = network(torch.from_numpy(tokens.features).flatten(1, -2)).softmax(1).numpy()
    np.testing.assert_allclose(probe.predict_proba(tokens), expected, atol=1e-6)
    named = probe.classify(VJEPA.from_pretrained(corpus / "model", device="cpu"), corpus / "clips" / "0.mp4", top_k=1)
    assert named[0][0][0] == probe.predict(tokens)[0]
    with pytest.raises(InputError, match=r"features of shape \(8, 24\) must be tokens"):
        probe.predict(load_embeddings(corpus / "mean.npy"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: Probe.fit(rows, ["a"] * 60), "there is one class only"),
        (lambda rows: Probe.fit(rows, ["a", "b"]), "2 labels must be as many as the 60 rows"),
        (lambda rows: Probe.fit(rows, ["a", "b"] * 30, groups=[1]), "1 groups must be as many as the 60 rows"),
        (lambda rows: Probe.fit(rows, ["a", "b"] * 30, kind="regression"), "labels must be numbers"),
        (lambda rows: Probe.fit(rows, ["a", "b"] * 30, kind="tree"), "kind='tree' must be one of linear, knn"),
        (lambda rows: Probe.fit(rows, [0.5, 1.5] * 30), "is a number, not a class"),
        (lambda rows: Probe.fit(rows, [2.0] * 60, kind="regression"), "all labels are 2, so there is nothing to fit"),
        (lambda rows: Probe.fit(rows, ["a", "b"] * 30, C=1.0).score(rows, ["c"] * 60), "labels are unknown .* 'c'"),
        (lambda rows: Probe.fit(rows * 0 + 1, ["a", "b"] * 30), "the same in every row"),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        call(rows_of()[0])


def test_shuffled_labels_score_chance() -> None:
    rows, targets = rows_of(400, classes=4)
    shuffled = np.random.default_rng(1).permutation(targets)
    found = Probe.fit(rows[:200], shuffled[:200].tolist()).score(rows[200:], shuffled[200:].tolist())
    low, high = found.intervals["accuracy"]
    assert low <= 0.25 <= high


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_do_not_fit_or_are_damaged_name_the_file(kind: Any, tmp_path: Path) -> None:
    rows, targets = rows_of()
    Probe.fit(rows, labels_for(kind, targets), kind=kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "probe": {**config["probe"], "embed_dim": 7}}))
    with pytest.raises(WeightsError, match="must have shape"):
        Probe.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Probe.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "forest"}, "kind='forest' must be one of linear, knn, attentive, regression"),
        ({"labels": ["a"]}, "1 labels must be as many as num_classes=3"),
        ({"features": {"settings": 5}}, r"features\.settings=5 must be an object"),
        ({"model": "vjepa"}, "model='vjepa' must be an object"),
        ({"scores": []}, r"scores=\[\] must be an object"),
        ({"probe": {"embed_dim": 6, "num_classes": 3, "layers": [1]}}, "unknown key"),
    ],
)
def test_a_configuration_that_is_not_valid_says_what(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows, targets = rows_of()
    Probe.fit(rows, labels_for("linear", targets)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        Probe.from_pretrained(tmp_path)
