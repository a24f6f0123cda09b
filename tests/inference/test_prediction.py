"""`VJEPA.predict` hides before it encodes, and reaches beyond the clip."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import TOLERANCE, Golden, load_golden, model_config
from torch import Tensor

from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.errors import InputError, WeightsError
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.positions import extend_sincos, resize_sincos, sincos_table
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights.directory import Pretrained, save_model_directory

CASES = ("vjepa1_tiny", "vjepa2_tiny", "ijepa_tiny", "vjepa21_tiny", "vjepa21_tiny_distilled")


def _model(config: ModelConfig, encoder: VideoEncoder, predictor: Predictor | None) -> VJEPA:
    preprocess = PreprocessConfig.for_crop(config.img_size)
    return VJEPA(Pretrained(config, preprocess, encoder, predictor, "context", {}), device=torch.device("cpu"))


def _of(golden: Golden) -> VJEPA:
    jepa = golden.jepa.eval()
    return _model(jepa.model_config, jepa.context_encoder, jepa.predictor)


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture
def model() -> VJEPA:
    return _of(load_golden("vjepa2_tiny"))


def _tokens(config: ModelConfig) -> int:
    return config.grid[0] * config.grid[1] * config.grid[2]


def test_predictions_equal_the_official_ones(golden: Golden) -> None:
    given = golden.tensors
    predicted = _of(golden).predict(golden.clips, context=given["context_index.0"], target=given["target_index.0"])
    torch.testing.assert_close(predicted, given["prediction.0"], **TOLERANCE)


def test_the_context_encoder_sees_where_the_model_has_both(tmp_path: Path) -> None:
    golden = load_golden("vjepa2_tiny")
    jepa, given = golden.jepa.eval(), golden.tensors
    save_model_directory(
        tmp_path / "both",
        config=jepa.model_config,
        preprocess=PreprocessConfig.for_crop(jepa.model_config.img_size),
        modules={
            "encoder": jepa.target_encoder, "context_encoder": jepa.context_encoder, "predictor": jepa.predictor
        },
        encoder_weights="target",
        provenance={},
        card="",
    )  # fmt: skip
    model = VJEPA.from_pretrained(tmp_path / "both", device="cpu")
    assert model.encoder_weights == "target"
    predicted = model.predict(golden.clips, context=given["context_index.0"], target=given["target_index.0"])
    torch.testing.assert_close(predicted, given["prediction.0"], **TOLERANCE)


def test_the_mask_token_is_the_one_asked_for() -> None:
    golden = load_golden("vjepa1_tiny")
    given = golden.tensors
    arguments = {"context": given["context_index.1"], "target": given["target_index.1"]}
    predicted = _of(golden).predict(golden.clips, **arguments, mask_index=1)
    torch.testing.assert_close(predicted, given["prediction.1"], **TOLERANCE)


@pytest.mark.parametrize("name", ["vjepa21_tiny", "vjepa21_tiny_distilled"])
def test_stills_are_predicted_on_their_own_path(name: str) -> None:
    golden = load_golden(name)
    given = golden.tensors
    arguments = {"context": given["image.context_index.0"], "target": given["image.target_index.0"]}
    predicted = _of(golden).predict(given["image.input"], **arguments)
    torch.testing.assert_close(predicted, given["image.prediction.0"], **TOLERANCE)


def test_hidden_pixels_change_nothing(golden: Golden) -> None:
    model, config = _of(golden), golden.jepa.model_config
    visible = [0, 2, 5, _tokens(config) - 1]
    hidden = [index for index in range(_tokens(config)) if index not in visible]
    other = _with_noise(golden.clips, hidden, config)
    assert not torch.equal(model.forward_features(other), model.forward_features(golden.clips))
    first = model.predict(golden.clips, context=visible, target=hidden)
    assert torch.equal(first, model.predict(other, context=visible, target=hidden))


def _with_noise(clips: Tensor, tokens: list[int], config: ModelConfig) -> Tensor:
    """Replace the pixels of some tokens."""
    clips, (_, rows, columns), size = clips.clone(), config.grid, config.patch_size
    for token in tokens:
        t, row, column = token // (rows * columns), token // columns % rows, token % columns
        frames = slice(t * config.tubelet_size, (t + 1) * config.tubelet_size)
        place = clips[:, :, frames, row * size : (row + 1) * size, column * size : (column + 1) * size]
        place.copy_(torch.randn(place.shape, generator=torch.Generator().manual_seed(token)))
    return clips


@pytest.mark.parametrize("name", ["vjepa1_tiny", "vjepa2_tiny", "vjepa21_tiny"])
def test_the_future_is_where_a_longer_clip_has_it(name: str) -> None:
    golden = load_golden(name)
    config = golden.jepa.model_config
    longer = dataclasses.replace(config, num_frames=2 * config.num_frames)
    predictor = Predictor(longer)
    state = dict(golden.jepa.predictor.state_dict())
    if config.position == "sincos":
        state["predictor_pos_embed"] = sincos_table(longer.grid, config.predictor_embed_dim)[None]
    predictor.load_state_dict(state)
    visible, future = torch.arange(8)[None], torch.arange(_tokens(config), _tokens(config) + 5)[None]
    clips = golden.clips[:1]
    encoder = golden.jepa.context_encoder
    features = encoder(clips, visible) if config.predictor_levels == 1 else encoder.forward_levels(clips, visible)
    expected = predictor(features, visible, future, grid=longer.grid)
    torch.testing.assert_close(_of(golden).predict(clips, context=visible, target=future), expected, **TOLERANCE)


def test_the_future_continues_a_resized_table_at_the_clips_own_pace() -> None:
    table = sincos_table((4, 6, 6), 24)[None]
    clip = resize_sincos(table, old=(4, 6, 6), new=(6, 6, 4))
    near = extend_sincos(table, old=(4, 6, 6), new=(7, 6, 4), clip_frames=6)
    far = extend_sincos(table, old=(4, 6, 6), new=(20, 6, 4), clip_frames=6)
    assert torch.equal(near[:, : clip.shape[1]], clip)
    torch.testing.assert_close(far[:, : near.shape[1]], near)
    assert far.shape == (1, 20 * 6 * 4, 24)


def test_non_square_clips_use_their_own_grid(model: VJEPA) -> None:
    clips = torch.randn(2, 3, 4, 32, 96)
    predicted = model.predict(clips, context=[0, 1, 2], target=[[3, 4], [22, 23]])
    encoder, predictor = model.encoder, model.predictor
    context, target = torch.tensor([[0, 1, 2]] * 2), torch.tensor([[3, 4], [22, 23]])
    expected = predictor(encoder(clips, context), context, target, grid=(2, 2, 6))
    assert torch.equal(predicted, expected)


def test_one_video_gives_one_prediction(model: VJEPA) -> None:
    video = np.random.default_rng(0).integers(0, 256, (10, 70, 90, 3), np.uint8)
    assert model.predict(video, context=range(32), target=range(32, 64)).shape == (32, 48)


def test_a_model_without_predictor_says_so() -> None:
    golden = load_golden("vjepa2_tiny")
    model = _model(golden.jepa.model_config, golden.jepa.context_encoder, None)
    with pytest.raises(WeightsError, match="has no predictor"):
        model.predict(golden.clips, context=[0], target=[1])


@pytest.mark.parametrize(
    ("context", "target", "mask_index", "message"),
    [
        ([], [1], 0, r"context of shape \[2, 0\] must hold at least one token"),
        ([0], [], 0, "target of shape"),
        ([0, 64], [1], 0, "context holds token 64; tokens go from 0 to 63"),
        ([0], [-1], 0, "target holds token -1"),
        ([0], [10**9], 0, "target holds token 1000000000"),
        ([0, 0], [1], 0, "context names a token twice"),
        ([0.5], [1], 0, r"context must be integers \[K\] or \[B, K\], got torch.float32"),
        ([[0], [1], [2]], [1], 0, "for each of 2 clips"),
        ("abc", [1], 0, "context must be a list of token numbers"),
        ([0], [1], 10, "mask_index=10 must be from 0 to 9"),
        ([0], [1], True, "mask_index=True must be from 0 to 9"),
    ],
)
def test_indices_that_are_no_tokens_are_refused(
    model: VJEPA, context: object, target: object, mask_index: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(torch.zeros(2, 3, 8, 64, 64), context=context, target=target, mask_index=mask_index)


def test_a_still_has_no_future() -> None:
    golden = load_golden("ijepa_tiny")
    with pytest.raises(InputError, match="target holds token 16; tokens go from 0 to 15"):
        _of(golden).predict(golden.clips, context=[0], target=[_tokens(model_config("ijepa_tiny"))])


def test_sizes_that_are_no_tokens_name_the_nearest_valid_ones(model: VJEPA) -> None:
    with pytest.raises(InputError, match="height=70 must be a positive multiple of 16; pass 64 or 80"):
        model.predict(torch.zeros(1, 3, 8, 70, 64), context=[0], target=[1])
