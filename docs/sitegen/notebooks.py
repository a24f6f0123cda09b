"""The notebooks, made from the pages that are named after them.

A page's Python becomes cells of code, with the output that the tests compare; the rest becomes text. So a notebook is
what its page is, and is executed where its page is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
PAGES = {name: DOCS / f"notebook-{name}.md" for name in ("search", "probe", "surprise")}
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n(?:<!--[^>]*-->\n)?```text\n(.*?)^```\n)?", re.M | re.S)
_LINK = re.compile(r"(\]\()(?!https?:|#|notebooks/)")


def notebooks() -> dict[str, Callable[[], str]]:
    """Return the texts of the files below docs/, by their names there."""
    return {f"notebooks/{name}.ipynb": lambda name=name: _notebook(name) for name in PAGES}  # type: ignore[misc]


def _notebook(name: str) -> str:
    cells = [{**cell, "id": f"{name}-{number}"} for number, cell in enumerate(_cells(PAGES[name].read_text("utf-8")))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}}
    return json.dumps({**whole, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def _cells(text: str) -> Iterator[dict[str, object]]:
    # of itself a notebook need not say where it is
    text = re.sub(r" As a file\s+to\s+open:\s+\[[^\]]*\]\([^)]*\)\.", "", text)
    end = 0
    for count, block in enumerate(_BLOCK.finditer(text), 1):
        yield from _prose(text[end : block.start()])
        shown = {"name": "stdout", "output_type": "stream", "text": _lines(block[2] or "")}
        outputs = [shown] if block[2] else []
        source = _lines(block[1].rstrip("\n"))
        yield {"cell_type": "code", "execution_count": count, "metadata": {}, "outputs": outputs, "source": source}
        end = block.end()
    yield from _prose(text[end:])


def _prose(text: str) -> Iterator[dict[str, object]]:
    if text.strip():
        # links lead from the directory of the notebooks
        yield {"cell_type": "markdown", "metadata": {}, "source": _lines(_LINK.sub(r"\1../", text.strip()))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
