"""Official evaluations are repeated end to end, on rendered data in their layouts."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import VIDEO, save_tiny

from vjepa_sdk import Probe, ProbeReport, evaluate_probe, load_embeddings, predict_files, train_probe
from vjepa_sdk.cli import app
from vjepa_sdk.config.protocols import PROTOCOLS, ClipSet
from vjepa_sdk.downstream.evaluation import Evaluation
from vjepa_sdk.downstream.labelled_features import FeatureCache
from vjepa_sdk.downstream.rows import views_of
from vjepa_sdk.errors import ConfigError, OutputError, ResumeError, VideoDecodeError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.video.segments import SegmentLoader, VideoPart
from vjepa_sdk.weights.description import read_shape

NUM_TRAIN, NUM_TEST = 16, 6


def write_scene(path: Path, *, number: int, num_frames: int) -> Path:
    """Write noise that is brighter on its left for odd numbers, on its right for even ones."""
    rng = np.random.default_rng(number)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num_frames):
            frame = rng.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            half = slice(0, 32) if number % 2 else slice(32, 64)
            frame[:, half] += 150
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model, videos, and the two lists without headers that official evaluations read."""
    root = tmp_path_factory.mktemp("evaluation")
    save_tiny(root / "model")
    (root / "clips").mkdir()
    lines = []
    for number in range(NUM_TRAIN + NUM_TEST):
        write_scene(root / "clips" / f"{number:02d}.mp4", number=number, num_frames=24 + number % 4 * 50)
        lines.append(f"clips/{number:02d}.mp4 {number % 2}\n")
    (root / "train.csv").write_text("".join(lines[:NUM_TRAIN]))
    (root / "val.csv").write_text("".join(lines[NUM_TRAIN:]))
    (root / "bad.csv").write_text("".join([*lines[NUM_TRAIN:], "bad.mp4 1\n"]))
    (root / "bad.mp4").write_bytes(b"no video")
    return root


def repeat(corpus: Path, out: Path, **changes: Any) -> ProbeReport:
    common: dict[str, Any] = {
        "test_labels": corpus / "val.csv",
        "model": corpus / "model",
        "protocol": "vjepa2-ssv2",
        "epochs": 2,
        "batch_size": 8,
        "learning_rates": (1e-3,),
        "weight_decays": (0.1,),
        "augmented_passes": 1,
        "baseline": False,
        "num_workers": 0,
    }
    return train_probe(corpus / "train.csv", out=out, **{**common, **changes})


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "probe"
    repeat(corpus, out, augmented_passes=2, keep_cache=True)
    return out


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    return int(exit_.value.code or 0)


def probabilities(out: Path) -> dict[str, float]:
    return {row["path"]: float(row["probability"]) for row in csv.DictReader((out / "predictions.csv").open())}


def test_the_command_repeats_an_evaluation_beside_random_weights_and_says_how_it_differs(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ("--test-labels", corpus / "val.csv", "--model", corpus / "model", "--protocol", "vjepa2-ssv2")
    few = (
        "--epochs",
        2,
        "--augmented-passes",
        2,
        "--batch-size",
        8,
        "--random-inits",
        1,
        "--num-workers",
        0,
        "--select",
        "test",
    )
    assert run(monkeypatch, "probe", "train", corpus / "train.csv", "--out", tmp_path / "p", *options, *few) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert f"attentive probe on model, 2 classes, {NUM_TRAIN} train / {NUM_TEST} test videos" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:5]] == ["trained encoder", "random weights", "most frequent class"]
    assert "best-on-test" in printed.out
    assert "no number is published for this model on Something-Something v2" in printed.out
    assert "vjepa2-vitl16 73.7" in printed.out and "2 segments x 3 views of 16 frames every 4" in printed.out
    differences = next(line for line in lines if line.startswith("note: not as published"))
    for difference in (
        "clips in the middle of their segments",
        "pixels 32 instead of 256",
        "classes 2 instead of 174",
        "epochs 2 instead of 20",
        "batch 8 instead of 256",
        "heads 8 instead of 16",
    ):
        assert difference in differences
    assert "grid" not in differences and "passes" not in differences
    fitted = Probe.from_pretrained(tmp_path / "p").fitted
    assert len(fitted["grid"]) == 20 and fitted["depth"] == 4 and fitted["splits"]["val"] == 0
    assert (fitted["protocol"], fitted["cache"], fitted["augmented_passes"]) == ("vjepa2-ssv2", "tokens", 2)
    rows, row_bytes = NUM_TRAIN * 2 * 2 + NUM_TEST * 3 * 2, 8 * 2 * 2 * 24 * 2 * 2  # tokens of two networks, 16 bits
    assert f"{rows} rows of {row_bytes:,} bytes, {rows * row_bytes:,} bytes on disk" in caplog.text


