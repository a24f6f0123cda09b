"""Imports point down, importing is cheap, and every name in `__all__` exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vjepa_sdk

PACKAGE = Path(vjepa_sdk.__file__).parent

FLOORS = (
    {"errors"},
    {"schema"},
    {"config"},
    {"recipes", "registry"},
    {
        "augment",
        "devices",
        "distributed",
        "filenames",
        "files",
        "hub_client",
        "layers",
        "masks",
        "optim",
        "positions",
        "preprocess",
        "progress",
        "sandbox",
    },
    {"containers", "images", "signals", "storage", "unpickle", "workers"},
    {"decord_reader", "pyav_reader", "verified", "weights"},
    {"download", "upload", "video"},
    {"costs", "headers", "heads", "inputs", "journal", "manifest", "metrics", "model", "parquet"},
    {"corpus", "embeddings", "listing"},
    {"cards", "clips", "features", "official_layout", "pickles", "sources", "transformers_layout", "windowing"},
    {"checkpoint", "data", "embed_options", "hub", "jepa", "shapes", "windows"},
    {"probe", "resume", "steps"},
    {"loader", "publish"},
    {"api", "convert", "doctor", "guards", "ledger", "plan"},
    {"encoding", "initialize", "plan_text"},
    {"export", "outputs", "preflight"},
    {"check", "embed", "trainer"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def _imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, also for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name and name.split(".")[0] == "vjepa_sdk" for name in names), path.name
    return found - {"__version__"}


def test_every_module_has_a_floor() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_imports_point_down(name: str) -> None:
    upward = {other for other in _imports(PACKAGE / f"{name}.py") if FLOOR_OF[other] >= FLOOR_OF[name]}
    assert not upward, f"{name} imports {upward} from its own floor or above"


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(vjepa_sdk, name) is not None for name in vjepa_sdk.__all__)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'VJEPPA'"):
        _ = vjepa_sdk.VJEPPA


HEAVY = "torch, torchvision, timm, av, decord, transformers"


@pytest.mark.parametrize(
    "statement",
    [
        "import vjepa_sdk",
        "import contextlib, sys; sys.argv = ['vjepa', '--help']; from vjepa_sdk.cli import main\n"
        "with contextlib.suppress(SystemExit): main()",
        "import vjepa_sdk; vjepa_sdk.list_models()",
    ],
    ids=["import", "help", "list_models"],
)
def test_cheap_things_load_neither_torch_nor_a_decoder(statement: str) -> None:
    check = f"\nimport sys; loaded = {{*'{HEAVY}'.split(', ')}} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", statement + check], check=True, capture_output=True)
