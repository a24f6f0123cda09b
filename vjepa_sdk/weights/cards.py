"""Write model cards: what a model is, how to use it, what it was trained on, what it is worth, what it is not for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.documents import to_toml
from ..config.model import ModelConfig, PreprocessConfig
from ..config.registry import KNOWN_MODELS
from ..config.training import DataConfig, TrainConfig
from .evaluation import EvaluationResult
from .layout import HERE

_METRICS = ("loss", "prediction_loss", "target_std", "target_effective_rank", "target_mean_cosine")
_HUB_LICENCES = {
    "apache-2.0",
    "mit",
    "cc-by-nc-4.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "bsd-3-clause",
    "unlicense",
}
_FAMILIES = {"vjepa": "V-JEPA", "vjepa2": "V-JEPA 2", "vjepa2.1": "V-JEPA 2.1", "ijepa": "I-JEPA"}


def model_card(
    config: ModelConfig,
    *,
    provenance: Mapping[str, Any],
    preprocess: PreprocessConfig | None = None,
    evaluation: Sequence[EvaluationResult] = (),
    metrics: Sequence[Mapping[str, float]] = (),
) -> str:
    """Return the card of a model directory.

    Args:
        provenance: as in `config.json`; `licence`, `base_model`, `videos` and `data` have places of their own.
        preprocess: None: the official one for the model's size.
        evaluation: what the model was measured to be worth.
        metrics: lines of the training run's `metrics.jsonl` to show.
    """
    preprocess = preprocess or PreprocessConfig.for_crop(config.img_size)
    name = f"{_FAMILIES[config.family]} encoder, {config.embed_dim} x {config.depth}"
    frames, rows, columns = config.grid
    what = "an image" if config.is_image_model else f"{config.num_frames} frames"
    return f"""{_front_matter(config, name, provenance, evaluation)}
# {name}

A vision transformer that turns {what} of {config.img_size} x {config.img_size} pixels into {frames} x {rows} x \
{columns} tokens of {config.embed_dim} features.

## Use

{_usage(config)}
## Model

{_architecture(config, preprocess)}
## Training

{_training(provenance, metrics)}
## Evaluation

{_evaluation(evaluation)}
## Limits

{_limits(provenance, evaluation)}
## Licence

{_licence(provenance)}
"""


def training_card(
    config: TrainConfig,
    *,
    provenance: Mapping[str, Any],
    preprocess: PreprocessConfig | None = None,
    evaluation: Sequence[EvaluationResult] = (),
    metrics: Sequence[Mapping[str, float]] = (),
) -> str:
    """Return the card of a model that `vjepa pretrain` exported, with its whole configuration."""
    config = replace(
        config,
        out="",
        init_from=name_of(config.init_from) if config.init_from is not None else None,
        data=_without_places(config.data),
        images=replace(config.images, data=_without_places(config.images.data)) if config.images is not None else None,
    )
    card = model_card(
        config.model, provenance=provenance, preprocess=preprocess, evaluation=evaluation, metrics=metrics
    )
    return f"{card}\n## Configuration\n\n```toml\n{to_toml(config)}```\n"


def _without_places(data: DataConfig) -> DataConfig:
    """Keep the names of the clips' sources: where they lie on the trainer's disk is nobody else's business."""
    sources = tuple(replace(source, path=Path(source.path).name) for source in data.sources)
    return replace(data, path=Path(data.path).name, sources=sources)


def name_of(origin: str) -> str:
    """Return the last part of a path; a hub id stays whole."""
    is_path = origin.startswith((".", "/", "~")) or Path(origin).exists()
    return Path(origin).name if is_path else origin


