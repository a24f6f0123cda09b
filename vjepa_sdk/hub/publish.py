"""Publish what this package writes: find out what a path holds, check it, and push its files and nothing else."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from ..config.documents import read_toml
from ..config.schema import from_dict
from ..config.training import TrainConfig
from ..errors import ConfigError, InputError
from ..features.embeddings import META_SUFFIX, embedding_files, sidecar
from ..features.formats import SUFFIXES
from ..runtime.files import json_text, write_text
from ..runtime.ownership import refuse_link
from ..weights.cards import embeddings_card, model_card, name_of, training_card
from ..weights.description import read_config
from ..weights.directory import check_recorded, describe, model_files
from ..weights.evaluation import read_evaluation, read_metrics
from ..weights.layout import CARD, EVALUATION_NAME, HERE
from ..weights.probe_directory import probe_files, write_probe_card
from .locate import load_embeddings
from .upload import PushOptions, PushReport, push_directory, push_files

logger = logging.getLogger(__name__)


def push(
    path: str | Path,
    repository: str,
    *,
    branch: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    new_card: bool = False,
    keep_card: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
) -> PushReport:
    """Push a model, a probe or features to the hub, as one commit; none if the hub has the same files.

    Of a directory configuration, weights, card, evaluation and licence are pushed, and nothing else that lies there:
    the report says what was left out and why. They are checked first as they are for loading.

    Args:
        path: model or probe directory; or the file of features that `vjepa embed` wrote, which goes with the files
            beside it into a dataset repository.
        repository: `owner/name`; made if it is not there.
        branch: made from `main` if it is not there; None: `main`.
        private: make the repository private; refused if it exists and is public.
        create_pr: propose the commit as a pull request instead, also to repositories of others.
        dry_run: check and report, but send nothing.
        new_card: write the `README.md` anew first; see `write_card`. That of features always is.
        keep_card: leave a card that the repository has already as it is.
        commit_message: None: `Upload with vjepa-sdk`.
        token: of the hub, with the right to write; None: the stored one (`hf auth login`).

    Raises:
        InputError: no such directory.
        ConfigError: a configuration that is not valid, a secret in a file, no right to write, options that do not fit.
        WeightsError: weights that do not fit their configuration; or the hub cannot be reached.
        WriteError: somebody else changed the repository meanwhile.
    """
    path = Path(path)
    options = PushOptions(
        branch=branch,
        private=private,
        create_pr=create_pr,
        dry_run=dry_run,
        keep_card=keep_card,
        commit_message=commit_message,
        token=token,
    )
    if path.is_file():
        return _push_embeddings(path, repository, options)
    if not path.is_dir():
        raise InputError(f"{path}: no such directory; pass a model or probe directory, or an output of `vjepa embed`")
    if new_card:
        write_card(path)
    if _is_probe(path):
        files = probe_files(path)
    else:
        files = model_files(path)
        check_recorded(path)
    if CARD not in files:
        raise ConfigError(f"{path}: holds no {CARD}; pass new_card=True (--new-card) to have one written")
    return push_directory(path, files, repository, options)


def _is_probe(directory: Path) -> bool:
    return "probe" in read_config(directory)


def _push_embeddings(path: Path, repository: str, options: PushOptions) -> PushReport:
    found = load_embeddings(path)
    files: dict[str, Path | bytes] = {**embedding_files(path)}
    if absolute := _absolute_paths(file for file in embedding_files(path).values() if file.suffix == ".jsonl"):
        logger.warning(
            "%s: its lists name files by where they lie on your disk, such as %r, and so will the hub; embed them by "
            "relative paths if that is nobody's business", path, absolute[0],
        )  # fmt: skip
    described = sidecar(path, META_SUFFIX.removeprefix("."))
    meta = json.loads(described.read_bytes())
    model = meta.get("model", {})
    if isinstance(model, dict) and isinstance(model.get("name"), str) and name_of(model["name"]) != model["name"]:
        # where a model lies on a disk is nobody's business either
        meta = {**meta, "model": {**model, "name": name_of(model["name"])}}
        files[described.name] = json_text(meta)
    card = embeddings_card(path.name, meta, rows=len(found.features), shape=found.features[0].shape)
    return push_files(
        {**files, CARD: card.replace(f'"{HERE}"', f'"{repository}"').encode()},
        repository,
        options,
        repo_type="dataset",
        replaces=re.compile(f".*({'|'.join(map(re.escape, (*SUFFIXES, '.jsonl', META_SUFFIX)))})"),
    )


def _absolute_paths(lists: Iterable[Path]) -> list[str]:
    entries = (json.loads(line) for file in lists for line in file.read_bytes().splitlines())
    named = (str(entry.get("path", "")) for entry in entries if isinstance(entry, dict))
    return [name for name in named if name.startswith("/")]


def write_card(directory: str | Path) -> Path:
    """Write the `README.md` of a model or probe directory anew, and return its path.

    That of a model is made from `config.json`, from `evaluation.json` if there is one (see `EvaluationResult`), and, in
    a training run, from the run's `config.toml` and `metrics.jsonl`.

    Raises:
        ConfigError: one of these files is not valid.
        WeightsError: no such directory, or weights that do not fit their configuration.
    """
    directory = Path(directory)
    if _is_probe(directory):
        return write_probe_card(directory)
    check_recorded(directory)
    refuse_link(directory / CARD)
    described, _ = describe(directory)
    found = directory / EVALUATION_NAME
    evaluation = read_evaluation(found) if found.is_file() else []
    run = directory.absolute().parent
    settings, metrics = run / "config.toml", run / "metrics.jsonl"
    # a copy with weights of its own, saved in a run's place, is not what the run has made
    is_of_run = directory.absolute().name == "model" and "weights" not in described.provenance
    if is_of_run and settings.is_file() and metrics.is_file():
        card = training_card(
            from_dict(TrainConfig, read_toml(settings)),
            provenance=described.provenance,
            preprocess=described.preprocess,
            evaluation=evaluation,
            metrics=read_metrics(metrics),
        )
    else:
        card = model_card(
            described.config,
            provenance=described.provenance,
            preprocess=described.preprocess,
            evaluation=evaluation,
        )
    write_text(directory / CARD, card)
    return directory / CARD
