"""Weights from strangers: pickles never run, damaged files never crash, nothing big is allocated before the checks."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pickling import in_this_process
from safetensors.torch import save_file

from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.errors import VJEPAError, WeightsError
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.weights import unpickle_child as unpickle
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.directory import load_model_directory, save_model_directory
from vjepa_sdk.weights.unpickle import unpickled

CPU = torch.device("cpu")
SMALL = ModelConfig(img_size=32, num_frames=2, embed_dim=24, depth=1, num_heads=2)
NAMES = ("model.bin", "model.pt", "model.pth", "model.safetensors", "model.npy", "model.tar")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


def _plain(held: object) -> bytes:
    return pickle.dumps({"encoder": held}, protocol=2)


def _torch_zip(held: object) -> bytes:
    torch.save({"encoder": {"w": torch.zeros(3)}, "x": held}, buffer := io.BytesIO())
    return buffer.getvalue()


def _torch_legacy(held: object) -> bytes:
    torch.save({"encoder": held}, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _two_pickles(held: object) -> bytes:
    torch.save({"encoder": {"w": torch.zeros(3)}}, buffer := io.BytesIO())
    with zipfile.ZipFile(buffer, "a") as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        archive.writestr(name, pickle.dumps(held, protocol=2))
    return buffer.getvalue()


def _object_array(held: object) -> bytes:
    np.save(buffer := io.BytesIO(), np.array([held], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _tar(held: object) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        entry = tarfile.TarInfo("storages")
        raw = _plain(held)
        entry.size = len(raw)
        archive.addfile(entry, io.BytesIO(raw))
    return buffer.getvalue()


FORMATS = (_plain, _torch_zip, _torch_legacy, _two_pickles, _object_array, _tar)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A good model directory."""
    return save_model_directory(
        tmp_path / "model", config=SMALL, preprocess=PreprocessConfig.for_crop(32),
        modules={"encoder": VideoEncoder(SMALL)}, encoder_weights="target", provenance={}, card="",
    )  # fmt: skip


def test_the_payload_would_run_where_pickles_are_loaded(canary: Path) -> None:
    pickle.loads(_plain(Payload(canary)))
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_runs_under_any_name(
    name: str, make: Callable[[object], bytes], directory: Path, canary: Path, tmp_path: Path
) -> None:
    raw = make(Payload(canary))
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(raw)
    lone = tmp_path / name
    lone.write_bytes(raw)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: load_model_directory(directory, device=CPU),
        lambda: VJEPA.from_pretrained(directory, device="cpu"),
        lambda: VJEPA.from_pretrained(lone, device="cpu"),
        lambda: VJEPA.from_pretrained(str(lone), device="cpu"),
        lambda: convert(lone, tmp_path / "out", arch=SMALL),
        lambda: convert(directory, tmp_path / "out", layout="transformers"),
    )
    with in_this_process():
        for attempt in attempts:
            with pytest.raises(VJEPAError):
                _as_our_error(attempt)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def _as_our_error(attempt: Callable[[], object]) -> None:
    """Stand in for the process boundary: what torch refuses with there is one of our errors here."""
    try:
        attempt()
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        if isinstance(error, VJEPAError):
            raise
        raise WeightsError(unpickle._reason(error)) from error


@pytest.mark.parametrize("make", [_torch_zip, _torch_legacy])
def test_the_child_refuses_code_even_when_the_environment_asks_for_it(
    make: Callable[[object], bytes], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / "evil.pt").write_bytes(make(Payload(canary)))
    with pytest.raises(WeightsError, match=r"cannot be read: it holds code or objects \((posix|os)\.mkdir\)"):
        convert(tmp_path / "evil.pt", tmp_path / "out", arch=SMALL)
    assert not canary.exists()


def test_a_pickle_in_place_of_weights_names_the_way_out(directory: Path, canary: Path) -> None:
    (directory / "model.safetensors").write_bytes(_torch_zip(Payload(canary)))
    with pytest.raises(
        WeightsError, match="zip archive as torch.save writes it, which is never loaded; run `vjepa conv"
    ):
        load_model_directory(directory, device=CPU)


