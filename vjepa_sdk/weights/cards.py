"""Write model cards: what a model is, how to use it, what it was trained on, what it is worth, what it is not for.

The prose is in `templates/`. Whatever a template prints goes through `_plain`: provenance, labels and measurements may
come from a stranger's file. Only text that was made here is exempt (`_Ours`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.choices import ProbeKind
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
_DATA_COLUMNS = ("name", "clips", "licence", "source")


class _Ours(str):
    """Text that was made here, and may have lines."""


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
    name = f"{_FAMILIES[config.family]} encoder, {config.embed_dim} x {config.depth}"
    values = {
        "front": _Ours(_front_matter(config, name, provenance, evaluation)),
        "name": name,
        "what": "an image" if config.is_image_model else f"{config.num_frames} frames",
        "config": config,
        "architecture": _architecture(config, preprocess or PreprocessConfig.for_crop(config.img_size)),
        "metrics": _metrics(metrics),
        "data": _data(provenance),
        "evaluation": [_measured(result) for result in evaluation],
        "beaten": "; ".join(result.task for result in evaluation if _is_no_better(result)),
        "provenance": provenance,
        "licence": provenance.get("licence"),
    }
    return _render("model.md.jinja", values)


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


def probe_card(
    shape: Mapping[str, Any],
    *,
    kind: ProbeKind = "attentive",
    labels: Sequence[str],
    provenance: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> str:
    """Return the card of a probe directory.

    Args:
        shape: the probe's configuration as plain data.
        model: that the probe reads features of; None if that is not known.
        fit: how it was fitted, as `config.json` has it.
        scores: what it reaches, as `config.json` has it.
    """
    columns, rows = _score_table(scores or {})
    licence, licence_name = _hub_licence(provenance)
    front = _yaml(
        library_name="vjepa-sdk",
        pipeline_tag=None if kind == "regression" else "video-classification",
        tags=["video", "jepa", f"{kind}-probe"],
        license=licence,
        license_name=licence_name,
        base_model=_base_model(provenance),
    )
    values = {
        "front": _Ours(front),
        "kind": kind,
        "shape": shape,
        "architecture": [(key.replace("_", " "), value) for key, value in shape.items()],
        "labels": labels,
        "model": {**model, "name": name_of(str(model.get("name", "")))} if model else {},
        "fit": [(k.replace("_", " "), v) for k, v in (fit or {}).items() if not isinstance(v, list | dict)],
        "table": rows,
        "columns": columns,
        "sentence": (scores or {}).get("sentence", ""),
        "provenance": provenance,
        "licence": provenance.get("licence"),
    }
    return _render("probe.md.jinja", values)


def _score_table(scores: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return head and rows of a probe's results; none of what has another form than ours."""
    columns, rows = scores.get("columns"), scores.get("table")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return [], []
    return columns, [
        [row.get(key, "") for key in ["what", *map(str, columns)]] for row in rows if isinstance(row, dict)
    ]


def embeddings_card(name: str, meta: Mapping[str, Any], *, rows: int, shape: Sequence[int]) -> str:
    """Return the card of an output of `vjepa embed`, in a dataset repository.

    Args:
        name: of the file of features.
        meta: content of its `.meta.json`.
        shape: of one row.
    """
    from huggingface_hub import DatasetCardData

    model = dict(meta.get("model", {}))
    source = {**dict(model.pop("provenance", {})), **{f"model {key}": value for key, value in model.items()}}
    title = f"Features of videos, {rows} {'row' if rows == 1 else 'rows'}"
    front = DatasetCardData(tags=["vjepa-sdk", "video", "embeddings"], pretty_name=title)
    values = {
        "front": _Ours(f"---\n{front.to_yaml()}\n---\n"),
        "title": title,
        "name": name,
        "stem": name.rpartition(".")[0],
        "shape": " x ".join(map(str, shape)),
        "provenance": source,
        "licence": source.get("licence"),
    }
    return _render("features.md.jinja", values)


def _render(template: str, values: Mapping[str, object]) -> str:
    # huggingface_hub's ModelCard.from_template would do, were it not for `finalize`, which it does not let through
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, _Ours) else _plain(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values, here=HERE)


def _plain(value: object) -> str:
    """Return text that cannot end a line or a table's cell: provenance may come from a stranger's file."""
    return " ".join(str(value).replace("|", "/").split())[:200]


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
    # of a directory or a bundled model the text has the name; here the hub looks for a repository
    return stated if isinstance(stated, str) and "/" in stated else None


def _architecture(config: ModelConfig, preprocess: PreprocessConfig) -> list[tuple[str, str]]:
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
    return list(rows.items())


def _round(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[Any]]:
    """Return the head and rows of the table of a training run."""
    metrics = [line for line in metrics if line.get("loss") is not None]  # a skipped step has none
    shown = [name for name in _METRICS if metrics and name in metrics[-1]]
    return {
        "head": ["step", *(name.replace("_", " ") for name in shown)],
        "rows": [[line["step"], *(f"{line.get(name, math.nan):.3f}" for name in shown)] for line in metrics],
    }


def _data(provenance: Mapping[str, Any]) -> list[list[object]]:
    """Return what a model was trained on: `provenance["data"]` is a list of `name`, `clips`, `licence`, `source`."""
    data = provenance.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        return []
    return [[entry.get(column, "not stated") for column in _DATA_COLUMNS] for entry in data]


def _measured(result: EvaluationResult) -> list[str]:
    """Return the cells of one measurement."""
    span = f" [{result.interval[0]:.3f}, {result.interval[1]:.3f}]" if result.interval else ""
    random_init = "not measured" if result.random_init is None else f"{result.random_init:.3f}"
    chance = "" if result.chance is None else f"{result.chance:.3f}"
    return [
        result.task,
        result.dataset,
        result.metric,
        f"{result.value:.3f}{span}",
        random_init,
        chance,
        result.note,
    ]


def _is_no_better(result: EvaluationResult) -> bool:
    """Whether random weights do as well."""
    if result.random_init is None:
        return False
    gain = result.value - result.random_init
    return gain <= 0 if result.higher_is_better else gain >= 0
