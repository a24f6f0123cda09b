"""Model directories load strictly: what does not fit is named, with both shapes and the remedy."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors.torch import load_file, save_file

from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.config.registry import KNOWN_MODELS, list_models
from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.hub.locate import locate_model
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights.directory import load_model_directory, save_model_directory
from vjepa_sdk.weights.tensors import read_headers

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    img_size=32, num_frames=4, embed_dim=24, depth=2, num_heads=2, predictor_embed_dim=12, predictor_depth=1,
    predictor_num_heads=2,
)  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return _save(tmp_path / "model")


def _save(directory: Path, **settings: Any) -> Path:
    modules = {"encoder": VideoEncoder(CONFIG), "context_encoder": VideoEncoder(CONFIG), "predictor": Predictor(CONFIG)}
    options = {"provenance": {}, "card": "", "encoder_weights": "target", **settings}
    return save_model_directory(
        directory, config=CONFIG, preprocess=PreprocessConfig.for_crop(32), modules=modules, **options
    )


def _edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_tensors(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = directory / "model.safetensors"
    tensors = {name: value for name, value in (load_file(path) | changes).items() if value is not None}
    save_file(tensors, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_the_dtype_they_are_stored_in(dtype: torch.dtype, tmp_path: Path) -> None:
    encoder = VideoEncoder(CONFIG).to(dtype)
    save_model_directory(
        tmp_path, config=CONFIG, preprocess=PreprocessConfig.for_crop(32), modules={"encoder": encoder},
        encoder_weights="context", provenance={}, card="",
    )  # fmt: skip
    loaded = load_model_directory(tmp_path, device=CPU)
    assert loaded.predictor is None
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], value)
        assert loaded.encoder.state_dict()[name].dtype == dtype


def test_either_encoder_can_be_chosen(directory: Path) -> None:
    stored = load_file(directory / "model.safetensors")
    for weights, prefix in (("target", "encoder"), ("context", "context_encoder"), (None, "encoder")):
        loaded = load_model_directory(directory, weights=weights, device=CPU)
        assert torch.equal(loaded.encoder.patch_embed.proj.weight, stored[f"{prefix}.patch_embed.proj.weight"])
        assert loaded.encoder_weights == (weights or "target")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.norm.bias": torch.zeros(25)},
            r"tensor 'encoder.norm.bias' must have shape \(24,\), got \(25,\); correct",
        ),
        ({"encoder.norm.bias": None}, r"1 missing \['encoder.norm.bias'\]"),
        ({"extra": torch.zeros(1)}, r"1 unexpected \['extra'\]"),
        ({"context_encoder.norm.bias": torch.zeros(25)}, "tensor 'context_encoder.norm.bias' must have shape"),
        ({"encoder.norm.bias": torch.full((24,), torch.inf)}, "holds NaN or infinity"),
        ({"encoder.norm.bias": torch.zeros(24, dtype=torch.int32)}, "must hold floats .*, got 'I32'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    changes: dict[str, torch.Tensor | None], message: str, directory: Path
) -> None:
    _edit_tensors(directory, changes)
    with pytest.raises(WeightsError, match=message):
        load_model_directory(directory, device=CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"embed_dim": 10**400}}, "embed_dim=10+ must lie between"),
        ({"model": {"mlp_ratio": 10**400}}, "mlp_ratio=10+ must be a number"),
        ({"model": {"depth": "24"}}, "depth='24' must be an integer"),
        ({"model": {"embed_dim": 16384, "num_heads": 128, "depth": 256}}, "at most 8,000,000,000 are allowed"),
        ({"model": {"_target_": "os.system"}}, "unknown key 'model._target_'"),
        ({"auto_map": {}}, "unknown key 'auto_map'"),
        ({"compute_dtype": []}, "compute_dtype=.* must be one of float32"),
        ({"format_version": 9}, "format_version=9 must be 1"),
        ({"encoder_weights": "best"}, "encoder_weights='best' must be"),
        ({"model": []}, "model=.* must be an object"),
        ({"model_type": "llama"}, "model_type='llama' must be one of vjepa2, ijepa"),
    ],
)
def test_a_configuration_that_is_not_valid_says_what(changes: dict[str, Any], message: str, directory: Path) -> None:
    _edit_config(directory, **changes)
    with pytest.raises(ConfigError, match=message):
        load_model_directory(directory, device=CPU)


def test_a_sin_cos_table_of_any_claimed_size_is_not_built(directory: Path) -> None:
    model = {"position": "sincos", "img_size": 4096, "num_frames": 4096, "tubelet_size": 1, "patch_size": 1}
    _edit_config(directory, model={**json.loads((directory / "config.json").read_text())["model"], **model})
    with pytest.raises(WeightsError, match="2 missing|3 missing"):
        load_model_directory(directory, device=CPU)


def test_a_file_in_place_of_a_directory_names_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "vitl.pt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'weights/vitl.pt' is a file; .* run `vjepa convert`"):
        locate_model("weights/vitl.pt", HubOptions())
    with pytest.raises(ConfigError, match="is a file; .* run `vjepa convert`"):
        locate_model("./weights/vitl.pt", HubOptions())


def test_a_revision_of_a_directory_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent.parent)
    for place in (directory, str(directory), f"{directory.parent.name}/model", "vjepa-tiny"):
        with pytest.raises(ConfigError, match="is a directory here, which has no revision='v1'; leave revision out"):
            locate_model(place, HubOptions(revision="v1"))


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match="unknown model 'vjepa2-vitl'; did you mean 'vjepa2-vitl16' or "):
        locate_model("vjepa2-vitl", HubOptions())
    with pytest.raises(ConfigError, match="unknown model 'qqq'; available: vjepa-tiny, "):
        locate_model("qqq", HubOptions())


def test_a_model_published_only_as_a_file_is_named_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"needs https://dl\S+/vitl16.pth.tar \(about 5.13 GB\); load it once with"):
        locate_model("vjepa-vitl16", HubOptions(cache_dir=tmp_path))


def test_a_non_commercial_licence_is_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        load_model_directory(_save(tmp_path / "free", provenance={"licence": "MIT"}), device=CPU)
        assert not caplog.records
        load_model_directory(_save(tmp_path / "nc", provenance={"licence": "CC-BY-NC-4.0"}), device=CPU)
    assert "licensed CC-BY-NC-4.0, for non-commercial use only" in caplog.text


@pytest.mark.parametrize("name", ["ijepa-vith14", "facebook/ijepa_vith14_1k"])
def test_a_non_commercial_licence_is_stated_before_a_download(
    name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"), pytest.raises(WeightsError, match="not in the cache"):
        locate_model(name, HubOptions(cache_dir=tmp_path))
    assert "facebook/ijepa_vith14_1k: these weights are licensed CC-BY-NC-4.0" in caplog.text


def test_a_licence_is_stated_once_of_each_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = {"licence": "CC-BY-NC-4.0", "architecture": "vjepa-vitl16"}
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        for name in ("a", "b"):
            load_model_directory(_save(tmp_path / name, provenance=facts), device=CPU)
        load_model_directory(_save(tmp_path / "c", provenance={"licence": "CC-BY-NC-4.0"}), device=CPU)
    assert [record.getMessage().partition(": these")[0] for record in caplog.records] == [
        "vjepa-vitl16", str(tmp_path / "c"),
    ]  # fmt: skip


def test_names_are_unique_and_bundled_models_come_first() -> None:
    assert len(KNOWN_MODELS) == len(list_models())
    assert [model.is_bundled for model in list_models()] == sorted((m.is_bundled for m in list_models()), reverse=True)
    assert all(dataclasses.asdict(model)["licence"] for model in list_models())


@hypothesis.given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(
            st.lists(st.integers(1, 4), max_size=4), st.sampled_from([torch.float32, torch.float16, torch.float64])
        ),
        min_size=1,
        max_size=6,
    )
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_headers_are_read_as_the_safetensors_library_writes_them(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("headers") / "x.safetensors"
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    stored = read_headers([path])
    assert {name: (entry.shape, entry.dtype) for name, entry in stored.items()} == {
        name: (tuple(value.shape), value.dtype) for name, value in tensors.items()
    }
