"""Copies that others made load by the names and shapes of their tensors, never by code that comes with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import DIRECTORY, TOLERANCE, load_golden, model_config
from loopback_hub import LoopbackHub
from pickling import in_this_process
from safetensors.torch import save_file
from torch import Tensor

from vjepa_sdk import VJEPA, push
from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights import copies, official_layout
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.description import read_shape
from vjepa_sdk.weights.official_layout import ARCHITECTURES

State = dict[str, Tensor]


def official(case: str, key: str) -> State:
    """Return one network of an official checkpoint, by plain names."""
    held = torch.load(DIRECTORY / f"{case}.pth.tar", weights_only=True)[key]
    return {name.removeprefix("module.").removeprefix("backbone."): value for name, value in held.items()}


def target_key(case: str) -> str:
    return "ema_encoder" if "distilled" in case else "target_encoder"


def ported(case: str, *, stacks_tokens: bool) -> State:
    """Rename a checkpoint as two ports of V-JEPA 2.1 to transformers do: with stacked mask tokens, or one by one."""
    result: State = {}
    for network, key in (("encoder", target_key(case)), ("predictor", "predictor")):
        for name, value in official(case, key).items():
            name = re.sub(r"^(predictor_)?blocks\.", "layer.", name)
            name = re.sub(r"^patch_embed(_img)?\.", r"embeddings.patch_embeddings\1.", name)
            name = re.sub(r"^((img|video)_mod_embed|mask_tokens\.\d+)$", r"embeddings.\1", name)
            embed = "predictor_embeddings" if stacks_tokens else "predictor_embed"
            name = re.sub(r"^predictor_embed\.", f"embeddings.{embed}.", name)
            name = re.sub(r"^predictor_norm\.", "layernorm.", name)
            name = re.sub(r"^predictor_proj", "proj", name)
            if ".attn.qkv." in name:
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    result[f"{network}.{name.replace('attn.qkv', f'attention.{part}')}"] = rows.clone()
            else:
                result[f"{network}.{name.replace('.attn.proj.', '.attention.proj.')}"] = value.clone()
    if stacks_tokens:
        tokens = sorted(name for name in result if "mask_tokens" in name)
        result["predictor.embeddings.mask_tokens"] = torch.stack([result.pop(name) for name in tokens])
        for modality in ("img", "video"):
            twin = result[f"predictor.embeddings.{modality}_mod_embed"]
            result[f"predictor.{modality}_mod_embed"] = twin.clone()
    return result


def port_config(case: str) -> dict[str, Any]:
    config = model_config(case)
    return {
        "model_type": "vjepa21",
        "auto_map": {"AutoModel": "modeling_vjepa21.VJEPA21Model"},
        "crop_size": config.img_size,
        "frames_per_clip": config.num_frames,
        "num_attention_heads": config.num_heads,
        "pred_num_attention_heads": config.predictor_num_heads,
        "hierarchical_layers": list(config.level_layers),
    }


def write(directory: Path, state: Mapping[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    directory.mkdir()
    save_file(dict(state), directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def assert_is(model: VJEPA, case: str) -> None:
    golden = load_golden(case)
    torch.testing.assert_close(model.forward_features(golden.clips), golden.tensors["features"], **TOLERANCE)
    if model.predictor is not None:
        held, expected = model.predictor.state_dict(), golden.jepa.predictor.state_dict()
        assert held.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in held.items())


PORTS = ("vjepa21_tiny", "vjepa21_tiny_distilled")


@pytest.mark.parametrize("case", PORTS)
@pytest.mark.parametrize("stacks_tokens", [True, False], ids=["stacked tokens", "tokens one by one"])
def test_ports_of_the_newest_models_compute_the_official_features(
    case: str, stacks_tokens: bool, tmp_path: Path
) -> None:
    place = write(tmp_path / "port", ported(case, stacks_tokens=stacks_tokens), port_config(case))
    model = VJEPA.from_pretrained(place, device="cpu")
    assert_is(model, case)
    assert model.config == model_config(case) == read_shape(place).config
    assert model.encoder_weights == "target"


def test_a_port_on_the_hub_loads_without_its_code(hub: LoopbackHub, tmp_path: Path) -> None:
    case = "vjepa21_tiny_distilled"
    place = write(tmp_path / "port", ported(case, stacks_tokens=True), port_config(case))
    (place / "modeling_vjepa21.py").write_text("raise SystemExit")
    hub.add_directory("you/port", place)
    model = VJEPA.from_pretrained("you/port", device="cpu")
    assert_is(model, case)
    assert model.provenance["repository"] == "you/port"
    assert not hub.requested("modeling", method="HEAD") and not hub.requested("/resolve/.*modeling")


def test_a_port_that_calls_itself_the_older_model_is_known_by_its_settings(tmp_path: Path) -> None:
    case = "vjepa21_tiny"
    config = port_config(case) | {"model_type": "vjepa2", "use_rope_interleave": True}
    assert_is(VJEPA.from_pretrained(write(tmp_path / "x", ported(case, stacks_tokens=True), config)), case)


def test_a_port_without_norms_of_levels_is_not_taken_for_the_older_model(tmp_path: Path) -> None:
    case = "vjepa21_tiny"
    state = {name: value for name, value in ported(case, stacks_tokens=True).items() if "norms_block" not in name}
    with pytest.raises(WeightsError, match="calls itself V-JEPA 2.1, and has not the four norms of its levels"):
        VJEPA.from_pretrained(write(tmp_path / "x", state, port_config(case)), device="cpu")


def test_what_shapes_do_not_tell_must_be_stated(tmp_path: Path) -> None:
    case = "vjepa21_tiny"
    place = write(tmp_path / "port", ported(case, stacks_tokens=True), {"model_type": "vjepa2_1", "crop_size": 64})
    with pytest.raises(
        ConfigError,
        match="do not tell num_attention_heads, frames_per_clip, hierarchical_layers, pred_num_attention_heads: state",
    ):
        VJEPA.from_pretrained(place, device="cpu")
    report = convert(place, tmp_path / "out", arch=model_config(case))
    assert_is(VJEPA.from_pretrained(report.out, device="cpu"), case)


@pytest.mark.parametrize("kind", ["vjepa3", "llama", "jepa-world", 7])
def test_other_kinds_of_models_are_refused(kind: object, tmp_path: Path) -> None:
    place = write(tmp_path / "x", ported("vjepa21_tiny", stacks_tokens=True), {"model_type": kind})
    with pytest.raises(ConfigError, match="must be one of vjepa2, ijepa; this is another kind of model"):
        VJEPA.from_pretrained(place, device="cpu")


@pytest.mark.parametrize("kind", ["vjepa21", "vjepa2_1", "V-JEPA-2.1", "v_jepa_2_1_vit", "vjepa", "ijepa_vit"])
def test_kinds_of_their_own_are_copies(kind: str) -> None:
    assert copies.is_copy({"model_type": kind})


@pytest.mark.parametrize("data", [{}, {"model_type": "vjepa2"}, {"model_type": "ijepa"}, {"format_version": 1}])
def test_what_has_a_reader_of_its_own_is_no_copy(data: dict[str, Any]) -> None:
    assert not copies.is_copy(data)


# -- official names

CASES = ("vjepa1_tiny", "vjepa2_tiny", "ijepa_tiny", "vjepa21_tiny_distilled")
PREFIXES = ("", "encoder.", "module.backbone.", "backbone.", "target_encoder.", "target_encoder.module.backbone.")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny models published ones."""
    for case in CASES:
        monkeypatch.setitem(ARCHITECTURES, case, model_config(case))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix or "bare")