def test_a_number_is_learnt_that_random_guesses_do_not_reach(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "p", epochs=24, augmented_passes=3, learning_rates=(3e-3,))
    assert report.scores.accuracy == 1.0


def test_cached_passes_and_streamed_ones_give_the_same_probe(corpus: Path, tmp_path: Path) -> None:
    cached = repeat(corpus, tmp_path / "a", augmented_passes=2)
    streamed = repeat(corpus, tmp_path / "b", cache="none", num_workers=1)
    assert streamed.num_train == cached.num_train == NUM_TRAIN
    one, other = (Probe.from_pretrained(tmp_path / name) for name in "ab")
    assert one.source.settings == other.source.settings
    for first, second in zip(one.probe.parameters(), other.probe.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=2e-3, rtol=0)  # what is cached has 16 bits
    assert probabilities(tmp_path / "a") == pytest.approx(probabilities(tmp_path / "b"), abs=2e-3)
    assert not (tmp_path / "a.cache").exists() and not (tmp_path / "b.cache").exists()


def test_streaming_compares_with_random_weights_too(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "p", cache="none", epochs=1, baseline=True, random_inits=1)
    assert [row.what for row in report.rows] == ["trained encoder", "random weights", "most frequent class"]
    assert "passes" not in str(report)


def test_the_cache_holds_passes_of_what_is_learnt_and_views_of_what_is_tested(corpus: Path, trained: Path) -> None:
    embeddings = load_embeddings(trained.with_name("probe.cache") / "features.npy")
    assert embeddings.features.dtype == np.float16
    views = views_of(embeddings)
    assert views.features.shape == (NUM_TRAIN * 2 + NUM_TEST * 3, 2, 8, 2, 2, 24)
    counts = {Path(entry["path"]).stem: 0 for entry in views.index}
    for entry in views.index:
        counts[Path(entry["path"]).stem] += 1
    assert sorted(counts.values()) == [2] * NUM_TRAIN + [3] * NUM_TEST
    shape = read_shape(corpus / "model")
    load = SegmentLoader.for_model(shape.config, shape.preprocess, PROTOCOLS["vjepa2-ssv2"].clips)
    path = corpus / "clips" / "20.mp4"
    clips = list(load.fixed_views(VideoPart(video=path, id="20")))
    rows = [number for number, entry in enumerate(embeddings.index) if entry["path"] == str(path)]
    assert [embeddings.index[row]["frames"] for row in rows] == [about["frames"] for _, about in clips]


def test_a_probe_says_the_mean_of_its_softmax_over_views_of_all_segments(corpus: Path, trained: Path) -> None:
    """Take the official words literally, from the public parts alone."""
    from vjepa_sdk import VJEPA

    model, probe = VJEPA.from_pretrained(corpus / "model", device="cpu"), Probe.from_pretrained(trained)
    shape = read_shape(corpus / "model")
    load = SegmentLoader.for_model(shape.config, shape.preprocess, PROTOCOLS["vjepa2-ssv2"].clips)
    said = predict_files(trained, corpus / "clips" / "17.mp4", num_workers=0).predictions[0]
    clips = [pixels for pixels, _ in load.fixed_views(VideoPart(video=corpus / "clips" / "17.mp4", id=""))]
    shares = []
    for view in range(3):
        segments = torch.from_numpy(np.stack(clips[2 * view : 2 * view + 2]))
        tokens = model.embed_clips(segments, pooling="none").flatten(1, 3)  # [2, N, D]
        logits = probe.probe(torch.cat([tokens[0], tokens[1]])[None])
        shares.append(logits.softmax(-1)[0].detach().numpy())
    expected = np.mean(shares, axis=0)
    assert dict(said.labels) == pytest.approx({"0": expected[0], "1": expected[1]}, abs=1e-5)
    named = probe.classify(model, str(corpus / "clips" / "17.mp4"))[0]
    assert dict(named) == pytest.approx(dict(said.labels), abs=1e-5)
    assert probabilities(trained)[str(corpus / "clips" / "17.mp4")] == pytest.approx(said.labels[0][1], abs=2e-3)


def test_a_probe_that_is_chosen_by_videos_to_learn_from_keeps_them_out(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "p", learning_rates=(1e-3, 3e-3))
    assert report.fitted["splits"] == {"train": 12, "val": 4, "test": NUM_TEST}
    assert any("chosen on videos kept out of train instead of on the test" in note for note in report.notes)


