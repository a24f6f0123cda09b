"""Find the directory of a model or output: by path, by known name, or on the hub."""

from __future__ import annotations

import difflib
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..config.documents import MAX_CONFIG_BYTES, read_json
from ..config.model import MODEL_FORMAT, PreprocessConfig
from ..config.registry import KNOWN_MODELS, ModelInfo
from ..config.schema import to_dict
from ..errors import ConfigError, InputError, WeightsError, naming
from ..features.embeddings import INDEX, META, META_SUFFIX, Embeddings, sidecar
from ..features.formats import SUFFIXES, check_suffix, iter_rows, load_npy, stack_rows
from ..weights.description import check_model_config
from ..weights.layout import CONFIG_NAME, INDEX_NAME, WEIGHT_NAMES, WEIGHTS_NAME, pickles_among
from ..weights.provenance import origin_of, state_licence
from .client import HubOptions, is_repository_id
from .download import fetch
from .official import fetch_official

_CONVERTED: dict[str, Any] = {
    "format_version": MODEL_FORMAT,
    "encoder_weights": "target",
    "preprocess": to_dict(PreprocessConfig.for_crop(256)),
}
"""What the `config.json` of a converted file says of its kind, before there is one."""


def locate_model(
    name_or_path: str | os.PathLike[str],
    hub: HubOptions,
    *,
    check_config: Callable[[Mapping[str, Any]], None] = check_model_config,
) -> Path:
    """Return the local directory of a model: a path, a known name, or a hub id fetched into the hub's cache.

    A name that stands for an official file is fetched and converted at its first use.

    Args:
        name_or_path: a path object is never a name or hub id, even if it looks like one.
        check_config: refuses the content of a fetched `config.json`, before any weights are fetched.

    Raises:
        ConfigError: neither a directory, a known name nor a hub id; or the hub does not know it or grant access; or a
            revision of what has none, or a configuration of another kind of model.
        WeightsError: it cannot be fetched, or is not what the hub says it is.
        WriteError: the cache's disk is full.
    """
    check_model_name(name_or_path)
    directory = _directory_here(name_or_path)
    if directory is not None:
        _refuse_revision(hub.revision, directory)
        return directory
    name = os.fspath(name_or_path)
    known = KNOWN_MODELS.get(name)
    if known is not None and known.is_official_file:
        check_config(_CONVERTED)
        return fetch_official(known, hub)
    repository = known.source if known is not None else name
    info = known or next((model for model in KNOWN_MODELS.values() if model.source == repository), None)
    state_licence(repository, info.licence if info is not None else None)

    def check(directory: Path) -> None:
        with naming(f"{repository}: {CONFIG_NAME}"):
            check_config(read_json(directory / CONFIG_NAME))

    pinned = hub.revision or (known.revision if known is not None else "")
    with _second_hand(known if hub.revision is None else None):
        return fetch(
            repository,
            replace(hub, revision=pinned or None),
            choose=choose_model_files,
            check=check,
            known_sha256=info.file_sha256 if info is not None and pinned == info.revision else {},
        ).directory


def check_model_name(name_or_path: str | os.PathLike[str]) -> None:
    """Refuse what can be no model, as far as that is known without the hub.

    Raises:
        ConfigError: neither a directory, a known name nor a text that can be a hub id.
    """
    name = os.fspath(name_or_path)
    if _directory_here(name_or_path) is not None or (isinstance(name_or_path, str) and name in KNOWN_MODELS):
        return
    place = Path(name).expanduser()
    if not place.is_file() and (not isinstance(name_or_path, str) or name.startswith((".", "/", "~"))):
        raise ConfigError(f"{place}: no such directory; pass a model directory or a name from `vjepa models`")
    if place.is_file() or not is_repository_id(name):
        raise _unknown_model(name)