def probe_card(shape: Mapping[str, Any], *, labels: Sequence[str], provenance: Mapping[str, Any]) -> str:
    """Return the card of a probe directory.

    Args:
        shape: `ProbeConfig` as plain data.
    """
    licence, licence_name = _hub_licence(provenance)
    front = _yaml(
        library_name="vjepa-sdk",
        pipeline_tag="video-classification",
        tags=["video", "jepa", "attentive-probe"],
        license=licence,
        license_name=licence_name,
        base_model=_base_model(provenance),
    )
    classes = ", ".join(map(_plain, labels[:10])) + (", ..." if len(labels) > 10 else "") if labels else "not named"
    return f"""{front}
# Attentive probe, {shape["num_classes"]} classes

Classifies clips by the tokens of a frozen V-JEPA encoder with {shape["embed_dim"]} features a token.

## Use

```python
from vjepa_sdk import Probe

probe = Probe.from_pretrained("{HERE}")
print(len(probe.labels), probe.probe.config)
```

## Probe

{_table(("", ""), ((key.replace("_", " "), _plain(value)) for key, value in shape.items()))}
Classes: {classes}.

## Where it comes from

{_listed(provenance) or "Not recorded."}

## Licence

{_licence(provenance)}
"""


def _front_matter(
    config: ModelConfig, name: str, provenance: Mapping[str, Any], evaluation: Sequence[EvaluationResult]
) -> str:
    from huggingface_hub import EvalResult

    licence, licence_name = _hub_licence(provenance)
    results = [
        EvalResult(
            task_type="image-classification" if config.is_image_model else "video-classification",
            task_name=result.task,
            dataset_type=_slug(result.dataset),
            dataset_name=result.dataset,
            metric_type=_slug(result.metric),
            metric_name=result.metric,
            metric_value=result.value,
        )
        for result in evaluation
    ]
    return _yaml(
        library_name="vjepa-sdk",
        pipeline_tag="image-feature-extraction" if config.is_image_model else "feature-extraction",
        tags=["image" if config.is_image_model else "video", config.family, "jepa", "self-supervised"],
        license=licence,
        license_name=licence_name,
        base_model=_base_model(provenance),
        eval_results=results or None,
        model_name=name if results else None,
    )


def _yaml(**data: Any) -> str:
    """Return the block that the hub reads at the top of a card."""
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n"


def _slug(text: str) -> str:
    return "-".join("".join(char if char.isalnum() else " " for char in text.lower()).split())


def _hub_licence(provenance: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the hub's identifier of a licence and, for one that the hub does not list, its name."""
    licence = provenance.get("licence")
    if not isinstance(licence, str):
        return None, None
    return (licence.lower(), None) if licence.lower() in _HUB_LICENCES else ("other", _slug(licence))


def _base_model(provenance: Mapping[str, Any]) -> str | None:
    """Return the hub repository that a model was made from: stated, or that of the official checkpoint."""
    info = KNOWN_MODELS.get(str(provenance.get("architecture", "")))
    stated = provenance.get("base_model", info.source if info is not None and info.is_on_hub else None)
    return stated if isinstance(stated, str) else None


def _usage(config: ModelConfig) -> str:
    file = "image.jpg" if config.is_image_model else "clip.mp4"
    return f"""```console
$ pip install vjepa-sdk
```

```python
from vjepa_sdk import VJEPA

model = VJEPA.from_pretrained("{HERE}")
features = model.encode("{file}")  # float32 [{config.embed_dim}]
```
"""


def _architecture(config: ModelConfig, preprocess: PreprocessConfig) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std))
    tubelet = f"{config.tubelet_size} x {config.patch_size} x {config.patch_size}"
    rope = f"RoPE, {config.rope_layout}" if config.position == "rope" else "sin-cos table"
    rows = {
        "encoder": f"{config.embed_dim} wide, {config.depth} deep, {config.num_heads} heads, {rope}",
        "token": f"{tubelet} pixels (frames, rows, columns)",
        "predictor": f"{config.predictor_embed_dim} wide, {config.predictor_depth} deep, "
        f"{config.predictor_num_heads} heads; predicts {config.prediction_dim} features a token",
        "parameters": f"about {_round(config.num_parameters)}, encoder and predictor",
        "input": f"{config.num_frames} frames of RGB, uint8",
        "preprocessing": f"short side {preprocess.resize_size} px, centre crop {preprocess.crop_size} px, "
        f"mean {mean}, standard deviation {std}",
    }
    return _table(("", ""), rows.items())