@pytest.mark.parametrize("case", CASES)
def test_an_encoder_under_official_names_loads(case: str, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in official(case, target_key(case)).items()}
    model = VJEPA.from_pretrained(write(tmp_path / "copy", state), device="cpu")
    assert_is(model, case)
    assert (model.predictor, model.encoder_weights) == (None, "target")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("case", CASES)
def test_both_encoders_and_the_predictor_under_official_names_load(case: str, tmp_path: Path) -> None:
    keys = (target_key(case), "encoder", "predictor")
    state = {f"{key}.module.backbone.{name}": value for key in keys for name, value in official(case, key).items()}
    place = write(tmp_path / "copy", state)
    assert_is(VJEPA.from_pretrained(place, device="cpu"), case)
    context, golden = VJEPA.from_pretrained(place, weights="context", device="cpu"), load_golden(case)
    torch.testing.assert_close(
        context.forward_features(golden.clips), golden.tensors["encoder_features"], **TOLERANCE
    )  # fmt: skip
    given = golden.tensors
    predicted = context.predict(golden.clips, context=given["context_index.0"], target=given["target_index.0"])
    torch.testing.assert_close(predicted, given["prediction.0"], **TOLERANCE)


@pytest.fixture
def in_process() -> Iterator[None]:
    with in_this_process():
        yield


