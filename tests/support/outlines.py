"""Read a page as a browser would, and names that hostile files have."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}`",
    "<!--<title>",
    "]]><b>",
    "&lt;b&gt;&amp;#39;",
    "line\nbreak\r\ttab",
    "right\u202eto\u2066left",
    "\u2028\u2029",
    "caf\udce9.mp4",
    "x" * 4096,
    "<" * 500,
    "../../etc/passwd",
    "a#t=3,5?b=%41",
    "日本語 🎬 e\u0301",
]  # fmt: skip


class Outline(HTMLParser):
    """Note the elements and attribute names of a page, its addresses, texts, script and data."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text, self.script, self.data, self._inside = "", "", "", ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs if name != "title")))
        self._inside = "data" if ("type", "application/json") in attrs else tag
        for name, value in attrs:
            self.attributes.setdefault(f"{tag}.{name}", []).append(value or "")
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "data"):
            setattr(self, self._inside, getattr(self, self._inside) + data)
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @property
    def policy(self) -> str:
        """Its content-security policy."""
        (policy,) = [text for text in self.attributes["meta.content"] if "default-src" in text]
        return policy
