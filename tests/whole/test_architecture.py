"""Imports point down, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vjepa_sdk

PACKAGE = Path(vjepa_sdk.__file__).parent


ROWS = (
    {"errors", "_version"},
    {"config", "runtime"},
    {"video", "models", "features"},
    {"corpus", "weights"},
    {"hub"},
    {"inference", "training"},
    {"downstream"},
    {"viz"},
    {"cli"},
    {"__main__"},
)
"""A file imports from its own wing and from rows before its own."""
ROW_OF = {wing: number for number, wings in enumerate(ROWS) for wing in wings}


def _wing(module: str) -> str:
    return module.split(".")[0]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def _imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, also for type checking only."""
    here, found = path.relative_to(PACKAGE).parent.parts, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = (*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ()))
            inside = {".".join((*target, alias.name)) for alias in node.names} & MODULES
            found |= inside or {".".join(target)}
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name and name.split(".")[0] == "vjepa_sdk" for name in names), path.name
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
MODULES = {_module(path) for path in FILES}


def test_imports_point_down() -> None:
    upward = {
        f"{_module(path)} imports {other}"
        for path in FILES
        for other in _imports(path)
        if _wing(other) != _wing(_module(path)) and ROW_OF[_wing(other)] >= ROW_OF[_wing(_module(path))]
    }
    assert not upward


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=lambda path: path.parent.name)
def test_the_door_of_a_wing_is_one_paragraph(path: Path) -> None:
    (only,) = ast.parse(path.read_text()).body
    assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and "\n\n" not in only.value.value


def test_imports_run_in_no_circle() -> None:
    list(TopologicalSorter({_module(path): _imports(path) for path in FILES}).static_order())


HEAVY = "torch, torchvision, timm, av, decord, transformers"


@pytest.mark.parametrize(
    "statement",
    [
        "import vjepa_sdk",
        "import contextlib, sys; sys.argv = ['vjepa', '--help']; from vjepa_sdk.cli.app import main\n"
        "with contextlib.suppress(SystemExit): main()",
        "import vjepa_sdk; vjepa_sdk.list_models()",
    ],
    ids=["import", "help", "list_models"],
)
def test_cheap_things_load_neither_torch_nor_a_decoder(statement: str) -> None:
    check = f"\nimport sys; loaded = {{*'{HEAVY}'.split(', ')}} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", statement + check], check=True, capture_output=True)


def test_encoding_loads_torch_and_a_decoder_and_nothing_else_that_is_slow() -> None:
    code = """
import sys
from vjepa_sdk import VJEPA, sample_videos
VJEPA.from_pretrained("vjepa-tiny", device="cpu").encode(sample_videos()[0])
slow = {"timm", "torchvision", "torch._dynamo", "sympy", "decord", "transformers", "sklearn", "matplotlib", "jinja2"}
sys.exit(f"loaded too: {slow & set(sys.modules)}" if slow & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LIGHT = (
    "errors _version config.* runtime.* video.safety video.containers video.decoding video.frame_index "
    "video.frame_image video.pyav_reader video.decord_reader video.images video.reader video.sampling video.windows "
    "features.* corpus.* weights.layout weights.description weights.official_layout weights.transformers_layout "
    "weights.evaluation weights.cards hub.* inference.embed.* cli.*"
).split()
"""Decoding processes and early refusals rest on these: they must not wait for torch."""
HEAVY_AMONG_THEM = {"runtime.devices", "hub.publish"}


NO_POSIX = "import signal, sys; del signal.SIGUSR1; sys.modules |= dict.fromkeys(['fcntl', 'resource', 'termios'])"
"""Makes a process lack what Windows lacks: most does not work there, but must be refused, not fail to be imported."""


@pytest.mark.parametrize("preparation", ["pass", NO_POSIX], ids=["here", "no POSIX"])
def test_light_modules_load_without_torch_or_a_decoder(preparation: str) -> None:
    light = [f"vjepa_sdk.{name}" for name in sorted(MODULES) if any(fnmatch(name, pattern) for pattern in LIGHT)]
    names = [name for name in light if name.removeprefix("vjepa_sdk.") not in HEAVY_AMONG_THEM]
    code = f"""
{preparation}
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    loaded = {{*"{HEAVY}".split(", ")}} & set(sys.modules)
    if loaded:
        sys.exit(f"{{name}} loads {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
