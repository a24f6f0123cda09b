"""Write what of the documentation is made from the code: `python docs/sitegen/generate.py`.

A test compares what is there with what this would write; run it after a change of names, options, models or messages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import command_line
import message_list
import model_table
import notebooks
import python_reference
import surface

DOCS = Path(__file__).parents[1]
WRITTEN: dict[str, Callable[[], str]] = {
    "reference/public-surface.txt": surface.surface,
    "reference/command-line.md": command_line.page,
    "reference/exit-codes.md": command_line.exit_codes,
    "reference/messages.md": message_list.page,
    "reference/models.md": model_table.page,
    **python_reference.pages(),
    **notebooks.notebooks(),
}
"""Files below docs/, and what returns their text."""


def main() -> None:
    """Write all that differ, and name them."""
    for name, text_of in WRITTEN.items():
        path, text = DOCS / name, text_of()
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name}: written")


if __name__ == "__main__":
    main()