def test_a_damaged_video_is_left_out_of_a_cache_and_ends_a_stream(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "a", test_labels=corpus / "bad.csv")
    assert report.num_test == NUM_TEST and [Path(each["path"]).name for each in report.failed] == ["bad.mp4"]
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4: .*; leave it out of the labels"):
        repeat(corpus, tmp_path / "b", test_labels=corpus / "bad.csv", cache="none", epochs=1)


@pytest.fixture
def official(corpus: Path, tmp_path: Path) -> Iterator[Path]:
    """Write a probe as `vjepa convert` does, which names neither its classes nor its encoder."""
    torch.manual_seed(0)
    probe = AttentiveProbe(ProbeConfig(embed_dim=VIDEO.embed_dim, num_classes=2, num_heads=4, depth=4))
    yield Probe(probe.eval(), (), {"made_by": "vjepa convert"}).save_pretrained(tmp_path / "official")


def test_an_official_probe_is_tested_by_its_protocol(
    corpus: Path, official: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--protocol", "vjepa2-ssv2", "--model", corpus / "model", "--num-workers", 1, "--json")
    assert run(monkeypatch, "probe", "eval", official, corpus / "bad.csv", *options) == 3
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["num_test"] == NUM_TEST and "bad.mp4" in printed.err
    assert any("pixels 32 instead of 256; classes 2 instead of 174" in note for note in found["notes"])
    assert not any("epochs" in note.split(":")[0] for note in found["notes"])
    with pytest.raises(VideoDecodeError, match=r"1 of 7 clips could not be decoded, such as .*bad\.mp4"):
        evaluate_probe(
            official,
            corpus / "bad.csv",
            protocol="vjepa2-ssv2",
            model=corpus / "model",
            num_workers=0,
            max_failures=0.1,
        )


class _Garbled(SegmentLoader):
    """Send what is no clip for one of the videos."""

    def fixed_views(self, part: VideoPart) -> Iterator[Any]:
        for number, (pixels, about) in enumerate(super().fixed_views(part)):
            yield (pixels[:1] if number == 2 and str(part.video).endswith("17.mp4") else pixels), about


def test_a_decoding_process_that_sends_something_else_costs_its_own_video_alone(
    corpus: Path, official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vjepa_sdk.video.segments.SegmentLoader.for_model", classmethod(_garbled))
    common: dict[str, Any] = {"protocol": "vjepa2-ssv2", "model": corpus / "model", "num_workers": 0}
    garbled = evaluate_probe(official, corpus / "val.csv", **common)
    assert [Path(each["path"]).name for each in garbled.failed] == ["17.mp4"]
    assert "sent something other than its clips" in garbled.failed[0]["reason"]
    assert garbled.num_test == NUM_TEST - 1


def _garbled(cls: type[SegmentLoader], config: Any, preprocess: Any, clip_set: ClipSet, **options: Any) -> _Garbled:
    return _Garbled(preprocess=preprocess, clip_set=clip_set, **options)


def test_numbers_of_official_lists_stand_for_the_classes_of_a_probe_with_names(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    probe = AttentiveProbe(ProbeConfig(embed_dim=VIDEO.embed_dim, num_classes=2, num_heads=4))
    named, plain = Probe(probe.eval(), ("right", "left")), Probe(probe.eval(), ())
    common: dict[str, Any] = {"protocol": "vjepa2-ssv2", "model": corpus / "model", "num_workers": 0}
    one, other = (evaluate_probe(each, corpus / "val.csv", **common) for each in (named, plain))
    assert one.scores.metrics == other.scores.metrics
    assert one.scores.labels == ("right", "left")


def test_drawn_windows_change_what_is_said_and_are_the_same_for_a_seed(corpus: Path, official: Path) -> None:
    common: dict[str, Any] = {"protocol": "vjepa2-ssv2", "model": corpus / "model", "num_workers": 0}

    def loss(**changes: Any) -> float:
        return evaluate_probe(official, corpus / "val.csv", **common, **changes).scores.metrics["log_loss"]

    drawn = loss(official_sampling=True)
    assert drawn == loss(official_sampling=True)
    assert len({drawn, loss(official_sampling=True, seed=1), loss()}) == 3


def test_a_probe_is_not_tested_by_another_protocol_than_its_own(corpus: Path, trained: Path) -> None:
    with pytest.raises(ConfigError, match="the protocol is not that of the probe"):
        evaluate_probe(trained, corpus / "val.csv", protocol="vjepa2-k400", num_workers=0)
    with pytest.raises(ConfigError, match="features and protocol='vjepa2-ssv2' exclude each other"):
        evaluate_probe(trained, corpus / "val.csv", protocol="vjepa2-ssv2", features=corpus / "feats.npy")
    with pytest.raises(ConfigError, match="these rows are clips of a protocol"):
        Probe.from_pretrained(trained).predict(load_embeddings(trained.with_name("probe.cache") / "features.npy"))
    with pytest.raises(ConfigError, match="reads the clips of a protocol, which has no windows"):
        predict_files(trained, corpus / "clips" / "00.mp4", window_seconds=1.0)


def test_a_file_of_cached_tokens_scores_as_the_videos_do(corpus: Path, trained: Path) -> None:
    cached = trained.with_name("probe.cache") / "features.npy"
    one = evaluate_probe(trained, corpus / "val.csv", features=cached)
    other = evaluate_probe(trained, corpus / "val.csv", num_workers=0)
    assert one.scores.metrics["log_loss"] == pytest.approx(other.scores.metrics["log_loss"], abs=1e-3)


def test_a_cache_of_other_passes_is_refused_or_made_anew(corpus: Path, tmp_path: Path, trained: Path) -> None:
    repeat(corpus, tmp_path / "p", keep_cache=True)
    (tmp_path / "p.cache").rename(tmp_path / "q.cache")
    with pytest.raises((ResumeError, OutputError), match="augmentation"):
        repeat(corpus, tmp_path / "q", seed=1)
    assert repeat(corpus, tmp_path / "q", seed=1, overwrite=True).num_test == NUM_TEST


def test_a_run_that_is_stopped_goes_on_and_ends_as_an_undisturbed_one(corpus: Path, tmp_path: Path) -> None:
    repeat(corpus, tmp_path / "whole", augmented_passes=2, num_workers=1, keep_cache=True)
    command = [sys.executable, "-m", "vjepa_sdk", "probe", "train", str(corpus / "train.csv"), "--out", "p", "-q"]
    command += ["--test-labels", str(corpus / "val.csv"), "--model", str(corpus / "model"), "--protocol", "vjepa2-ssv2"]
    command += ["--epochs", "2", "--batch-size", "8", "--learning-rates", "1e-3", "--weight-decays", "0.1"]
    command += ["--no-baseline", "--num-workers", "1", "--keep-cache"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    work = tmp_path / "p.cache" / "features.npy.work"
    while process.poll() is None and not (work / "plan.json").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 75, error
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    one, other = (load_embeddings(tmp_path / f"{name}.cache" / "features.npy") for name in ("whole", "p"))
    assert np.array_equal(one.features, other.features) and one.index == other.index
    assert probabilities(tmp_path / "whole") == probabilities(tmp_path / "p")


def test_too_little_room_is_said_before_anything_is_decoded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vjepa_sdk.inference.embed import job

    usage = job.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    rows = NUM_TRAIN * 2 + NUM_TEST * 3 * 2
    needed = 2 * rows * 8 * 4 * 24 * 2  # as parts and as a file, of 16 bits
    with pytest.raises(OutputError, match=f"needs {needed:,} bytes while it is made, 1,000 are free"):
        repeat(corpus, tmp_path / "p")
    assert not list(FeatureCache(tmp_path / "p.cache").directory.glob("features.npy"))


def test_four_blocks_are_read_where_the_protocol_reads_four(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "p", protocol="vjepa2-diving48", epochs=1)
    assert Probe.from_pretrained(tmp_path / "p").source.settings["layers"] == 2  # the model has no more
    assert any("blocks of our choice, none are listed for a depth of 2" in note for note in report.notes)
    assert any("epochs 1 instead of 100" in note for note in report.notes)


def test_the_first_protocol_has_one_probe_of_depth_one_that_learns_from_all(corpus: Path, tmp_path: Path) -> None:
    report = repeat(corpus, tmp_path / "p", protocol="vjepa-ssv2", learning_rates=None, weight_decays=None)
    assert report.fitted["splits"] == {"train": NUM_TRAIN, "val": 0, "test": NUM_TEST}
    probe = Probe.from_pretrained(tmp_path / "p")
    config = probe.probe.config
    assert isinstance(config, ProbeConfig)
    assert (config.depth, config.self_attention, config.num_heads) == (1, "after", VIDEO.num_heads)
    assert (probe.fitted["learning_rate"], probe.fitted["weight_decay"]) == (1e-3, 0.01)


def test_images_in_directories_of_classes_are_repeated_to_clips(corpus: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label in ("left", "right"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 90, (40, 60, 3), dtype=np.uint8)
                image[:, :30] += 150 * (label == "left")
                image[:, 30:] += 150 * (label == "right")
                Image.fromarray(image).save(tmp_path / split / label / f"{number:03d}.png")
    report = train_probe(
        tmp_path / "train", test_labels=tmp_path / "val", out=tmp_path / "p", model=corpus / "model", epochs=6,
        protocol="vjepa2-in1k", batch_size=8, baseline=False, num_workers=0, select="test",
    )  # fmt: skip
    assert (report.num_train, report.num_test) == (16, 6)
    assert len(report.fitted["grid"]) == 21
    assert report.fitted["grid"][0]["warmup_epochs"] == 5 and report.fitted["grid"][-1]["final_decay"] == 0.0
    again = evaluate_probe(tmp_path / "p", tmp_path / "val", num_workers=0)
    assert again.scores.accuracy == report.scores.accuracy
    said = predict_files(tmp_path / "p", tmp_path / "val", num_workers=0).predictions
    assert len(said) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "vjepa2-ssv"}, "unknown protocol 'vjepa2-ssv'; did you mean 'vjepa2-ssv2'"),
        ({"kind": "linear"}, "kind='linear': protocol='vjepa2-ssv2' is of attentive probes"),
        ({"pooling": "mean"}, "pooling=mean and protocol='vjepa2-ssv2' exclude each other"),
        ({"fps": 4.0}, r"fps=4\.0 and protocol='vjepa2-ssv2' exclude each other"),
        ({"augmented_passes": 0}, "augmented_passes=0 must be at least 1"),
        ({"protocol": "simple", "cache": "none"}, "cache='none' is for official protocols"),
        ({"learning_rates": (0.0,)}, r"learning_rates=\(0\.0,\) must be above 0"),
    ],
)
def test_options_that_exclude_each_other_are_named(
    corpus: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        repeat(corpus, tmp_path / "p", **options)


def test_lists_that_share_a_clip_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 clips are in both lists, such as"):
        repeat(corpus, tmp_path / "p", test_labels=corpus / "train.csv")
    (corpus / "split.csv").write_text("path,label,split\nclips/00.mp4,0,train\n")
    with pytest.raises(ConfigError, match="with a list of the test there are no splits"):
        repeat(corpus, tmp_path / "p", test_labels=corpus / "split.csv")


def test_a_list_of_the_test_serves_other_probes_too(corpus: Path, tmp_path: Path) -> None:
    report = train_probe(
        corpus / "train.csv", test_labels=corpus / "val.csv", out=tmp_path / "p", model=corpus / "model",
        baseline=False, num_workers=0,
    )  # fmt: skip
    assert (report.kind, report.num_train, report.num_test) == ("linear", NUM_TRAIN, NUM_TEST)
    assert {row["path"] for row in csv.DictReader((tmp_path / "p" / "predictions.csv").open())} == {
        str(corpus / "clips" / f"{number}.mp4") for number in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)
    }


def test_published_numbers_stand_beside_the_models_that_they_are_of() -> None:
    evaluation = Evaluation.of("vjepa2-ssv2")
    assert evaluation is not None
    for name in ("vjepa2-vitl16", "facebook/vjepa2-vitl-fpc64-256", "vjepa2-vitl16-ssv2"):
        row = evaluation.published_row(name)
        assert row is not None and row.what == "published, vjepa2-vitl16" and row.metrics == {"accuracy": 0.737}
    assert evaluation.published_row("./mine") is None
    assert evaluation.notes("vjepa2-vitl16")[0].startswith(
        "published: 73.7 on Something-Something v2, arXiv 2506.09985"
    )


def test_help_lists_protocols_with_their_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "probe", "train", "--protocol", "help") == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name}: " in printed for name in PROTOCOLS)
    assert "vjepa2-vitg16-384 77.3" in printed


def test_what_a_probe_says_of_its_clips_is_checked_when_it_is_loaded(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for path in trained.iterdir():
        (tmp_path / "p" / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    config["features"]["settings"]["clip_set"]["segments"] = 10**9
    (tmp_path / "p" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="segments=1000000000"):
        Probe.from_pretrained(tmp_path / "p").source.clip_set  # noqa: B018
    assert Probe.from_pretrained(trained).source.clip_set == ClipSet(**PROTOCOLS["vjepa2-ssv2"].clips.to_dict())
