"""Read safetensors files: the header first, checked in full, then exactly the tensors a network needs.

Own code, because three things matter here that a memory map does not give: nothing is allocated before every key and
shape has been compared with the configuration, several stored tensors are read straight into one of ours (transformers
keeps queries, keys and values apart), and weights in memory do not hang on a file that may change.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config.documents import read_json, without_duplicates
from ..errors import ConfigError, WeightsError
from ..runtime.files import atomic_path, write_json
from .layout import INDEX_NAME, WEIGHTS_NAME, TensorSource, pickles_among

MAX_HEADER_BYTES = 2 << 20
"""A header of 1,500 tensors has 0.2 MiB."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive as torch.save writes it",
    b"\x1f\x8b": "a gzip file",
    b"7z\xbc\xaf": "a 7z file",
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, not read yet."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """First byte, counted from the start of the file."""

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def row(self, index: int) -> Stored:
        """Return the part at one index of the first axis."""
        rest = replace(self, shape=self.shape[1:])
        return replace(rest, offset=self.offset + index * rest.num_bytes)


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a model directory: one, whatever its name, or the shards that its index names.

    Raises:
        WeightsError: there are none, one is missing, or the index is not valid.
    """
    single, index = directory / WEIGHTS_NAME, directory / INDEX_NAME
    if single.is_file():
        return [single]
    if not index.is_file():
        if len(others := sorted(directory.glob("*.safetensors"))) == 1:
            return others
        pickles = pickles_among(path.name for path in directory.iterdir())
        hint = f"; {pickles[0]} may hold a pickle, which is never loaded: run `vjepa convert` on it" if pickles else ""
        raise WeightsError(f"{directory}: holds no {WEIGHTS_NAME}{hint}")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WeightsError(f"{index}: must hold a weight_map of tensors to shards; fetch it again")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index}: shard {name!r} must be the name of a .safetensors file beside it")
        if not (directory / name).is_file():
            raise WeightsError(f"{directory}: lacks the shard {name}; fetch it again")
    return [directory / name for name in sorted(set(shards.values()))]


def read_headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """Return what the files hold, by name, from their headers alone.

    Raises:
        WeightsError: not a well-formed safetensors file of floats, or one name twice.
    """
    stored: dict[str, Stored] = {}
    for path in paths:
        for name, tensor in _read_header(path).items():
            if name in stored:
                raise WeightsError(f"{path}: tensor {name!r} is also in {stored[name].path.name}; fetch both again")
            stored[name] = tensor
    return stored


def expected_shapes(module: nn.Module, sources: Mapping[str, TensorSource]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every stored tensor that a network is made from."""
    return {
        name: source.stored_shape(value.shape)
        for key, value in module.state_dict().items()
        for source in (sources[key],)
        for name in source.names
    }


def check_stored(
    where: str | Path, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, Stored], *, remedy: str
) -> None:
    """Compare names and shapes, before anything is read.

    Args:
        where: named in messages.
        expected: what the configuration asks for.
        stored: what the files hold.
        remedy: what the user can do about it.

    Raises:
        WeightsError: missing or unexpected names, or a wrong shape; both shapes are named.
    """
    missing, unexpected = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{where}: tensors do not fit the configuration: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}; {remedy}"
        )
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise WeightsError(f"{where}: tensor {name!r} must have shape {shape}, got {stored[name].shape}; {remedy}")


def check_values(stored: Mapping[str, Stored]) -> None:
    """Read every tensor once, and raise WeightsError if a file ends early or a value is not finite."""
    for tensor in stored.values():
        _read_tensor([tensor], torch.Size(tensor.shape))


def load_module(
    module: nn.Module,
    *,
    sources: Mapping[str, TensorSource],
    stored: Mapping[str, Stored],
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Give a network on the meta device its weights, tensor by tensor; `check_stored` must have passed.

    Args:
        dtype: of the weights in memory; None: as stored. Buffers, which are position tables, are float32 in any case.

    Raises:
        WeightsError: a file ends early, or weights are not finite.
    """
    state = read_state(module, sources=sources, stored=stored, dtype=dtype)
    module.load_state_dict({key: value.to(device) for key, value in state}, strict=True, assign=True)
    module.eval().requires_grad_(False)


def read_state(
    module: nn.Module,
    *,
    sources: Mapping[str, TensorSource],
    stored: Mapping[str, Stored],
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, Tensor]]:
    """Read name and value of each tensor as `load_module` gives it to a network; raises as that."""
    tables = dict(module.named_buffers())
    for key, value in module.state_dict().items():
        source = sources[key]
        parts = [stored[name] if source.row is None else stored[name].row(source.row) for name in source.names]
        yield key, _read_tensor(parts, value.shape).to(dtype=torch.float32 if key in tables else dtype)


