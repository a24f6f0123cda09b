"""What is known of published models: sizes follow from their shapes, and pins are complete."""

from __future__ import annotations

import re

import pytest
import torch

from vjepa_sdk.config.registry import KNOWN_MODELS, ModelInfo
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights.official_layout import ARCHITECTURES

MODELS = list(KNOWN_MODELS.values())
BY_NAME = pytest.mark.parametrize("info", MODELS, ids=lambda info: info.name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_predictors_have_the_parameters_that_sizes_are_computed_from(name: str) -> None:
    with torch.device("meta"):
        predictor = Predictor(ARCHITECTURES[name])
    held = sum(value.numel() for value in predictor.parameters())
    assert KNOWN_MODELS[name].predictor_parameters == held


@pytest.mark.parametrize(("data", "classes"), [("ssv2", 174), ("diving48", 48)])
def test_probes_have_the_parameters_that_sizes_are_computed_from(data: str, classes: int) -> None:
    for info in MODELS:
        if info.name.endswith(f"-{data}"):
            with torch.device("meta"):
                probe = AttentiveProbe(ProbeConfig(embed_dim=info.embed_dim, num_classes=classes, depth=4))
            assert info.head_parameters == sum(value.numel() for value in probe.parameters())


@pytest.mark.parametrize(("name", "known"), [("vjepa2.1-vitb16", 1_664_223_428), ("vjepa2.1-vitl16", 5_151_198_524)])
def test_sizes_that_are_computed_are_those_of_files_that_are_known(name: str, known: int) -> None:
    info = KNOWN_MODELS[name]
    assert info.num_bytes == info.download_bytes == known
    computed = 4 * (4 * info.parameters + 3 * info.predictor_parameters)
    assert computed == pytest.approx(known, rel=1e-3)


@BY_NAME
def test_every_model_is_of_one_kind_and_can_be_fetched(info: ModelInfo) -> None:
    assert info.is_bundled + info.is_on_hub + info.is_official_file == 1
    assert (info.download_bytes == 0) == info.is_bundled
    assert not info.is_official_file or info.url == info.source
    assert info.name in ARCHITECTURES or not info.url


@BY_NAME
def test_commits_and_digests_are_well_formed(info: ModelInfo) -> None:
    assert re.fullmatch(r"([0-9a-f]{64})?", info.sha256)
    assert re.fullmatch(r"([0-9a-f]{40})?", info.revision)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digits) for digits in info.file_sha256.values())
    assert bool(info.revision) == info.source.startswith("facebook/vjepa2")


def test_licences_are_those_of_the_models_pages() -> None:
    held = {name: info.licence for name, info in KNOWN_MODELS.items()}
    assert held["vjepa2-vitg16"] == held["vjepa2-vitg16-384"] == "Apache-2.0"
    assert {held[name] for name in held if name.startswith(("vjepa-v", "ijepa"))} == {"CC-BY-NC-4.0"}
