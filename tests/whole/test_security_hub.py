"""Models from strangers: nothing of theirs is fetched but data, nothing is executed, and no configuration is a bomb."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import LoopbackHub
from tiny_models import VIDEO, save_tiny

import vjepa_sdk
from vjepa_sdk import VJEPA, ModelConfig, PreprocessConfig
from vjepa_sdk.config.documents import read_json
from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.directory import load_model_directory
from vjepa_sdk.weights.probe_directory import load_probe, save_probe

ROOT = Path(vjepa_sdk.__file__).parents[1]
CPU = torch.device("cpu")

CODE_KEYS: dict[str, Any] = {
    "auto_map": {"AutoModel": "modeling_evil.Evil"},
    "_target_": "os.system",
    "_instantiator": "os.system",
    "_attn_implementation_internal": "evil/kernels",
    "custom_pipelines": {"evil": {"impl": "evil.Evil"}},
    "trust_remote_code": True,
    "text_config": {"layers": [{"trust_remote_code": True}]},  # whatever it lies in
}
EVIL = b"import os; os.mkdir(os.environ['CANARY'])"
CODE_FILES = {name: EVIL for name in ("modeling_evil.py", "__init__.py", "setup.py", "sitecustomize.py", "conftest.py")}
CODE_FILES |= {"evil.pth": b"import evil", "pytorch_model.bin": b"\x80\x04cos\nsystem\n.", "evil.so": b"\x7fELF"}

WATCH = """
import sys
from vjepa_sdk import VJEPA
from vjepa_sdk.errors import VJEPAError
names = sys.argv[1:]
VJEPA.from_pretrained(names[0], device="cpu")  # imports what loading needs
for name in names[1:2]:
    try:
        VJEPA.from_pretrained(name, device="cpu")
    except VJEPAError:
        pass
FORBIDDEN = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
             "ctypes.dlopen", "pickle.find_class", "marshal.loads", "marshal.load", "code.__new__")
seen, modules = [], set(sys.modules)
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)) if event in FORBIDDEN else None)
for name in names:
    try:
        VJEPA.from_pretrained(name, device="cpu", force_download=True)
        print(name, "loaded")
    except VJEPAError as error:
        print(name, type(error).__name__, error)


def is_harmless(event, arguments):
    # our own annotations are evaluated, and call nothing; torch looks for a driver
    if event == "compile":
        return arguments[1] == "<string>" and b"(" not in arguments[0]
    return (event == "exec" and arguments[0].co_filename == "<string>") or "libnvidia" in str(arguments)


print("events", [event for event in seen if not is_harmless(*event)])
print("modules", sorted(set(sys.modules) - modules))
"""


def test_a_repository_with_code_is_data_and_nothing_of_it_runs(hub: LoopbackHub, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    convert(model, tmp_path / "transformers", layout="transformers")
    theirs = json.loads((tmp_path / "transformers" / "config.json").read_text())
    hub.add_directory("me/good", model)
    names = ["me/good"]
    for key, value in CODE_KEYS.items():
        for layout, directory, data in (("ours", model, config), ("theirs", tmp_path / "transformers", theirs)):
            name = f"evil/{layout}-{len(names)}"
            hub.add_directory(name, directory)
            hub.add(name, {**CODE_FILES, "config.json": json.dumps({**data, key: value}).encode()})
            names.append(name)
    hub.add("evil/code", CODE_FILES)
    hub.add_directory("evil/code", model)
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    env |= {"CANARY": str(tmp_path / "canary"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", WATCH, *names, "evil/code"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "me/good loaded" and lines[-3] == "evil/code loaded"
    for line, name in zip(lines[1:-3], names[1:], strict=True):
        assert line.startswith(f"{name} ConfigError ")
        assert "unknown key" in line or "asks for code from a repository, which is never run" in line
    assert lines[-2:] == ["events []", "modules []"]
    assert not (tmp_path / "canary").exists()
    fetched = {request.path.rpartition("/")[2] for request in hub.requested("/resolve/", method="HEAD")}
    assert fetched == {"config.json", "model.safetensors", "video_preprocessor_config.json"}
    refused = [request.path for request in hub.requested("^/evil/(ours|theirs)-", method="HEAD")]
    assert refused and not any(path.endswith(".safetensors") for path in refused)


def test_trust_remote_code_is_no_parameter() -> None:
    with pytest.raises(TypeError, match="trust_remote_code"):
        VJEPA.from_pretrained("vjepa-tiny", trust_remote_code=True)  # type: ignore[call-arg]


def test_a_repository_with_pickles_alone_is_refused_and_none_is_fetched(hub: LoopbackHub, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    hub.add("evil/pickle", {"config.json": (model / "config.json").read_bytes(), "pytorch_model.bin": EVIL})
    with pytest.raises(WeightsError, match="holds no model.safetensors"):
        VJEPA.from_pretrained("evil/pickle", device="cpu")
    assert not hub.requested("pytorch_model.bin") and not hub.requested("pytorch_model.bin", method="HEAD")


def test_a_configuration_too_large_to_be_one_is_not_fetched(hub: LoopbackHub) -> None:
    hub.add("evil/large", {"config.json": b" " * (2 << 20), "model.safetensors": b"x", "other.json": b" " * (2 << 20)})
    with pytest.raises(ConfigError, match="config.json has 2,097,152 bytes, a configuration has at most 1,048,576"):
        VJEPA.from_pretrained("evil/large", device="cpu")
    assert not hub.requested("/resolve/", method="HEAD")


BOMBS: tuple[Any, ...] = (-1, 0, 2**31, 2**63, float("nan"), "1", None, [], {}, 1e308, [2**63] * 1000, "x" * 100_000)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One directory of each kind that has a configuration."""
    place = tmp_path_factory.mktemp("models")
    ours = save_tiny(place / "ours")
    convert(ours, place / "theirs", layout="transformers")
    torch.manual_seed(0)
    probe = AttentiveProbe(ProbeConfig(embed_dim=32, num_classes=2))
    return {"ours": ours, "theirs": place / "theirs", "probe": save_probe(place / "probe", probe, provenance={})}