def _round(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _training(provenance: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]) -> str:
    text = _listed(provenance) or "How these weights were made is not recorded.\n"
    metrics = [line for line in metrics if line.get("loss") is not None]  # a skipped step has none
    if metrics:
        shown = [name for name in _METRICS if name in metrics[-1]]
        lines = [(line["step"], *(f"{line.get(name, math.nan):.3f}" for name in shown)) for line in metrics]
        text += "\n" + _table(("step", *(name.replace("_", " ") for name in shown)), lines)
    return f"{text}\n### Data\n\n{_data(provenance)}"


def _listed(provenance: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in sorted(provenance.items()) if key not in ("data", "licence")}
    return "".join(f"- {_plain(key).replace('_', ' ')}: {_plain(value)}\n" for key, value in facts.items())


def _plain(value: object) -> str:
    """Return text that cannot end a line or a table's cell: provenance may come from a stranger's file."""
    return " ".join(str(value).replace("|", "/").split())[:200]


def _data(provenance: Mapping[str, Any]) -> str:
    """Say what a model was trained on: `provenance["data"]` is a list of `name`, `clips`, `licence`, `source`."""
    data = provenance.get("data")
    columns = ("name", "clips", "licence", "source")
    if isinstance(data, list) and data and all(isinstance(entry, dict) for entry in data):
        return _table(columns, ([_plain(entry.get(column, "not stated")) for column in columns] for entry in data))
    return "Not stated: which videos these weights were trained on, and under which licences they are.\n"


def _evaluation(evaluation: Sequence[EvaluationResult]) -> str:
    if not evaluation:
        return (
            "None is recorded. Before you rely on these features, compare them on your data with those of the same "
            "network with random weights (`VJEPA.untrained`).\n"
        )
    rows = []
    for result in evaluation:
        span = f" [{result.interval[0]:.3f}, {result.interval[1]:.3f}]" if result.interval else ""
        random_init = "not measured" if result.random_init is None else f"{result.random_init:.3f}"
        chance = "" if result.chance is None else f"{result.chance:.3f}"
        cells = (
            result.task,
            result.dataset,
            result.metric,
            f"{result.value:.3f}{span}",
            random_init,
            chance,
            result.note,
        )
        rows.append([_plain(cell) for cell in cells])
    head = ("task", "data", "metric", "this model", "random weights", "chance", "note")
    return f"{_table(head, rows)}\nRandom weights: the same network before any training, evaluated alike.\n"


def _limits(provenance: Mapping[str, Any], evaluation: Sequence[EvaluationResult]) -> str:
    lines = [
        "The features know what the training videos showed; other cameras, places and people may be described badly.",
        "They carry the biases of these videos. Do not use them to identify or judge people, or where safety depends "
        "on them.",
    ]
    beaten = [result.task for result in evaluation if _is_no_better(result)]
    if beaten:
        lines.append(f"No better than random weights at: {_plain('; '.join(beaten))}.")
    if isinstance(provenance.get("clips_seen"), int):
        lines.append(f"Trained on {provenance['clips_seen']:,} clips in all; published models saw many millions.")
    return "".join(f"- {line}\n" for line in lines)


def _is_no_better(result: EvaluationResult) -> bool:
    """Whether random weights do as well."""
    if result.random_init is None:
        return False
    gain = result.value - result.random_init
    return gain <= 0 if result.higher_is_better else gain >= 0


def _licence(provenance: Mapping[str, Any]) -> str:
    licence = provenance.get("licence")
    if not isinstance(licence, str):
        return "Not stated: without a licence nobody else may use these weights.\n"
    more = ", for non-commercial use only" if "-NC" in licence.upper() else ""
    return f"Weights: {_plain(licence)}{more}. The code of vjepa-sdk: Apache-2.0.\n"


def _table(head: Sequence[object], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