def _directory_here(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the directory that a path is, or that a model of this package is in."""
    name = os.fspath(name_or_path)
    is_path = not isinstance(name_or_path, str) or name.startswith((".", "/", "~"))
    directory = Path(name).expanduser() if is_path else Path(name)
    if name and directory.is_dir():
        return directory
    known = None if is_path else KNOWN_MODELS.get(name)
    return known.directory if known is not None and known.is_bundled else None


@contextmanager
def _second_hand(info: ModelInfo | None) -> Iterator[None]:
    """Say of a commit that we pinned, and that the hub does not have, that we have it from others."""
    try:
        yield
    except ConfigError as error:
        from huggingface_hub.errors import RevisionNotFoundError

        if info is None or not isinstance(error.__cause__, RevisionNotFoundError):
            raise
        raise ConfigError(
            f"{info.source}: has no commit {info.revision}, which {info.name} stands for. That one is second-hand, and "
            "may be wrong; to take what the hub has, pass revision='main' (--revision main)"
        ) from error.__cause__


def _refuse_revision(revision: str | None, place: str | Path) -> None:
    if revision is not None:
        raise ConfigError(f"{place}: is a directory here, which has no revision={revision!r}; leave revision out")


def _looks_like_path(name: str) -> bool:
    """Whether a name can be neither that of a model nor a hub id, `owner/name`, but a path."""
    return name.count("/") > 1 or name.startswith(("/", ".", "~")) or name.endswith("/") or "\\" in name


def _unknown_model(name: str) -> ConfigError:
    if Path(name).is_file():
        return ConfigError(f"{name!r} is a file; pass a model directory, or run `vjepa convert` on an official file")
    if _looks_like_path(name):
        return ConfigError(
            f"{name!r}: no such directory; pass one that holds config.json and model.safetensors, such as RUN/model, "
            "or a name from `vjepa models`"
        )
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"available: {', '.join(KNOWN_MODELS)}"
    return ConfigError(f"unknown model {name!r}; {hint} (or pass a directory or a hub id such as owner/name)")


def choose_model_files(sizes: Mapping[str, int]) -> list[str]:
    """Pick the files of a model or probe: its configuration and its weights, as one file or in shards.

    Raises:
        ConfigError: there is no `config.json`, or one too large to be one.
        WeightsError: there are no safetensors.
    """
    if CONFIG_NAME not in sizes:
        raise ConfigError(f"holds no {CONFIG_NAME}; pass a repository that vjepa-sdk or transformers made")
    if sizes[CONFIG_NAME] > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{CONFIG_NAME} has {sizes[CONFIG_NAME]:,} bytes, a configuration has at most {MAX_CONFIG_BYTES:,}; "
            "this is no model of ours"
        )
    configurations = [name for name, size in sizes.items() if name.endswith(".json") and size <= MAX_CONFIG_BYTES]
    if WEIGHTS_NAME in sizes:
        return [*configurations, WEIGHTS_NAME]
    weights = [name for name in sizes if name.endswith(".safetensors")]
    if INDEX_NAME not in configurations or not weights:
        pickles = pickles_among(sizes)
        hint = f"{pickles[0]} may hold a pickle, which is never loaded: " if pickles else ""
        raise WeightsError(
            f"holds no {WEIGHTS_NAME}; {hint}run `vjepa convert` on official files and pass its directory"
        )
    # other models may lie beside them
    return configurations + ([name for name in weights if WEIGHT_NAMES.fullmatch(name)] or weights)


def fetch_output(repository: str, hub: HubOptions, *, suffixes: Collection[str]) -> Path:
    """Fetch what `vjepa embed` wrote from a dataset repository, and return the path of its features.

    Args:
        suffixes: that features have.

    Raises:
        InputError: the repository holds none, or more than one.
        ConfigError, WeightsError, WriteError: as for `fetch`.
    """
    kinds = (*suffixes, ".jsonl", META_SUFFIX)
    found = fetch(
        repository,
        hub,
        choose=lambda sizes: [name for name in sizes if name.endswith(kinds)],
        repo_type="dataset",
    )
    described = sorted(found.directory.glob(f"*{META_SUFFIX}"))
    output = read_json(described[0]).get("output") if len(described) == 1 else None
    if not isinstance(output, str) or Path(output).name != output or not output.endswith(tuple(suffixes)):
        raise InputError(f"{repository}: holds {len(described)} outputs of `vjepa embed`, must hold one; push one")
    if output.endswith(".npz") and _is_compressed(found.directory / output):
        raise InputError(f"{repository}: {output} is compressed, which `vjepa embed` never writes: it may be a bomb")
    return found.directory / output


def _is_compressed(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())


def load_embeddings(
    path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    memory_map: bool = False,
) -> Embeddings:
    """Load what `embed_files` wrote, in any of its formats, here or from the hub.

    Args:
        path: the file of features, with its `.index.jsonl` and `.meta.json` beside it; or the hub id `owner/name` of a
            dataset repository that `push` made. Arguments not listed here are those of `VJEPA.from_pretrained`.
        memory_map: leave the rows of a `.npy` on disk until they are looked at.

    Raises:
        ConfigError: a suffix that is none of the formats, or `.parquet` without pyarrow; or the hub does not know the
            repository or grant access.
        InputError: a file is missing, damaged, or they do not belong together.
        WeightsError: it cannot be fetched, or is not what the hub says it is.
    """
    hub = HubOptions(
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    path = locate_output(path, hub)
    try:
        meta = json.loads(sidecar(path, META).read_bytes())
        index = [json.loads(line) for line in sidecar(path, INDEX).read_bytes().splitlines()]
        # .npy in one piece, the others row by row
        mode: Literal["r"] | None = "r" if memory_map else None
        features = load_npy(path, mmap_mode=mode) if path.suffix == ".npy" else stack_rows(list(iter_rows(path)))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: does not exist; `vjepa embed --out {path}` writes it") from error
    except Exception as error:  # numpy, zipfile and safetensors raise half a dozen classes on damaged files
        raise InputError(f"{path}: is damaged or not written by `vjepa embed` ({error})") from error
    if not isinstance(meta, dict) or meta.get("output") != path.name or len(features) != len(index):
        raise InputError(
            f"{path}: has {len(features)} rows, but its index has {len(index)} lines and belongs to "
            f"{meta.get('output') if isinstance(meta, dict) else None!r}; keep the files of one run together"
        )
    return Embeddings(features, index, {**meta, **origin_of(path.parent)})


def locate_output(path: str | Path, hub: HubOptions) -> Path:
    """Return the local file of features: a path, or a hub id whose files are fetched into the hub's cache.

    Raises:
        ConfigError: a suffix that is none of the formats, `.parquet` without pyarrow, or a revision of what has none.
        InputError, WeightsError, WriteError: as for `fetch_output`.
    """
    if _is_on_hub(path):
        path = fetch_output(str(path), hub, suffixes=SUFFIXES)
    elif hub.revision is not None:
        raise ConfigError(f"{path}: is no hub id, so it has no revision={hub.revision!r}; leave revision out")
    path = Path(path)
    check_suffix(path)
    return path


def _is_on_hub(path: str | Path) -> bool:
    """Whether a text can only be a hub id: no format's suffix, and no such file."""
    return isinstance(path, str) and is_repository_id(path) and not path.endswith(SUFFIXES) and not Path(path).exists()