def mutants(data: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a configuration with one field at one extreme, for every field and every extreme."""
    for key in keys:
        section, _, name = key.rpartition(".")
        for value in BOMBS:
            changed = json.loads(json.dumps(data))
            (changed[section] if section else changed)[name] = value
            yield f"{key}={str(value)[:20]}", changed


def fields_of(kind: str, data: dict[str, Any]) -> tuple[str, ...]:
    if kind == "theirs":
        return tuple(data)
    sections = {"probe": ProbeConfig} if kind == "probe" else {"model": ModelConfig, "preprocess": PreprocessConfig}
    return (
        *data,
        *(f"{section}.{field.name}" for section, cls in sections.items() for field in dataclasses.fields(cls)),
    )


@pytest.mark.parametrize("kind", ["ours", "theirs", "probe"])
def test_every_field_at_every_extreme_is_our_error_at_once(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    data = json.loads((models[kind] / "config.json").read_text())
    for path in models[kind].iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    load = load_probe if kind == "probe" else load_model_directory
    load(models[kind], device=CPU)
    refused = 0
    for name, changed in mutants(data, fields_of(kind, data)):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        seconds = time_of_refusal(load, tmp_path)
        if seconds is None:  # this value is as good as the one before
            continue
        refused += 1
        # tried again, because a busy machine can be slow once
        assert seconds < 0.1 or min(time_of_refusal(load, tmp_path) or 0 for _ in range(5)) < 0.1, name
        tracemalloc.start()
        time_of_refusal(load, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 << 20, name
    assert refused > 5 * len(fields_of(kind, data))


def time_of_refusal(load: Any, directory: Path) -> float | None:
    """Return how long it took to refuse a directory; None if it was loaded."""
    started = time.process_time()
    try:
        load(directory, device=CPU)
    except (ConfigError, WeightsError):
        return time.process_time() - started
    return None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10_000 + "]" * 10_000, "not valid JSON"),
        ('{"a": ' * 10_000 + "1" + "}" * 10_000, "not valid JSON"),
        ('{"a": ' * 100 + "1" + "}" * 100, "nested more than 32 deep"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1, "a": 2}', "a key appears twice"),
        ('{"a": ' + "1" * 10_000 + "}", "not valid JSON"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "at most 1048576 bytes"),
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("{} {}", "not valid JSON"),
    ],
    ids=lambda value: value[:12],
)
def test_json_that_no_configuration_needs_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError, match=message):
        read_json(tmp_path / "config.json")
    assert time.process_time() - started < 1


def test_a_gigabyte_of_json_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.write(b"{")
        file.truncate(1 << 30)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ConfigError, match="a configuration has at most 1048576 bytes"):
        load_model_directory(tmp_path, device=CPU)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.5 and peak < 20 << 20


def test_a_long_value_does_not_flood_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vjepa_sdk.cli import app

    model = save_tiny(tmp_path / "model", VIDEO)
    data = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**data, "encoder_weights": "\x1b[2J" + "x" * 100_000}))
    monkeypatch.setattr(sys, "argv", ["vjepa", "push", str(model), "me/model", "--dry-run"])
    with pytest.raises(SystemExit):
        app.main()
    printed = capsys.readouterr().err
    assert len(printed) < 3000 and "\x1b" not in printed
