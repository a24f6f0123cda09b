"""Build the site: `python docs/sitegen/build_site.py`, with the extra `docs`. It can be opened as files, or served.

The pages lie where a code host shows them too, some beside docs/, and link to code; here they are brought together, and
what is no page is linked at the code host. Then every link of every built page is followed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
CODE_HOST = "https://github.com/vjepa-sdk/vjepa-sdk/blob/main"
BESIDE_DOCS = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
CODE_HOST_ONLY = {"docs/README.md"}
"""The list of pages that a code host shows; the site has its navigation."""
_SHIM, _SHIM_ELSEWHERE = "iframe-worker.js", "https://unpkg.com/iframe-worker/shim"
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LOADING = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}


def pages() -> dict[str, str]:
    """Return where each file of the repository that is on the site lies there."""
    found = (
        path for kind in ("md", "png", "svg", "css", "txt", "ipynb") for path in (ROOT / "docs").rglob(f"*.{kind}")
    )
    inside = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in sorted(found)}
    return {name: place for name, place in inside.items() if name not in CODE_HOST_ONLY} | BESIDE_DOCS


def on_site(text: str, name: str, placed: dict[str, str]) -> str:
    """Return the text of a page of the repository with the links that it needs on the site."""

    def moved(link: re.Match[str]) -> str:
        target, hash_, anchor = link[2].partition("#")
        if not target or "://" in target:
            return link[0]
        path = os.path.normpath((PurePosixPath(name).parent / target).as_posix())
        if path in placed:
            target = os.path.relpath(placed[path], PurePosixPath(placed[name]).parent)
        else:
            target = f"{CODE_HOST}/{path}"
        return f"{link[1]}{target}{hash_}{anchor}{link[3]}"

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(moved, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(moved, text[end:])])


def stage(directory: Path) -> None:
    """Bring all pages together."""
    shutil.rmtree(directory, ignore_errors=True)
    placed = pages()
    for name, place in placed.items():
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".md"):
            text = on_site((ROOT / name).read_text(encoding="utf-8"), name, placed)
            (directory / place).write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(ROOT / name, directory / place)


def bring_along(site: Path) -> None:
    """Bring the script along that pages would load from another host, with which search works from file:// too."""
    shutil.copyfile(Path(__file__).with_name(_SHIM), site / _SHIM)
    for path in site.rglob("*.html"):
        here = os.path.relpath(site / _SHIM, path.parent)
        path.write_text(path.read_text(encoding="utf-8").replace(_SHIM_ELSEWHERE, here), encoding="utf-8")


class _Page(HTMLParser):
    """What a built page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.places.add(value)
            if tag == "a" and key == "href" and value:
                self.links.append(value)
            is_canonical = ("rel", "canonical") in attrs
            if (tag, key) in _LOADING and value and not is_canonical:
                self.loads.append(value)


def problems(site: Path) -> Iterator[str]:
    """Yield the links of a built site that lead nowhere, and what it would load from other hosts."""
    built = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in built.items():
        if path.name == "404.html":  # its links start at the root of a server
            continue
        name = path.relative_to(site)
        yield from (f"{name} loads {url} from another host" for url in page.loads if urlsplit(url).netloc)
        for link in {*page.links, *page.loads}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{name} links to {link}, which is not there"
            elif parts.fragment and target in built and unquote(parts.fragment) not in built[target].places:
                yield f"{name} links to {link}, and there is no such place"


def main() -> None:
    """Build, and exit with what is wrong."""
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    stage(ROOT / config["docs_dir"])
    shutil.rmtree(ROOT / config["site_dir"], ignore_errors=True)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=True)
    bring_along(ROOT / config["site_dir"])
    found = sorted(problems(ROOT / config["site_dir"]))
    if found:
        sys.exit("\n".join(found))
    print(f"{config['site_dir']}/index.html")


if __name__ == "__main__":
    main()
