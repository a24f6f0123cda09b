"""A model's shape is read from its directory as loading the model would find it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA, ModelConfig
from vjepa_sdk.config.registry import BUNDLED, DEFAULT_MODEL
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.description import local_directory, read_shape


@pytest.mark.parametrize(("layout", "config"), [("ours", VIDEO), ("ours", IMAGE), ("transformers", VIDEO)])
def test_shape_is_that_of_the_loaded_model(tmp_path: Path, layout: str, config: ModelConfig) -> None:
    directory = save_tiny(tmp_path / "ours", config)
    if layout == "transformers":
        convert(directory, tmp_path / "theirs", layout="transformers")
        directory = tmp_path / "theirs"
    shape, model = read_shape(directory), VJEPA.from_pretrained(directory, device="cpu")
    assert (shape.config, shape.preprocess) == (model.config, model.preprocess)


@pytest.mark.parametrize("pooling", ["mean", "temporal", "grid", "none"])
@pytest.mark.parametrize("num_frames", [None, 8])
def test_values_of_a_row_are_those_that_encode_returns(tmp_path: Path, pooling: str, num_frames: int | None) -> None:
    directory = save_tiny(tmp_path / "model")
    video = np.zeros((8, 32, 32, 3), np.uint8)
    row = VJEPA.from_pretrained(directory, device="cpu").encode(video, pooling=pooling, num_frames=num_frames)  # type: ignore[call-overload]
    shape = read_shape(directory)
    assert shape.values_per_row(pooling, num_frames or shape.config.num_frames) == row.size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold an object"),
        ("{}", "neither format_version nor model_type"),
        ('{"format_version": 1, "encoder_weights": "target", "model": 3}', "model=3 must be an object"),
        ('{"format_version": 1, "encoder_weights": "target", "model": {"dept": 3}}', "dept"),
        ('{"format_version": 2, "encoder_weights": "target"}', "format_version=2 must be 1"),
    ],
)
def test_configurations_that_are_not_valid(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_shape(tmp_path)


def test_a_directory_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        read_shape(tmp_path)


def test_only_what_is_on_this_disk_has_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    assert local_directory("mine/model") == Path("mine/model")
    assert local_directory(DEFAULT_MODEL) == BUNDLED / DEFAULT_MODEL
    assert [local_directory(name) for name in ("owner/name", "vjepa2-vitl16", "", "nonsense")] == [None] * 4
