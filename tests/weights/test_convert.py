"""Official checkpoints become model directories, tensor for tensor, and nothing disappears unmentioned."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import DIRECTORY, TOLERANCE, load_golden, model_config
from pickling import in_this_process
from safetensors.torch import save_file

from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.config.registry import KNOWN_MODELS
from vjepa_sdk.errors import ConfigError, InputError, OutputError, WeightsError
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.models.attentive_probe import ProbeConfig
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights.convert import ConversionReport, convert, official_state
from vjepa_sdk.weights.directory import load_model_directory
from vjepa_sdk.weights.official_layout import ARCHITECTURES, recognise

CASES = ("vjepa1_tiny", "vjepa2_tiny", "ijepa_tiny", "vjepa21_tiny", "vjepa21_tiny_distilled")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ConversionReport]:
    root = tmp_path_factory.mktemp("converted")
    with in_this_process():
        return {name: convert(DIRECTORY / f"{name}.pth.tar", root / name, arch=model_config(name)) for name in CASES}


@pytest.fixture
def in_process() -> Iterator[None]:
    with in_this_process():
        yield


def test_the_child_process_gives_the_same_directory(converted: Mapping[str, ConversionReport], tmp_path: Path) -> None:
    name = "vjepa21_tiny_distilled"
    report = convert(DIRECTORY / f"{name}.pth.tar", tmp_path / "out", arch=model_config(name))
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (report.out / file).read_bytes() == (converted[name].out / file).read_bytes()
    assert (report.mapped, report.dropped) == (converted[name].mapped, converted[name].dropped)


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the child process works elsewhere, and tempfile of Python 3.11 returns relative paths as they are
    name = "vjepa2_tiny"
    (tmp_path / "models").mkdir()
    (tmp_path / "official.pth.tar").write_bytes((DIRECTORY / f"{name}.pth.tar").read_bytes())
    monkeypatch.chdir(tmp_path)
    convert(Path("official.pth.tar"), Path("models/mine"), arch=model_config(name))
    assert VJEPA.from_pretrained("models/mine", device="cpu").config == model_config(name)


@pytest.mark.parametrize("name", CASES)
def test_converted_models_compute_the_official_features(converted: Mapping[str, ConversionReport], name: str) -> None:
    golden = load_golden(name)
    for weights, key in (("target", "features"), ("context", "encoder_features")):
        model = VJEPA.from_pretrained(converted[name].out, weights=weights, device="cpu")
        torch.testing.assert_close(model.forward_features(golden.clips), golden.tensors[key], **TOLERANCE)
    given = golden.tensors
    predicted = model.predict(golden.clips, context=given["context_index.0"], target=given["target_index.0"])
    torch.testing.assert_close(predicted, given["prediction.0"], **TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_official_to_ours_to_official_is_bitwise(converted: Mapping[str, ConversionReport], name: str) -> None:
    checkpoint = torch.load(DIRECTORY / f"{name}.pth.tar", weights_only=True)
    state = official_state(converted[name].out)
    assert set(state) == {key for key, value in checkpoint.items() if isinstance(value, dict) and value}
    for key, tensors in state.items():
        assert tensors.keys() == checkpoint[key].keys()
        assert all(torch.equal(value, checkpoint[key][plain]) for plain, value in tensors.items())


@pytest.mark.parametrize("name", CASES)
def test_the_report_accounts_for_every_entry_of_the_file(converted: Mapping[str, ConversionReport], name: str) -> None:
    report, checkpoint = converted[name], torch.load(DIRECTORY / f"{name}.pth.tar", weights_only=True)
    networks = {"encoder", "predictor", "target_encoder", "ema_encoder"}
    tensors = {f"{key}/{plain}" for key in networks & checkpoint.keys() for plain in checkpoint[key]}
    assert {place for places in report.mapped.values() for place in places} == tensors
    assert set(report.dropped) == checkpoint.keys() - networks
    assert report.dropped["opt"] == "not weights (dict)"


def test_the_directory_records_where_it_comes_from(converted: Mapping[str, ConversionReport]) -> None:
    data = json.loads((converted["vjepa2_tiny"].out / "config.json").read_text())
    assert data["provenance"]["source"] == "vjepa2_tiny.pth.tar"
    assert len(data["provenance"]["sha256"]) == 64
    assert data["encoder_weights"] == "target"


def _checkpoint(path: Path, **networks: Mapping[str, torch.Tensor]) -> Path:
    torch.save(networks, path)
    return path


def _golden_checkpoint() -> dict[str, Any]:
    return torch.load(DIRECTORY / "vjepa2_tiny.pth.tar", weights_only=True)


@pytest.mark.usefixtures("in_process")
def test_left_over_tables_and_foreign_predictors_are_dropped_and_named(tmp_path: Path) -> None:
    full = _golden_checkpoint()
    encoder = full["encoder"] | {"module.backbone.pos_embed": torch.zeros(1, 9, 48)}
    predictor = full["predictor"] | {"module.action_encoder.weight": torch.zeros(4, 7)}
    path = _checkpoint(tmp_path / "ac.pt", encoder=encoder, predictor=predictor)
    report = convert(path, tmp_path / "out", arch=model_config("vjepa2_tiny"))
    assert "left-over table" in report.dropped["encoder/module.backbone.pos_embed"]
    assert "action-conditioned predictor" in report.dropped["predictor/module.action_encoder.weight"]
    loaded = load_model_directory(tmp_path / "out", device=CPU)
    assert (loaded.predictor, loaded.encoder_weights) == (None, "context")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"module.backbone.norm.bias": None},
            "1 missing .*encoder/module.backbone.norm.bias|1 missing .*encoder/norm.bias",
        ),
        ({"module.backbone.cls_token": torch.zeros(1, 1, 48)}, "1 unexpected .*encoder/module.backbone.cls_token"),
        (
            {"module.backbone.norm.bias": torch.zeros(47)},
            r"norm.bias' must have shape \(48,\), got \(47,\); name the right",
        ),
        ({"module.backbone.norm.bias": torch.full((48,), float("nan"))}, "holds NaN or infinity"),
        ({"module.norm.bias": torch.zeros(48)}, "are one; this is no official checkpoint"),
        ({"module.backbone.norm.bias": torch.zeros(48, dtype=torch.int64)}, "must hold floats .*, got 'I64'"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "twice", "integers"],
)
@pytest.mark.usefixtures("in_process")
def test_a_checkpoint_that_does_not_fit_leaves_no_output(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    encoder = {k: v for k, v in (_golden_checkpoint()["encoder"] | change).items() if v is not None}
    path = _checkpoint(tmp_path / "bad.pt", encoder=encoder)
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out", arch=model_config("vjepa2_tiny"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.pt"]


def test_an_old_style_file_is_read_too(tmp_path: Path) -> None:
    torch.save({"encoder": _golden_checkpoint()["encoder"]}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    report = convert(tmp_path / "old.pt", tmp_path / "out", arch=model_config("vjepa2_tiny"))
    assert len(report.mapped) == 40


@pytest.mark.usefixtures("in_process")
def test_a_file_that_cannot_tell_asks_for_the_architecture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not tell its number of heads"):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "out")


@pytest.mark.usefixtures("in_process")
def test_an_unknown_architecture_lists_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown architecture 'vjepa2-vitl'; did you mean 'vjepa2-vitl16' or"):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "out", arch="vjepa2-vitl")


def test_output_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.pt", "no checkpoint that torch.save wrote"),
        ("st.pt", "by its content"),
    ],
)
def test_sources_that_are_no_checkpoint_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    save_file({"a": torch.zeros(1)}, tmp_path / "st.pt")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / name, tmp_path / "out")


def test_a_source_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pt: no such file or directory"):
        convert(tmp_path / "nowhere.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"weights": "target"}, "weights='target' applies to layout='transformers' alone")],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "out", **options)


def _official_shapes(config: ModelConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        networks = (VideoEncoder(config), Predictor(config))
    shapes = [{name: tuple(value.shape) for name, value in network.state_dict().items()} for network in networks]
    if config.is_image_model:
        weight = shapes[0]["patch_embed.proj.weight"]
        shapes[0]["patch_embed.proj.weight"] = (*weight[:2], *weight[3:])
        shapes[1]["mask_token"] = shapes[1].pop("mask_tokens.0")
    return shapes[0], shapes[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_models_are_recognised_by_their_shapes(name: str) -> None:
    encoder, predictor = _official_shapes(ARCHITECTURES[name])
    if name.startswith("vjepa2-vitg16"):
        with pytest.raises(ConfigError, match="could be vjepa2-vitg16 or vjepa2-vitg16-384, .* pass arch="):
            recognise(encoder, predictor)
    else:
        found, config = recognise(encoder, predictor)
        assert name in found.split(" or ")
        assert config == ARCHITECTURES[name]


PREDICTOR_PARAMETERS = {
    "vjepa-vitl16": 22_082_944, "vjepa-vith16": 22_279_808, "vjepa2-vitl16": 22_086_016, "vjepa2-vith16": 22_282_880,
    "vjepa2-vitg16": 22_381_312, "vjepa2.1-vitb16": 22_874_752, "vjepa2.1-vitl16": 22_973_056,
    "vjepa2.1-vitg16": 55_400_704, "vjepa2.1-vitgigantic16": 59_433_472, "ijepa-vith14": 22_279_424,
    "ijepa-vitg16-22k": 29_475_712,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_models_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        encoder, predictor = VideoEncoder(ARCHITECTURES[name]), Predictor(ARCHITECTURES[name])
    assert sum(value.numel() for value in encoder.parameters()) == KNOWN_MODELS[name].parameters
    assert sum(value.numel() for value in predictor.parameters()) == PREDICTOR_PARAMETERS.get(
        name, sum(value.numel() for value in predictor.parameters())
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_and_the_list_of_models_agree(name: str) -> None:
    config, info = ARCHITECTURES[name], KNOWN_MODELS[name]
    assert (config.family, config.img_size, config.num_frames, config.embed_dim) == (
        info.family, info.resolution, info.num_frames, info.embed_dim,
    )  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_a_model_file_takes_no_probe_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file holds a model"):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "out", arch=ProbeConfig(embed_dim=16, num_classes=2))


@pytest.mark.usefixtures("in_process")
def test_a_wrong_architecture_names_what_does_not_fit(tmp_path: Path) -> None:
    config = dataclasses.replace(model_config("vjepa2_tiny"), depth=4)
    with pytest.raises(WeightsError, match="24 missing .*blocks.3.*name the right architecture with arch="):
        convert(DIRECTORY / "vjepa2_tiny.pth.tar", tmp_path / "out", arch=config)


def test_systems_that_allow_no_links_convert_too(
    in_process: None, converted: Mapping[str, ConversionReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    name = "vjepa2_tiny"
    report = convert(DIRECTORY / f"{name}.pth.tar", tmp_path / "out", arch=model_config(name))
    file = "model.safetensors"
    assert (report.out / file).read_bytes() == (converted[name].out / file).read_bytes()
