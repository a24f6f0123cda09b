"""Read what a model was measured to be worth: `evaluation.json`, and the metrics of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..config.documents import read_json
from ..config.schema import check_types, from_dict, unknown
from ..errors import ConfigError

EVALUATION_FORMAT = 1
_METRIC_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One number of `evaluation.json`, and what to hold against it."""

    task: str
    """For example `action classification, attentive probe on frozen features`."""
    dataset: str
    metric: str
    value: float
    random_init: float | None = None
    """The same number for the same network with random weights: what a trained one has to beat."""
    chance: float | None = None
    """What guessing gives."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of `value`."""
    higher_is_better: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        check_types(self)


def read_evaluation(path: str | Path) -> list[EvaluationResult]:
    """Read `evaluation.json`: `{"format_version": 1, "results": [...]}`.

    Raises:
        ConfigError: not such a file.
    """
    data = read_json(path)
    for key in data:
        if key not in ("format_version", "results"):
            raise ConfigError(f"{path}: {unknown(f'key {key!r}', key, ('format_version', 'results'))}")
    if data.get("format_version") != EVALUATION_FORMAT or not isinstance(data.get("results"), list):
        raise ConfigError(f"{path}: must hold format_version={EVALUATION_FORMAT} and a list of results")
    return [from_dict(EvaluationResult, entry, where="results.") for entry in data["results"]]


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return at most eight lines of a `metrics.jsonl`, evenly spread, the last one among them.

    Raises:
        ConfigError: not such a file.
    """
    lines = Path(path).read_bytes().splitlines()
    last = len(lines) - 1
    picked = sorted({round(last * (number + 1) / _METRIC_ROWS) for number in range(_METRIC_ROWS)}) if lines else []
    try:
        metrics = [json.loads(lines[index]) for index in picked]
    except ValueError as error:
        raise ConfigError(f"{path}: not valid: {error}; a training run writes it") from error
    if not all(isinstance(line, dict) and "step" in line for line in metrics):
        raise ConfigError(f"{path}: every line must be an object with a step; a training run writes it")
    return metrics