def test_missing_safetensors_never_fall_back_to_a_pickle(directory: Path, canary: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"holds no model.safetensors; pytorch_model.bin may hold a pickle"):
        load_model_directory(directory, device=CPU)


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder": {"norm.bias": torch.zeros(1).expand(1 << 40)}}, tmp_path / "bomb.pt")
    with in_this_process(), pytest.raises(ValueError, match="claims more bytes than the file has"):
        convert(tmp_path / "bomb.pt", tmp_path / "out", arch=SMALL)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    state = VideoEncoder(SMALL).state_dict()
    state["norm.weight"] = state["norm.bias"] = torch.arange(24.0)
    torch.save({"encoder": state}, tmp_path / "tied.pt")
    with in_this_process():
        convert(tmp_path / "tied.pt", tmp_path / "out", arch=SMALL)
    loaded = load_model_directory(tmp_path / "out", device=CPU).encoder.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def _zip_of(pickled: bytes) -> bytes:
    """Wrap a hand-made pickle as torch.save does."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, data in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def _nested(wrap: Callable[[object], object], levels: int) -> object:
    value: object = []
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (_nested(lambda value: [value] * 10, 30), "more objects than a checkpoint of its size"),
        (_nested(lambda value: {"a": value, "b": value}, 30), "more objects than a checkpoint of its size"),
        (_nested(lambda value: [value], 100), "nested more than 32 levels deep"),
        ({((1, 2),): torch.zeros(1)}, "a key is a tuple, not a name"),
        ({"x" * 10_000: torch.zeros(1)}, "not a name of at most 1000 characters"),
    ],
    ids=["lists", "dictionaries", "depth", "tuple", "name"],
)
def test_short_files_that_spell_endless_trees_are_refused(held: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"encoder": held}, path)
    assert path.stat().st_size < 20_000
    started = time.monotonic()
    with in_this_process(), pytest.raises(ValueError, match=reason):
        convert(path, tmp_path / "out", arch=SMALL)
    assert time.monotonic() - started < 5  # and not for ever


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux to limit memory")
def test_many_tiny_objects_end_with_the_memory_that_their_file_may_have(tmp_path: Path) -> None:
    # 9 MB of empty dictionaries, each 64 bytes and more in memory
    pickled = b"\x80\x02}X\x07\x00\x00\x00encoder](" + b"}" * 9_000_000 + b"es."
    (tmp_path / "bomb.pt").write_bytes(_zip_of(pickled))
    with pytest.raises(WeightsError, match="more memory|more time or memory"):
        convert(tmp_path / "bomb.pt", tmp_path / "out", arch=SMALL)


@pytest.mark.soak
def test_keys_that_take_for_ever_to_hash_end_with_the_time_that_their_file_may_take(tmp_path: Path) -> None:
    key: object = ()
    for _ in range(60):
        key = (key, key)
    # dictionaries hash keys as they are read: hand over the pickle of the tuple, which itself is quick to write
    pickled = b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s."
    (tmp_path / "bomb.pt").write_bytes(_zip_of(pickled))
    started = time.monotonic()
    with pytest.raises(WeightsError, match="more time or memory"):
        convert(tmp_path / "bomb.pt", tmp_path / "out", arch=SMALL)
    assert time.monotonic() - started < 300


def test_tens_of_thousands_of_tensors_pass(tmp_path: Path) -> None:
    torch.save({"encoder": {f"{i}": torch.zeros(1) for i in range(20_000)}}, tmp_path / "many.pt")
    with unpickled(tmp_path / "many.pt", near=tmp_path / "out") as (tensors, _):
        assert len(tensors) == 20_000


CONFINED = """
import json, os, resource, socket, sys
sys.path.insert(0, sys.argv[1])
import unpickle_child
isolated = unpickle_child._confine(1000)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)
    reached = True
except OSError:
    reached = False
