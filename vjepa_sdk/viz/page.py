"""Write a report as one HTML file that asks for nothing: title, one sentence, tables, pictures, how to make it again.

    page = Page(
        title="Near duplicates",
        summary="7 pairs in 3 groups.",
        parts=[Table(head=("score", "path"), rows=[(0.98, name)]), Picture(png=data, alt="Histogram of scores")],
        settings={"threshold": 0.97},
        command=["vjepa", "duplicates", "feats.npy", "--html", "r.html"],
    )
    save_page(page, "r.html")

Every text may come from a stranger's file name: it is escaped here and reaches the page as text, never as markup. The
content-security policy admits the page's one script, by its hash, and no request. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .._version import __version__
from ..errors import ConfigError, OutputError
from ..runtime.files import atomic_file, disk_errors

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_PAGE_BYTES = 15 << 20
"""What a page should not exceed; those who build one leave out thumbnails first."""

_TEMPLATES = Path(__file__).with_name("templates")
_MAX_TEXT = 4096
_LONG_TEXT = 96
_NUMBER = re.compile(r"[-+−]?[\d,]+(\.\d+)?(e[-+]\d+)?( ?[%s])?")
_SIGNATURES = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif", b"\xff\xd8": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts and numbers; on a phone, wide rows become cards."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    """A cell that is None stays empty; a float gets four digits after the point, an int its thousands."""
    title: str = ""
    note: str = ""
    """A sentence below it."""
    is_narrow: bool = False
    """Beside another narrow part where there is room."""

    @property
    def is_tall(self) -> bool:
        """Whether a phone shows a card for each row: they are too wide to stand side by side."""
        cells = [self.head, *self.rows]
        widths = [max(len(_cell(row[place])) for row in cells) for place in range(len(self.head))]
        return sum(widths) > 34

    @property
    def are_numbers(self) -> list[bool]:
        """Of each column whether it holds numbers and nothing else; they stand at the right."""
        columns = [[_cell(row[place]) for row in self.rows] for place in range(len(self.head))]
        known = [[cell for cell in column if cell not in ("", "-")] for column in columns]
        return [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in known]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """How often each class was taken for each: counts, shaded by their share of the row; it is moved sideways."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    """Of each true class a row, of each class that was said a column."""
    title: str = ""
    note: str = ""

    @property
    def rows(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """Of each class its name, and counts with their shares of the row."""
        return [
            (name, [(count, count / max(1, sum(counts))) for count in counts])
            for name, counts in zip(self.names, self.counts, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: bytes of an image file, or SVG of our own charts."""

    alt: str
    """What it shows, for those who do not see it."""
    image: bytes = b""
    """PNG, WebP, GIF or JPEG."""
    svg: str = ""
    """Markup that is put into the page as it is: only ever from `charts.to_svg`."""
    title: str = ""
    note: str = ""
    is_narrow: bool = False
    """Beside another narrow part where there is room."""
    is_wide: bool = False
    """It keeps a width that can be read; on a phone it is moved sideways in its own box."""

    @property
    def source(self) -> str:
        """The image as a `data:` address."""
        return _image_url(self.image, self.alt)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A short H.264 film; it plays only when asked to."""

    mp4: bytes
    alt: str
    title: str = ""
    note: str = ""

    @property
    def source(self) -> str:
        """The film as a `data:` address."""
        return data_url(self.mp4, "video/mp4")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A clip in a gallery."""

    name: str
    """Its path, as it is; it is shortened and escaped here."""
    image: bytes = b""
    """A thumbnail; without it `note` says why there is none."""
    href: str = ""
    """From `link_to`; empty: no link."""
    note: str = ""

    @property
    def source(self) -> str:
        """The thumbnail as a `data:` address."""
        return _image_url(self.image, self.name)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Thumbnails of clips, as many in a row as there is room for."""

    cards: Sequence[Card]
    title: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Widget:
    """Something that answers: `templates/NAME.html.jinja`, with `NAME.css`, moved by `NAME.js`."""

    name: str
    data: Mapping[str, Any]
    """Plain JSON data for the script, which puts it into the page as text only."""
    fallback: Picture
    """What is seen where scripts are off, and on paper."""
    title: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph."""

    text: str


Part = Table | Matrix | Picture | Film | Gallery | Widget | Note


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report."""

    title: str
    summary: str
    """One sentence: what was found."""
    parts: Sequence[Part]
    settings: Mapping[str, object]
    command: Sequence[str]
    """The command line that makes the page again, word by word."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """A few numbers that stand large below the summary, by name."""
    date: str = ""
    """When it was made; empty keeps pages of equal input equal."""


def render_page(page: Page) -> bytes:
    """Return the page as HTML, in UTF-8."""
    environment = _environment()
    names = list(dict.fromkeys(part.name for part in page.parts if isinstance(part, Widget)))
    script = "".join(_read(f"{name}.js") for name in names)
    text = environment.get_template("page.html.jinja").render(
        page=page,
        policy=_policy(script),
        style=_read("page.css") + "".join(_read(f"{name}.css") for name in names),
        script=script,
        command=shlex.join(plain_text(word) for word in page.command),
        version=__version__,
    )
    return text.encode()


def save_page(page: Page, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page, whole or not at all.

    Raises:
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    content = render_page(page)
    with disk_errors(path, needed=len(content)), atomic_file(path) as file:
        file.write(content)
    return path


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if the file exists or its directory does not."""
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: does not exist; make it, or write elsewhere")
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        raise OutputError(f"{path}: exists; pass --overwrite, or choose another name")


def plain_text(text: object) -> str:
    """Return text as it can be read: bytes that are no UTF-8 as `\\xNN`, and what steers a reader or a line escaped."""
    return "".join(map(_visible, str(text)[:_MAX_TEXT]))


def shortened(text: str, *, length: int = _LONG_TEXT) -> str:
    """Return text of at most so many characters; what is too long loses its middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def link_to(target: str, page: Path, *, seconds: float | None = None) -> str:
    """Return a relative link from a page to a file, every unusual byte escaped, and to a second of it."""
    relative = os.path.relpath(os.path.abspath(target), os.path.abspath(page.parent))
    # the dot keeps a name such as `javascript:x` a name
    path = quote(os.fsencode(os.path.join(".", relative)))
    return path if seconds is None else f"{path}#t={seconds:.2f}"


def data_url(data: bytes, kind: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _image_url(image: bytes, name: str) -> str:
    kind = next((kind for start, kind in _SIGNATURES.items() if image.startswith(start)), None)
    if kind is None:
        raise ConfigError(f"{plain_text(name)}: a picture must be PNG, WebP, GIF or JPEG; convert it")
    return data_url(image, kind)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else plain_text(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "json_block": _json_block, "shortened": shortened, "plain": plain_text}
    environment.globals |= {"kind_of": lambda part: type(part).__name__.lower(), "ours": Markup}
    return environment


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _json_block(data: object) -> Any:
    """Return JSON that can stand in a `script` element: nothing in it ends the element or a line."""
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