def to_stored(state: Mapping[str, Tensor], sources: Mapping[str, TensorSource]) -> dict[str, Tensor]:
    """Cut and stack our tensors into those of another layout: the inverse of what `load_module` reads."""
    stored: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        source = sources[key]
        if source.row is not None:
            rows.setdefault(source.names[0], []).append(value)
        elif source.lacks_frame_axis:
            stored[source.names[0]] = value.squeeze(2)
        else:
            stored.update(zip(source.names, value.chunk(len(source.names)), strict=True))
    stored.update({name: torch.stack(values) for name, values in rows.items()})
    return {name: value.detach().cpu().contiguous().clone() for name, value in stored.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; what the disk refuses is an OSError here too."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Shards:
    """Which tensors go into which file."""

    tensors: Mapping[str, Sequence[str]]
    """By the name of the file."""
    metadata: Mapping[str, Any]

    @property
    def has_index(self) -> bool:
        """Whether there are several files, which an index lists."""
        return len(self.tensors) > 1

    @property
    def files(self) -> set[str]:
        """Names of all files."""
        return {*self.tensors, *([INDEX_NAME] if self.has_index else [])}


def plan_shards(tensors: Mapping[str, Tensor], *, max_shard_size: int | str) -> Shards:
    """Divide tensors among files: one, or shards where it would be larger than that.

    Args:
        max_shard_size: in bytes, or with a unit, such as `5GB`; a larger tensor has a shard of its own.

    Raises:
        ConfigError: no such size.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    try:
        if isinstance(max_shard_size, int) and max_shard_size < 1:
            raise ValueError
        plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    except (ValueError, TypeError):
        raise ConfigError(
            f"max_shard_size={max_shard_size!r} must be a size such as '5GB', or a count of bytes"
        ) from None
    return Shards(plan.filename_to_tensors, plan.metadata)


def write_weights(directory: Path, tensors: Mapping[str, Tensor], shards: Shards, *, old: Collection[str]) -> None:
    """Write the weights of a directory: one file, or shards and their index.

    At every moment the directory holds old weights, new weights or, to a reader, none: older files go last.

    Args:
        old: names of the weights that are replaced.

    Raises:
        OSError: the disk is full, read-only or failing.
    """
    if INDEX_NAME in old and shards.tensors.keys() & set(old):
        (directory / INDEX_NAME).unlink()  # new shards under old names must not be mixed with old ones
    for name, keys in shards.tensors.items():
        with atomic_path(directory / name) as path:
            write_tensors(path, {key: tensors[key] for key in keys})
    if shards.has_index:
        places = {key: name for name, keys in shards.tensors.items() for key in keys}
        write_json(directory / INDEX_NAME, {"metadata": shards.metadata, "weight_map": places})
    for name in set(old) - shards.files:
        (directory / name).unlink(missing_ok=True)


def is_pickle(path: Path) -> bool:
    """Whether a file looks like one `torch.save` wrote; decided by its content, whatever its name."""
    return "pickle" in _kind(path) or "torch.save" in _kind(path)


def _read_tensor(parts: Sequence[Stored], shape: torch.Size) -> Tensor:
    if len({part.dtype for part in parts}) > 1:
        raise WeightsError(f"{parts[0].path}: parts of one tensor have different dtypes; fetch the file again")
    tensor = torch.empty(shape, dtype=parts[0].dtype)
    buffer: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    start = 0
    for part in parts:
        try:
            with open(part.path, "rb", buffering=0) as file:
                file.seek(part.offset)
                end = start + part.num_bytes
                while start < end:
                    if (count := file.readinto(buffer[start:end])) in (0, None):
                        raise WeightsError(f"{part.path}: ends early, while it is read; fetch it again")
                    start += count
        except WeightsError:
            raise
        except OSError as error:
            raise WeightsError(f"{part.path}: cannot be read ({error.strerror}); check the disk") from error
    # one pass that copies nothing: a NaN becomes both extremes, an infinity one of them
    if not all(math.isfinite(value) for value in map(float, torch.aminmax(tensor))):
        raise WeightsError(f"{parts[0].path}: a tensor of shape {tuple(shape)} holds NaN or infinity; fetch it again")
    return tensor


def _read_header(path: Path) -> dict[str, Stored]:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise _malformed(path, f"its header would have {length:,} of {size:,} bytes")
            if length > MAX_HEADER_BYTES:
                raise _malformed(path, f"its header has {length:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
            text = file.read(length)
        header = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"its header is not valid JSON: {error}") from error
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not isinstance(header, dict):
        raise _malformed(path, "its header is not an object")
    header.pop("__metadata__", None)
    return _lay_out(path, header, first=8 + length, size=size)


def _lay_out(path: Path, header: Mapping[str, Any], *, first: int, size: int) -> dict[str, Stored]:
    """Turn a header into tensors that cover the file's values without gaps or overlaps."""
    spans: list[tuple[int, int, str]] = []
    stored = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
            raise _malformed(path, f"the entry of tensor {name!r} must hold dtype, shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not (_are_counts(shape) and len(shape) <= 8 and _are_counts(offsets) and len(offsets) == 2):
            raise _malformed(path, f"shape or data_offsets of tensor {name!r} are not lists of counts")
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise WeightsError(f"{path}: tensor {name!r} must hold floats ({', '.join(_DTYPES)}), got {kind!r}")
        stored[name] = Stored(path, _DTYPES[kind], tuple(shape), first + offsets[0])
        if stored[name].num_bytes != offsets[1] - offsets[0]:
            raise _malformed(
                path, f"tensor {name!r} of shape {shape} does not fill its {offsets[1] - offsets[0]} bytes"
            )
        spans.append((offsets[0], offsets[1], name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise _malformed(path, f"tensor {name!r} begins at byte {start}, the one before ends at {end}")
        end = stop
    if first + end != size:
        raise _malformed(path, f"it has {size:,} bytes, its header describes {first + end:,}")
    return stored


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _malformed(path: Path, reason: str) -> WeightsError:
    kind = _kind(path)
    remedy = f"it is {kind}, which is never loaded; run `vjepa convert` on it" if kind else "fetch or convert it again"
    return WeightsError(f"{path}: not a valid safetensors file: {reason}; {remedy}")


def _kind(path: Path) -> str:
    """Name the format of a file that may hold a pickle; empty for others."""
    with open(path, "rb") as file:
        start = file.read(512)
    for magic, kind in _ARCHIVES.items():
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive"
    # protocol 2 and up begin with 0x80; a safetensors header has its brace at byte 8
    if start[:1] == b"\x80" and 2 <= int.from_bytes(start[1:2]) <= 5 and start[8:9] != b"{":
        return "a pickle"
    return ""