@pytest.mark.usefixtures("published", "in_process")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.backbone.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"backbone.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 1.0}},
        lambda state: {**state, "step": 7},
    ],
    ids=["bare", "wrapped names", "state_dict", "model", "a number among them"],
)
def test_a_bare_state_dictionary_is_converted(wrap: Callable[[State], dict[str, Any]], tmp_path: Path) -> None:
    case = "vjepa2_tiny"
    torch.save(wrap(official(case, "target_encoder")), tmp_path / "state.pt")
    report = convert(tmp_path / "state.pt", tmp_path / "out")
    assert report.architecture == case
    assert_is(VJEPA.from_pretrained(report.out, device="cpu"), case)


@pytest.mark.usefixtures("published")
def test_a_file_of_safetensors_is_converted(tmp_path: Path) -> None:
    case = "vjepa21_tiny_distilled"
    save_file(official(case, "ema_encoder"), tmp_path / "encoder.safetensors")
    report = convert(tmp_path / "encoder.safetensors", tmp_path / "out")
    assert (report.architecture, report.network_isolated) == (case, None)
    assert_is(VJEPA.from_pretrained(report.out, device="cpu"), case)


def test_what_several_published_models_share_must_be_stated(tmp_path: Path) -> None:
    shapes = published_shapes("vjepa2-vitg16")
    with pytest.raises(
        ConfigError, match="could be vjepa2-vitg16 or vjepa2-vitg16-384, .* state crop_size .* --arch vjepa2-vitg16"
    ):
        copies.recognise("x", shapes, {})
    assert copies.recognise("x", shapes, {"crop_size": 384}).architecture == "vjepa2-vitg16-384"
    assert copies.recognise("x", shapes, {}, arch="vjepa2-vitg16").config.img_size == 256


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        networks = {"target_encoder": VideoEncoder(config), "predictor": Predictor(config)}
    shapes = {
        f"{key}.{n}": tuple(v.shape) for key, network in networks.items() for n, v in network.state_dict().items()
    }
    weight = shapes["target_encoder.patch_embed.proj.weight"]
    if config.is_image_model:
        shapes["target_encoder.patch_embed.proj.weight"] = (*weight[:2], *weight[3:])
        shapes["predictor.mask_token"] = shapes.pop("predictor.mask_tokens.0")
    return shapes


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("vjepa2-vitg16")])
def test_copies_of_published_models_are_recognised_by_shapes_alone(name: str) -> None:
    found = copies.recognise("x", published_shapes(name), {})
    assert name in found.architecture.split(" or ") and found.config == ARCHITECTURES[name]
    assert found.provenance.get("licence", "MIT") == ("MIT" if "jepa2" in name else "CC-BY-NC-4.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "1 missing .*norm.bias"),
        ({"extra.weight": torch.zeros(3)}, "1 unexpected .*extra.weight"),
        ({"patch_embed.proj.weight": torch.zeros(48, 2, 8, 8, 3)}, "keeps channels last, as MLX does"),
        ({"patch_embed.proj.weight": None}, "holds no encoder of V-JEPA or I-JEPA, by the names of its tensors"),
        ({f"{key}.patch_embed.proj.weight": torch.zeros(3) for key in "ab"}, "holds several networks of one kind"),
    ],
)
@pytest.mark.usefixtures("published")
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state = official("vjepa2_tiny", "target_encoder") | change
    place = write(tmp_path / "copy", {name: value for name, value in state.items() if value is not None})
    with pytest.raises(WeightsError, match=message):
        VJEPA.from_pretrained(place, device="cpu")


@pytest.mark.usefixtures("published")
def test_a_copy_without_a_configuration_is_converted_before_it_is_published(tmp_path: Path) -> None:
    place = write(tmp_path / "copy", official("vjepa2_tiny", "target_encoder"))
    with pytest.raises(ConfigError, match="holds no config.json; run `vjepa convert` on it first"):
        push(place, "me/copy", dry_run=True)
    with pytest.raises(ConfigError, match="is a copy in another layout; convert it to layout='vjepa' first"):
        convert(place, tmp_path / "out", layout="transformers")
    push(convert(place, tmp_path / "out").out, "me/copy", dry_run=True)


def test_left_over_tables_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(official_layout.ARCHITECTURES, "tiny", model_config("vjepa2_tiny"))
    state = official("vjepa2_tiny", "target_encoder") | {"pos_embed": torch.zeros(1, 9, 48)}
    assert_is(VJEPA.from_pretrained(write(tmp_path / "copy", state), device="cpu"), "vjepa2_tiny")