limits = [resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
print(json.dumps({"isolated": isolated, "reached": reached, "limits": limits}))
"""


def test_the_child_has_limits_and_no_network_where_the_kernel_allows() -> None:
    home = str(Path(unpickle.__file__).parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-I", "-c", CONFINED, home, str(server.getsockname()[1])]
        facts = json.loads(subprocess.run(command, env={}, check=True, capture_output=True).stdout)
    assert facts["reached"] != facts["isolated"]
    assert facts["limits"] == [0, (32 << 30) + 2000, 1000 + (64 << 20)]


@pytest.mark.parametrize(
    ("count", "seed"), [(200, 0), pytest.param(10_000, 1, marks=pytest.mark.soak)], ids=["200", "10000"]
)
def test_mutated_directories_load_or_end_in_our_errors(count: int, seed: int) -> None:
    script = Path(__file__).parents[1] / "support" / "mutants.py"
    report = json.loads(_run([str(script), str(count), str(seed)]))
    assert report["faults"] == []
    assert 0 < report["loaded"] < count / 2


LARGE = {"img_size": 32, "num_frames": 2, "embed_dim": 1024, "num_heads": 16, "predictor_embed_dim": 12,
         "predictor_depth": 1, "predictor_num_heads": 2}  # fmt: skip
PEAK = """
import resource, sys, torch
from vjepa_sdk.weights.directory import load_model_directory
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_model_directory(sys.argv[2], device=torch.device("cpu"))
before = rss()
load_model_directory(sys.argv[1], device=torch.device("cpu"))
print(rss() - before)
"""


@pytest.mark.parametrize("layout", [pytest.param("ours", marks=pytest.mark.soak), "transformers"])
def test_loading_a_gigabyte_needs_little_more_than_the_file(layout: str, directory: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    size = _write_large(large, layout)
    assert size >= 1 << 30
    assert int(_run(["-c", PEAK, str(large), str(directory)])) <= 1.15 * size


def _run(arguments: list[str]) -> str:
    """Run Python with this package at hand, wherever the tests were started."""
    path = os.pathsep.join([str(Path(unpickle.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command, env = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def _write_large(directory: Path, layout: str) -> int:
    """Write a model of over 1 GiB whose values are a hole in the file: zeros that take no disk."""
    from vjepa_sdk.config.schema import to_dict
    from vjepa_sdk.models.predictor import Predictor
    from vjepa_sdk.weights import transformers_layout
    from vjepa_sdk.weights.layout import TensorSource
    from vjepa_sdk.weights.tensors import expected_shapes

    config = ModelConfig(**LARGE, depth=22)
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        networks = {"encoder": VideoEncoder(config), "predictor": Predictor(config)}
    for key, network in networks.items():
        if layout == "ours":
            sources = {name: TensorSource((f"{key}.{name}",)) for name in network.state_dict()}
        else:
            sources = transformers_layout.sources(
                key, network.state_dict(), kind="vjepa2", prefix="", num_mask_tokens=2
            )
        shapes |= expected_shapes(network, sources)
    data = {"format_version": 1, "model": to_dict(config), "encoder_weights": "target",
            "preprocess": to_dict(PreprocessConfig.for_crop(32))}  # fmt: skip
    if layout == "transformers":
        data = transformers_layout.write_config(config, encoder_weights="target", dtype="float32")
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(data))
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return 8 + len(text) + end


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "evil.bin", 7, None])
def test_shards_outside_the_directory_are_refused(name: object, directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"encoder.norm.bias": name}}))
    with pytest.raises(WeightsError, match="must be the name of a .safetensors file beside it"):
        load_model_directory(directory, device=CPU)


def test_a_tensor_in_two_shards_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "a.safetensors")
    save_file({"encoder.norm.bias": torch.zeros(24)}, directory / "b.safetensors")
    shards = {"encoder.norm.bias": "b.safetensors", "encoder.norm.weight": "a.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(WeightsError, match="is also in a.safetensors"):
        load_model_directory(directory, device=CPU)
