"""Damage model directories in every way the formats allow, and load them; run as `python mutants.py COUNT SEED`.

Prints what broke the promise: a load that ends otherwise than well or in one of our errors, or that needs more than
64 MiB beyond what loading the intact directory took.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import resource
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.errors import VJEPAError
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights import transformers_layout
from vjepa_sdk.weights.directory import load_model_directory, save_model_directory
from vjepa_sdk.weights.tensors import to_stored

CPU = torch.device("cpu")
VALUES: tuple[Any, ...] = (
    -1, 0, 1, 3, 256, 4096, 16384, 2**31,
    2**63, 10**400, -(2**63), 1e308, float("nan"), float("inf"), "1", "", "x" * 9999, None, True,
    [], {}, [[]], {"a": 1}, [2**40] * 5, "target", "rope", "sincos", "interleaved", "__import__('os')",
)  # fmt: skip


def main(count: int, seed: int) -> None:
    """Try `count` mutants."""
    torch.set_num_threads(1)
    chance, faults, loaded = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as directory:
        originals = [write(Path(directory)) for write in (_ours, _transformers)]
        for original in originals:
            load_model_directory(original, device=CPU)
        _limit_memory(64 << 20)
        for number in range(count):
            mutant = Path(directory) / "mutant"
            shutil.copytree(chance.choice(originals), mutant)
            change = chance.choice((_mutate_json, _mutate_json, _mutate_header, _mutate_header, _mutate_bytes))
            what = change(mutant, chance)
            try:
                load_model_directory(mutant, device=CPU)
                loaded += 1
            except VJEPAError as error:
                if "\n" in str(error):
                    faults.append(f"{number} {what}: several lines")
            except BaseException as error:
                faults.append(f"{number} {what}: {type(error).__name__}: {str(error)[:200]}")
            shutil.rmtree(mutant)
    print(json.dumps({"faults": faults, "loaded": loaded}))


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _config() -> ModelConfig:
    return ModelConfig(
        img_size=32, num_frames=4, embed_dim=24, depth=2, num_heads=2, predictor_embed_dim=12, predictor_depth=1,
        predictor_num_heads=2, num_mask_tokens=2,
    )  # fmt: skip


def _ours(root: Path) -> Path:
    config = ModelConfig(**{**vars(_config()), "position": "sincos"})
    modules = {"encoder": VideoEncoder(config), "context_encoder": VideoEncoder(config), "predictor": Predictor(config)}
    return save_model_directory(
        root / "ours", config=config, preprocess=PreprocessConfig.for_crop(32), modules=modules,
        encoder_weights="target", provenance={"licence": "MIT"}, card="", dtype=torch.float16,
    )  # fmt: skip


def _transformers(root: Path) -> Path:
    config, directory, tensors = _config(), root / "theirs", {}
    for key, module in (("encoder", VideoEncoder(config)), ("predictor", Predictor(config))):
        state = module.state_dict()
        places = transformers_layout.sources(key, state, kind="vjepa2", prefix="", num_mask_tokens=2)
        tensors |= to_stored(state, places)
    directory.mkdir()
    names = sorted(tensors)
    shards = {f"model-{i}.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, directory / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    written = transformers_layout.write_config(config, encoder_weights="context", dtype="float32")
    (directory / "config.json").write_text(json.dumps(written))
    processor = transformers_layout.write_processor(PreprocessConfig.for_crop(32))
    (directory / "video_preprocessor_config.json").write_text(json.dumps(processor))
    return directory


def _mutate_json(directory: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(directory.glob("*.json")))
    data = json.loads(path.read_text())
    for _ in range(chance.choice((1, 1, 1, 3))):
        _mutate_tree(data, chance)
    path.write_text(json.dumps(data))
    return f"{path.name}"


def _mutate_tree(data: Any, chance: random.Random) -> None:
    """Replace, delete, add or rename one value, at any depth."""
    tables = [data]
    for table in tables:
        tables += [value for value in table.values() if isinstance(value, dict)]
    table = chance.choice(tables)
    key = chance.choice(sorted(table)) if table else "new"
    action = chance.randrange(5)
    if action == 0:
        table.pop(key, None)
    elif action == 1:
        table[f"{key}_"] = table.get(key)
    else:
        table[key] = copy.deepcopy(chance.choice(VALUES))


def _mutate_header(directory: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(directory.glob("*.safetensors")))
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, values = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    change: Callable[[dict[str, Any], random.Random], str] = chance.choice((_entry, _entry, _entry, _names))
    what = change(header, chance)
    text = json.dumps(header).encode()
    if chance.random() < 0.1:
        text = text[:-1] + b"," + text[1:]
        what += ", doubled"
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return f"{path.name}: {what}"


def _entry(header: dict[str, Any], chance: random.Random) -> str:
    name = chance.choice([key for key in header if key != "__metadata__"])
    entry, key = header[name], chance.choice(("dtype", "shape", "data_offsets", "extra"))
    if key == "dtype":
        entry[key] = chance.choice(("F16", "F32", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "", 7, None))
    elif key == "shape":
        entry[key] = chance.choice(
            ([], [0], [1], entry[key] * 2, entry[key][::-1], [2**31, 2**31], [-1], [1.5], "3", None)
        )
    elif key == "data_offsets":
        start, end = entry[key]
        entry[key] = chance.choice(
            ([0, end], [start, end + 4], [end, start], [start], [start, 2**62], [-4, end], [], {})
        )
    else:
        entry[key] = 1
    return f"{name}.{key}"


def _names(header: dict[str, Any], chance: random.Random) -> str:
    name = chance.choice([key for key in header if key != "__metadata__"])
    action = chance.randrange(4)
    if action == 0:
        del header[name]
    elif action == 1:
        header[f"{name}.x"] = header.pop(name)
    elif action == 2:
        header[name] = chance.choice(VALUES)
    else:
        header |= {f"{name}.{i}": header[name] for i in range(chance.choice((1, 20_000)))}
    return f"names {action}"


def _mutate_bytes(directory: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(path for path in directory.iterdir() if path.suffix in (".json", ".safetensors")))
    raw, action = bytearray(path.read_bytes()), chance.randrange(6)
    if action == 0:
        for _ in range(chance.choice((1, 8))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    elif action == 1:
        del raw[chance.randrange(len(raw)) :]
    elif action == 2:
        raw += bytes(chance.choice((1, 4096)))
    elif action == 3:
        raw[:8] = struct.pack("<Q", chance.choice((0, 1, 2, 2**20, 2**30, 2**63, 2**64 - 1, len(raw), len(raw) - 8)))
    elif action == 4:
        raw = bytearray(chance.choice((b"[" * 200_000, b"[[]," * 500_000, b"", b"\x00" * 64, pickle.dumps({"a": 1}))))
    else:
        raw = bytearray(struct.pack("<Q", 1 << 21) + b'{"a":' + b"[]," * (700_000) + b"]" * 64)
    path.write_bytes(raw)
    return f"{path.name}: bytes {action}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
