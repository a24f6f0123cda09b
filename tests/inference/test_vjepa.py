"""`encode` takes every form of video, gives the same features for the same frames, and never guesses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_video
from PIL import Image
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA
from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError, WeightsError
from vjepa_sdk.models.positions import sincos_table
from vjepa_sdk.video.reader import read_video


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


@pytest.fixture(scope="module")
def image_model() -> VJEPA:
    return VJEPA.untrained(IMAGE, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("clips")
    return [write_video(directory / f"{n}.mp4", num_frames=9 + n, width=80 - 16 * n) for n in range(3)]


def test_the_grid_keeps_the_means_of_nine_parts_of_the_frame() -> None:
    tokens = torch.randn(2, 2 * 6 * 7, 5, generator=torch.Generator().manual_seed(0))
    cells = VJEPA.pool(tokens, (2, 6, 7), pooling="grid")
    volume = tokens.view(2, 2, 6, 7, 5)
    for row in range(3):
        for column, (left, right) in enumerate([(0, 3), (2, 5), (4, 7)]):  # 7 columns: neighbours share one
            expected = volume[:, :, 2 * row : 2 * row + 2, left:right].mean(dim=(2, 3))
            torch.testing.assert_close(cells[:, :, row, column], expected)


@pytest.mark.parametrize(
    ("pooling", "shape"), [("mean", (24,)), ("temporal", (2, 24)), ("grid", (2, 3, 3, 24)), ("none", (2, 2, 2, 24))]
)
def test_shape_follows_pooling(model: VJEPA, clips: list[Path], pooling: str, shape: tuple[int, ...]) -> None:
    one, several = model.encode(clips[0], pooling=pooling), model.encode(clips, pooling=pooling)
    assert one.shape == shape and several.shape == (3, *shape)
    assert one.dtype == several.dtype == np.float32
    assert np.isfinite(several).all()


def test_poolings_agree(model: VJEPA, clips: list[Path]) -> None:
    tokens = model.encode(clips[0], pooling="none")
    np.testing.assert_allclose(model.encode(clips[0], pooling="temporal"), tokens.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(model.encode(clips[0]), tokens.mean((0, 1, 2)), atol=1e-6)


def test_a_file_equals_its_decoded_frames_in_every_form(model: VJEPA, clips: list[Path], tmp_path: Path) -> None:
    frames = read_video(clips[0])
    expected = model.encode(clips[0])
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    forms = {
        "str": str(clips[0]),
        "array": frames,
        "tensor": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "floats": frames.astype(np.float32) / 255,
        "images": [Image.fromarray(frame) for frame in frames],
        "directory": tmp_path,
        "strided": np.asfortranarray(frames),
        "reversed twice": frames[::-1].copy()[::-1],
    }
    for name, form in forms.items():
        assert np.array_equal(model.encode(form), expected), name


def test_a_batch_equals_one_by_one(model: VJEPA, clips: list[Path]) -> None:
    single = np.stack([model.encode(clip) for clip in clips])
    for batch_size in (1, 2, 8):
        np.testing.assert_allclose(model.encode(clips, batch_size=batch_size), single, atol=1e-5)


def test_five_axes_are_a_batch(model: VJEPA) -> None:
    videos = np.random.default_rng(0).integers(0, 256, (2, 5, 40, 48, 3), dtype=np.uint8)
    np.testing.assert_allclose(model.encode(videos), model.encode(list(videos)), atol=1e-5)


def test_twice_is_bitwise_equal(model: VJEPA, clips: list[Path]) -> None:
    assert np.array_equal(model.encode(clips), model.encode(clips))


def test_input_is_not_changed(model: VJEPA) -> None:
    video = np.full((4, 32, 32, 3), 7, np.uint8)
    model.encode(video)
    assert (video == 7).all()


def test_frames_lie_evenly_over_the_video(model: VJEPA, clips: list[Path]) -> None:
    _, info = model.clip_loader()(clips[0])
    assert info["frames"] == [0, 3, 5, 8]
    _, info = model.clip_loader(num_frames=2)(clips[0])
    assert info["frames"] == [0, 8]


def test_short_videos_repeat_frames(model: VJEPA) -> None:
    video = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert model.clip_loader()(video)[1]["frames"] == [0, 0, 1, 1]


def test_fps_samples_at_a_rate_from_files_and_arrays(model: VJEPA, clips: list[Path]) -> None:
    assert model.clip_loader(fps=5)(clips[0])[1]["frames"] == [0, 2, 4, 6]  # the files have 10 frames a second
    assert model.clip_loader(fps=4, source_fps=10)(read_video(clips[0]))[1]["frames"] == [0, 2, 5, 7]
    assert model.clip_loader(fps=2)(clips[0])[1]["frames"] == [0, 5, 8, 8]


def test_times_that_a_container_rounds_are_sampled_evenly(model: VJEPA, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", num_frames=30, fps=30)  # at 0, 33, 67, 100 ...
    assert model.clip_loader(fps=15)(path)[1]["frames"] == [0, 2, 4, 6]


def test_a_rate_needs_times_that_ascend(model: VJEPA, tmp_path: Path) -> None:
    part = write_video(tmp_path / "a.mpg", num_frames=10, codec="mpeg2video", fps=25).read_bytes()
    (tmp_path / "joined.mpg").write_bytes(part + part)
    with pytest.raises(InputError, match=r"joined\.mpg: shows frame 9 at .* s and the next one at .* s; times must"):
        model.encode(tmp_path / "joined.mpg", fps=4)


def test_fps_of_arrays_needs_their_rate(model: VJEPA) -> None:
    with pytest.raises(
        InputError, match="fps=4 needs the frame rate of arrays and frame directories; pass source_fps="
    ):
        model.encode(np.zeros((8, 32, 32, 3), np.uint8), fps=4)


def test_normalized_embeddings_have_length_one(model: VJEPA, clips: list[Path]) -> None:
    lengths = np.linalg.norm(model.encode(clips, normalize_embeddings=True), axis=-1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_tensor_on_request(model: VJEPA, clips: list[Path]) -> None:
    tensor = model.encode(clips[0], convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), model.encode(clips[0]))


def test_a_still_is_repeated_for_a_video_model(model: VJEPA) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    as_video = model.encode(np.stack([frame, frame]), num_frames=2)
    assert np.array_equal(model.encode(frame), as_video)
    assert np.array_equal(model.encode(Image.fromarray(frame)), as_video)


def test_an_image_model_takes_images_and_lists_of_them(image_model: VJEPA, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    image = Image.fromarray(frame)
    image.save(tmp_path / "still.png")
    expected = image_model.encode(frame)
    assert expected.shape == (24,)
    for form in (image, tmp_path / "still.png", str(tmp_path / "still.png")):
        assert np.array_equal(image_model.encode(form), expected)
    np.testing.assert_allclose(image_model.encode([image, image]), np.stack([expected, expected]), atol=1e-5)


def test_an_image_model_refuses_videos(image_model: VJEPA, clips: list[Path]) -> None:
    with pytest.raises(InputError, match="this model encodes images; pass an image file"):
        image_model.encode(clips[0])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (
            np.zeros((4, 3, 32, 32), np.uint8),
            r"an array of shape \(4, 3, 32, 32\) must be \[T, H, W, 3\]; transpose it",
        ),
        (np.zeros((4, 3, 32, 3), np.uint8), r"could be \[T, H, W, 3\] or \[T, 3, H, W\]; pass a tensor"),
        (torch.zeros(4, 32, 32, 3, dtype=torch.uint8), r"a tensor of shape .* must be \[T, 3, H, W\]; permute it"),
        (np.zeros((32, 32), np.uint8), r"an array of shape \(32, 32\) must be \[T, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), "is empty; pass at least one frame"),
        (np.zeros((4, 32, 32, 3), np.int64), r"pixels of dtype int64 must be uint8 or float in \[0, 1\]"),
        (np.zeros((4, 32, 32, 3), np.uint16), "pixels of dtype .*uint16 must be uint8 or float"),
        (np.zeros((4, 32, 32, 3), object), "pixels of dtype object must be uint8 or float"),
        (np.full((4, 32, 32, 3), 255.0), "got 255 to 255; divide by 255, or pass .* to forward_features"),
        (np.full((4, 32, 32, 3), -0.5), "got -0.5 to -0.5; divide by 255"),
        (np.full((4, 32, 32, 3), np.nan), "pixels must be finite"),
        ([], "got an empty list; pass at least one video"),
        (3.5, "a float is not a video; pass a path"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], r"the images of one video must have one size"),
    ],
)
def test_what_is_not_a_video_is_refused(model: VJEPA, video: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.encode(video)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling='max' must be one of mean, temporal, grid, change, none"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"num_frames": 3}, "num_frames=3 must be a multiple of tubelet_size=2; pass 2 or 4"),
        ({"num_frames": -2}, "num_frames=-2 must be a multiple"),
        ({"num_frames": 0}, "num_frames=0 must be a multiple"),
        ({"num_frames": 2.0}, "num_frames=2.0 must be an integer of at most 4096"),
        ({"num_frames": 100_000}, "num_frames=100000 must be an integer of at most 4096"),
        ({"batch_size": "4"}, "batch_size='4' must be an integer of at least 1"),
        ({"decoder": "ffmpeg"}, "decoder='ffmpeg' must be one of pyav, decord"),
        ({"fps": 0.0}, "fps=0.0 must be a number above 0"),
        ({"fps": "4"}, "fps='4' must be a number above 0"),
    ],
)
def test_options_out_of_range_are_refused(
    model: VJEPA, clips: list[Path], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model.encode(clips[0], **options)  # type: ignore[call-overload]


def test_missing_file_is_named(model: VJEPA) -> None:
    with pytest.raises(VideoDecodeError, match=r"absent\.mp4.*does not exist"):
        model.encode("absent.mp4")


def test_saved_model_loads_with_the_same_features(clips: list[Path], model: VJEPA, tmp_path: Path) -> None:
    loaded = VJEPA.from_pretrained(model.save_pretrained(tmp_path / "model"), device="cpu")
    assert loaded.config == model.config and loaded.preprocess == model.preprocess
    assert np.array_equal(loaded.encode(clips), model.encode(clips))
    assert (tmp_path / "model" / "README.md").read_text().startswith("---\nlibrary_name: vjepa-sdk")


def test_half_precision_on_disk_is_full_precision_in_use(clips: list[Path], model: VJEPA, tmp_path: Path) -> None:
    small = model.save_pretrained(tmp_path / "half", dtype=torch.float16) / "model.safetensors"
    full = model.save_pretrained(tmp_path / "full") / "model.safetensors"
    assert small.stat().st_size < 0.6 * full.stat().st_size
    features = VJEPA.from_pretrained(tmp_path / "half", device="cpu").encode(clips)
    np.testing.assert_allclose(features, model.encode(clips), atol=0.02)


def test_absent_encoder_is_an_error(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    with pytest.raises(WeightsError, match="holds only the target encoder; pass weights='target' or leave it out"):
        VJEPA.from_pretrained(tmp_path, weights="context")


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(ConfigError, match="unknown model 'vjepa-tinny'; did you mean 'vjepa-tiny'"):
        VJEPA.from_pretrained("vjepa-tinny")


def test_unknown_device_lists_what_exists() -> None:
    with pytest.raises(ConfigError, match="device='tpu' is not available here; pass one of cpu"):
        VJEPA.untrained(VIDEO, device="tpu")


def test_intermediate_layers_are_counted_from_the_end_or_by_number(model: VJEPA) -> None:
    clips = torch.rand(1, 3, 4, 32, 32)
    both, by_number = model.get_intermediate_layers(clips, 2), model.get_intermediate_layers(clips, [0, 1])
    assert all(torch.equal(a, b) for a, b in zip(both, by_number, strict=True))
    assert torch.equal(both[-1], model.forward_features(clips))
    with pytest.raises(ConfigError, match=r"n=\[2\] must name blocks of the 2 from 0 to 1"):
        model.get_intermediate_layers(clips, [2])


def test_untrained_models_depend_on_their_seed_alone() -> None:
    first, again, other = (VJEPA.untrained(VIDEO, seed=seed, device="cpu") for seed in (1, 1, 2))
    clip = torch.rand(1, 3, 4, 32, 32)
    assert torch.equal(first.forward_features(clip), again.forward_features(clip))
    assert not torch.equal(first.forward_features(clip), other.forward_features(clip))


def test_still_and_video_of_one_batch_keep_their_order() -> None:
    config = dataclasses.replace(VIDEO, image_tokenizer=True)
    model = VJEPA.untrained(config, device="cpu")
    rng = np.random.default_rng(0)
    still, video = (
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
    )
    mixed = model.encode([video, still, video])
    np.testing.assert_allclose(mixed[1], model.encode(still), atol=1e-5)
    np.testing.assert_allclose(mixed[2], model.encode(video), atol=1e-5)


def test_features_train_a_downstream_head(model: VJEPA) -> None:
    head = torch.nn.Linear(24, 2)
    head(model.forward_features(torch.rand(1, 3, 4, 32, 32))).sum().backward()
    assert head.weight.grad is not None


def test_memory_form_of_an_array_changes_nothing(model: VJEPA) -> None:
    video = np.random.default_rng(0).random((4, 32, 32, 3), dtype=np.float32)
    expected = model.encode(video)
    read_only = video.copy()
    read_only.flags.writeable = False
    for form in (read_only, video.astype(">f4"), video.astype(np.float64), np.asfortranarray(video)):
        assert np.array_equal(model.encode(form), expected)


def test_an_empty_batch_is_refused(model: VJEPA) -> None:
    with pytest.raises(InputError, match=r"a batch of shape \(0, 4, 32, 32, 3\) is empty; pass at least one video"):
        model.encode(np.zeros((0, 4, 32, 32, 3), np.uint8))


def test_a_missing_directory_is_named() -> None:
    with pytest.raises(ConfigError, match="missing: no such directory; pass a model directory or a name"):
        VJEPA.from_pretrained("./missing")


@pytest.mark.parametrize("name", ["runs/first/model", "missing/"])
def test_what_can_only_be_a_path_is_called_a_directory_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}': no such directory; pass one that holds config.json"):
        VJEPA.from_pretrained(name)


@pytest.mark.parametrize("name", ["foo/b ar", ""])
def test_names_that_no_hub_can_hold_are_unknown_models(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown model '{name}'"):
        VJEPA.from_pretrained(name)


def test_offline_hub_models_that_are_not_cached_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="owner/name: main is not in the cache"):
        VJEPA.from_pretrained("owner/name", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_door_returns_float32_of_a_model_in_half_precision(
    dtype: torch.dtype, clips: list[Path], tmp_path: Path
) -> None:
    config = dataclasses.replace(VIDEO, position="sincos")
    model = VJEPA.from_pretrained(save_tiny(tmp_path / "m", config), dtype=dtype, device="cpu")
    assert model.encoder.patch_embed.proj.weight.dtype == dtype
    pixels = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    normalized = torch.randn(1, 3, 4, 32, 32)
    results = {
        "forward_features": model.forward_features(normalized),
        "get_intermediate_layers": model.get_intermediate_layers(normalized)[0],
        "get_intermediate_layers, raw": model.get_intermediate_layers(normalized, norm=False)[0],
        "predict": model.predict(normalized, context=[0, 1], target=[2]),
        "predict beyond": model.predict(normalized, context=[0, 1], target=[9]),
        "embed_clips": model.embed_clips(pixels),
        "embed_clips, layers": model.embed_clips(pixels, layers=[0, 1]),
        "encode": torch.from_numpy(model.encode(clips[0])),
        "encode to tensor": model.encode(clips[0], convert_to_tensor=True, pooling="none"),
        "extract": torch.from_numpy(model.extract(clips[0], num_frames=4, fps=10, layers=1).embeddings),
        "surprise": torch.from_numpy(model.surprise(clips[0], fps=10).errors),
    }
    assert {name: value.dtype for name, value in results.items()} == dict.fromkeys(results, torch.float32)


@pytest.mark.parametrize("config", [dataclasses.replace(VIDEO, position="sincos"), IMAGE])
def test_sincos_tables_are_not_rounded_with_the_weights_nor_by_a_copy(config: ModelConfig, tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(save_tiny(tmp_path / "m", config), dtype=torch.bfloat16, device="cpu")
    model.save_pretrained(tmp_path / "copy")
    VJEPA.from_pretrained(tmp_path / "m", device="cpu").save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    for place in ("m", "copy", "half"):
        held = VJEPA.from_pretrained(tmp_path / place, device="cpu")
        assert torch.equal(held.encoder.pos_embed[0], sincos_table(config.grid, config.embed_dim)), place
        assert held.predictor is not None
        table = sincos_table(config.grid, config.predictor_embed_dim)
        assert torch.equal(held.predictor.predictor_pos_embed[0], table), place
