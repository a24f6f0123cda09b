"""Print the lowest release that pyproject.toml allows of each dependency, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    found = re.match(r"([\w-]+)>=([\d.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement!r} must begin with a name and its lowest release, such as numpy>=2.0")
    print(f"{found[1]}=={found[2]}")
