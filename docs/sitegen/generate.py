"""Write what of the documentation is made from the code: `python docs/sitegen/generate.py`.

A test compares what is there with what this would write; run it after a change of names, options, models or messages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import surface

REFERENCE = Path(__file__).parents[1] / "reference"
WRITTEN: dict[str, Callable[[], str]] = {"public-surface.txt": surface.surface}
"""Files of docs/reference/, and what returns their text."""


def main() -> None:
    """Write all that differ, and name them."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text_of in WRITTEN.items():
        path, text = REFERENCE / name, text_of()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/reference/{name}: written")


if __name__ == "__main__":
    main()
