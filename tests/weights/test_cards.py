"""A card says what a model is, and what it says is so: its code runs, its metadata are the hub's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from media import write_video
from PIL import Image
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import ModelConfig, push, train_config, write_card
from vjepa_sdk.config.documents import to_toml
from vjepa_sdk.config.registry import KNOWN_MODELS
from vjepa_sdk.config.schema import to_dict
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.models.attentive_probe import ProbeConfig
from vjepa_sdk.weights.cards import embeddings_card, model_card, probe_card, training_card
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.evaluation import EvaluationResult, read_metrics
from vjepa_sdk.weights.layout import HERE

RESULT = {"task": "direction of motion, ridge probe", "dataset": "rendered clips", "metric": "accuracy", "value": 0.145}


def front_matter(card: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    data: dict[str, Any] = ModelCard(card).data.to_dict()
    return data


def evaluate(directory: Path, *results: dict[str, Any]) -> str:
    """Write evaluation.json and return the card made with it."""
    (directory / "evaluation.json").write_text(json.dumps({"format_version": 1, "results": list(results)}))
    return write_card(directory).read_text()


@pytest.mark.parametrize(("config", "file"), [(VIDEO, "clip.mp4"), (IMAGE, "image.jpg")], ids=["video", "image"])
def test_the_code_of_a_card_runs(
    config: ModelConfig, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save_tiny(tmp_path / "model", config)
    code = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.S)
    assert len(code) == 1
    monkeypatch.chdir(tmp_path)
    if file == "clip.mp4":
        write_video(tmp_path / file)
    else:
        Image.new("RGB", (40, 50)).save(tmp_path / file)
    namespace: dict[str, Any] = {}
    exec(code[0].replace(HERE, str(directory)), namespace)
    assert f"float32 [{len(namespace['features'])}]" in code[0]


def test_metadata_are_those_the_hub_knows(tmp_path: Path) -> None:
    card = model_card(VIDEO, provenance={"licence": "Apache-2.0", "base_model": "me/first"})
    data = front_matter(card)
    assert data["library_name"] == "vjepa-sdk" and data["pipeline_tag"] == "feature-extraction"
    assert data["license"] == "apache-2.0" and data["base_model"] == "me/first"
    assert {"video", "vjepa2", "self-supervised"} <= set(data["tags"])
    assert front_matter(model_card(IMAGE, provenance={}))["pipeline_tag"] == "image-feature-extraction"


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("Our Own 1.0", {"license": "other", "license_name": "our-own-1-0"}),
        (None, {}),
        (7, {}),
    ],
)
def test_a_licence_is_named_as_the_hub_names_it(licence: Any, expected: dict[str, str]) -> None:
    data = front_matter(model_card(VIDEO, provenance={} if licence is None else {"licence": licence}))
    assert {key: value for key, value in data.items() if key.startswith("license")} == expected


@pytest.mark.parametrize(
    "model", [model for model in KNOWN_MODELS.values() if model.is_on_hub], ids=lambda model: model.name
)
def test_a_converted_official_model_names_the_official_repository(model: Any) -> None:
    data = front_matter(model_card(VIDEO, provenance={"architecture": model.name, "licence": model.licence}))
    assert data["base_model"] == model.source and data["license"] == model.licence.lower()


def test_the_table_gives_architecture_and_preprocessing() -> None:
    card = model_card(VIDEO, provenance={})
    assert "| encoder | 24 wide, 2 deep, 2 heads, RoPE, tiled |" in card
    assert "| predictor | 12 wide, 1 deep, 1 heads; predicts 24 features a token |" in card
    assert "| preprocessing | short side 36 px, centre crop 32 px, mean 0.485, 0.456, 0.406" in card


def test_results_stand_beside_random_weights(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    assert "None is recorded" in (directory / "README.md").read_text()
    card = evaluate(directory, {**RESULT, "random_init": 0.15, "chance": 0.125, "interval": [0.106, 0.184]}, RESULT)
    head = "| task | data | metric | this model | random weights | chance | note |"
    row = "| direction of motion, ridge probe | rendered clips | accuracy | 0.145 [0.106, 0.184] | 0.150 | 0.125 |  |"
    assert head in card and row in card
    assert "| accuracy | 0.145 | not measured |" in card
    assert "No better than random weights at: direction of motion, ridge probe." in card
    results = front_matter(card)["model-index"][0]["results"]
    assert results[0]["metrics"][0]["value"] == 0.145 and results[0]["dataset"]["name"] == "rendered clips"


def test_a_result_better_than_random_weights_is_no_limit(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    assert "No better" not in evaluate(directory, {**RESULT, "random_init": 0.1})
    assert "No better" not in evaluate(directory, {**RESULT, "random_init": 0.2, "higher_is_better": False})


def test_a_pushed_model_takes_its_evaluation_along(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    evaluate(directory, RESULT)
    assert "evaluation.json" in push(directory, "me/model", dry_run=True).files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold an object"),
        ('{"format_version": 2, "results": []}', "must hold format_version=1 and a list of results"),
        ('{"format_version": 1, "results": {}}', "must hold format_version=1 and a list of results"),
        ('{"format_version": 1, "results": [], "x": 1}', "unknown key 'x'"),
        ('{"format_version": 1, "results": [{"task": "x"}]}', "results.lacks dataset, metric, value"),
        ('{"format_version": 1, "results": [{"tusk": "x"}]}', "did you mean 'results.task'"),
    ],
)
def test_an_evaluation_that_is_none_says_what(text: str, message: str, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    (directory / "evaluation.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        write_card(directory)


def test_data_and_their_licences_are_listed() -> None:
    assert "Not stated: which videos" in model_card(VIDEO, provenance={})
    data = [{"name": "DROID", "clips": 698, "licence": "CC-BY-4.0"}]
    assert "| DROID | 698 | CC-BY-4.0 | not stated |" in model_card(VIDEO, provenance={"data": data})


def test_a_strangers_provenance_cannot_break_out_of_its_line() -> None:
    card = model_card(VIDEO, provenance={"made_by": "x\n\n# Owned\n| a |", "licence": "a\nlibrary_name: evil"})
    assert "\n# Owned" not in card
    assert front_matter(card)["library_name"] == "vjepa-sdk"


HOSTILE = "x\n\n# Owned\n- owned\n| a | b |\n---\nowned: 1\n{{ 7 * 191 }}{% raw %}"


def _skeleton(card: str) -> tuple[object, ...]:
    """Return what a card is made of: the keys at its top, its headings, and the columns of its tables."""
    lines = card.split("\n---\n", 1)[1].splitlines()
    headings = [line for line in lines if line.startswith(("#", "---"))]
    return sorted(front_matter(card)), headings, [line.count("|") for line in lines if line.startswith("|")]


@pytest.mark.parametrize("kind", ["model", "training", "probe", "features"])
def test_nothing_a_stranger_writes_changes_the_shape_of_a_card(kind: str) -> None:
    def card(text: str) -> str:
        provenance = {"made_by": text, text: "y", "licence": text, "data": [{"name": text, "source": text}]}
        result = EvaluationResult(task=text, dataset=text, metric=text, value=0.5, random_init=0.6, note=text)
        if kind == "model":
            return model_card(VIDEO, provenance=provenance, evaluation=[result])
        if kind == "training":
            return training_card(train_config(), provenance=provenance, evaluation=[result])
        if kind == "probe":
            return probe_card(
                to_dict(ProbeConfig(embed_dim=32, num_classes=2)), labels=[text] * 2, provenance=provenance
            )
        return embeddings_card("feats.npy", {"model": {"name": text, "provenance": provenance}}, rows=2, shape=(24,))

    hostile, harmless = card(HOSTILE), card("x")
    assert _skeleton(hostile) == _skeleton(harmless)
    assert "1337" not in hostile and "{{ 7 * 191 }}" in hostile


def write_run(run: Path, lines: int) -> Path:
    config = train_config(settings={"out": str(run), "data": {"path": "/home/someone/clips"}})
    directory = save_tiny(run / "model")
    (run / "config.toml").write_text(to_toml(config))
    metrics = [json.dumps({"step": 10 * (number + 1), "loss": 1 / (number + 1)}) for number in range(lines)]
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in metrics))
    return directory


@pytest.mark.parametrize(("lines", "shown"), [(0, 0), (1, 1), (3, 3), (100, 8)])
def test_a_run_shows_its_metrics_and_configuration(lines: int, shown: int, tmp_path: Path) -> None:
    card = write_card(write_run(tmp_path / "run", lines)).read_text()
    assert len(re.findall(r"^\| \d+0 \| 0|^\| 10 \| 1", card, re.M)) == shown
    assert "## Configuration" in card and "/home/someone" not in card
    if lines:
        assert f"| {10 * lines} | {1 / lines:.3f} |" in card


def test_metrics_that_are_none_say_so(tmp_path: Path) -> None:
    for text in ("{", "[1]\n", '{"loss": 1}\n'):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(ConfigError, match="metrics.jsonl: .*a training run writes it"):
            read_metrics(tmp_path / "metrics.jsonl")


def test_a_training_card_ends_with_the_configuration() -> None:
    assert training_card(train_config(), provenance={}).endswith("```\n")


def test_transformers_layout_gets_a_card_too(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", layout="transformers")
    assert front_matter((tmp_path / "out" / "README.md").read_text())["library_name"] == "vjepa-sdk"
