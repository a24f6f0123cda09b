"""The site: each page in its navigation, links that hold there too, and nothing asked of another host."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import build_site
import pytest
from browser import CHROMIUM, browser

PLACED = {"README.md": "index.md", "docs/start.md": "start.md", "docs/reference/files.md": "reference/files.md"}


def _pages_of(entries: list[dict[str, object]]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from _pages_of(value) if isinstance(value, list) else [str(value)]


def test_navigation_has_every_page_once() -> None:
    config = tomllib.loads((build_site.ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = list(_pages_of(config["project"]["nav"]))
    assert sorted(named) == sorted(place for place in build_site.pages().values() if place.endswith(".md"))


@pytest.mark.parametrize(
    ("page", "there", "on_site"),
    [
        ("README.md", "[a](docs/start.md#b)", "[a](start.md#b)"),
        ("docs/start.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/start.md", "[a](reference/files.md) [b](#c)", "[a](reference/files.md) [b](#c)"),
        ("docs/reference/files.md", "[a](../start.md)", "[a](../start.md)"),
        ("docs/start.md", "[`f`](../vjepa_sdk/a.py)", f"[`f`]({build_site.CODE_HOST}/vjepa_sdk/a.py)"),
        ("docs/start.md", "[a](https://b.example/c)", "[a](https://b.example/c)"),
        ("docs/start.md", "```python\na = [b](c.md)\n```\n", "```python\na = [b](c.md)\n```\n"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page: str, there: str, on_site: str) -> None:
    assert build_site.on_site(there, page, PLACED) == on_site


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<a href="b.html">', "a.html links to b.html, which is not there"),
        ('<a href="#c">', "a.html links to #c, and there is no such place"),
        ('<script src="https://b.example/c.js">', "a.html loads https://b.example/c.js from another host"),
        ('<img src="//b.example/c.png">', "a.html loads //b.example/c.png from another host"),
        ('<a href="https://b.example/">', None),
        ('<a href="#c"><p id="c">', None),
    ],
)
def test_links_that_lead_nowhere_and_other_hosts_are_told(text: str, problem: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(text)
    assert list(build_site.problems(tmp_path)) == ([problem] if problem else [])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="the extra docs is not installed")
def test_the_site_fits_narrow_and_wide_windows_and_finds_messages_without_other_hosts() -> None:
    subprocess.run([sys.executable, build_site.__file__], check=True)
    site = build_site.ROOT / "site"
    with browser() as page:
        for width in (390, 1280):
            for path in sorted(set(site.rglob("*.html")) - {site / "404.html"}):
                page.open(path, width=width)
                assert page.overflow <= 0, f"{path.relative_to(site)} is wider than {width} px"
        page.run("document.querySelector('.md-search__button').click()")
        time.sleep(3)  # its index is loaded by a worker
        page.call("Input.insertText", text="the target features now use")
        page.wait(f"({_FOUND})(document).some(link => link.includes('reference/messages.html'))")
        assert not page.errors
        assert not [address for address in page.requests if not address.startswith("file:")]


_FOUND = """function found(root) {
  return [...root.querySelectorAll("*")].flatMap(e => [e.href || "", ...(e.shadowRoot ? found(e.shadowRoot) : [])])
}"""
