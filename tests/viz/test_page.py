"""A page is one file that asks for nothing, and what strangers named stays text."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from outlines import HOSTILE, Outline
from PIL import Image

from vjepa_sdk.errors import ConfigError, OutputError
from vjepa_sdk.viz.page import (
    Card,
    Film,
    Gallery,
    Note,
    Page,
    Picture,
    Table,
    link_to,
    plain_text,
    render_page,
    save_page,
    shortened,
)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 10, 10)).save(file, "PNG")
    return file.getvalue()


def page_with(text: str, **changes: object) -> Page:
    """Put a text wherever a page takes one."""
    settings: dict[str, object] = {
        "title": text,
        "summary": text,
        "facts": {text: text},
        "parts": [
            Table(title=text, head=(text, "n"), rows=[(text, 1), (None, 0.5)], note=text),
            Picture(image=png(), alt=text, title=text, note=text),
            Film(mp4=b"film", alt=text, title=text),
            Gallery(
                cards=[Card(name=text, image=png(), href=link_to(text, Path("a.html"))), Card(name=text, note=text)]
            ),
            Note(text=text),
        ],
        "settings": {text: text},
        "command": ["vjepa", text],
        "date": text,
    }
    return Page(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_makes_no_element_and_no_attribute(text: str) -> None:
    harmless, hostile = Outline(render_page(page_with("name"))), Outline(render_page(page_with(text)))
    assert hostile.elements == harmless.elements
    assert not any(name.startswith("on") for _, names in hostile.elements for name in names)
    assert all(
        address.startswith(("data:image/png;", "data:video/mp4;", "data:,", "./", "#")) for address in hostile.addresses
    )


@pytest.mark.parametrize("text", HOSTILE[:13], ids=range(13))
def test_a_hostile_name_is_read_as_it_is(text: str) -> None:
    assert plain_text(text) in Outline(render_page(page_with(text))).text


def test_bytes_that_are_no_text_and_what_steers_a_reader_are_spelt_out() -> None:
    assert plain_text("caf\udce9\n\u202e") == "caf\\xe9\\n\\u202e"


def test_a_long_name_loses_its_middle_and_keeps_it_as_a_title() -> None:
    text = "a" * 500 + "b" * 500
    outline = Outline(render_page(page_with(text)))
    assert shortened(text) == "a" * 47 + "…" + "b" * 47
    assert shortened(text) in outline.text and text in outline.attributes["bdi.title"]


def test_links_are_relative_and_lead_back_to_the_file(tmp_path: Path) -> None:
    for text in ("javascript:alert(1)", "caf\udce9 \n.mp4", "a#t=3?x", "日本"):
        link = link_to(str(tmp_path / "clips" / text), tmp_path / "pages" / "a.html", seconds=1.5)
        assert link.startswith("./../clips/") and link.endswith("#t=1.50") and link.isascii()
        assert unquote_to_bytes(link.removesuffix("#t=1.50")) == b"./../clips/" + text.encode(
            "utf-8", "surrogateescape"
        )


def test_a_page_allows_no_script_if_it_has_none() -> None:
    outline = Outline(render_page(page_with("name")))
    assert "default-src 'none'" in outline.policy and "script-src 'none'" in outline.policy
    assert not any("http" in address for address in outline.addresses)


def test_equal_input_gives_equal_bytes() -> None:
    assert render_page(page_with("name")) == render_page(page_with("name"))
    assert b"date" not in render_page(page_with("name", date="", command=["vjepa"]))


def test_numbers_are_written_for_people() -> None:
    table = Table(head=("a", "b", "c", "d"), rows=[(12345, 0.5, None, "12345")])
    text = Outline(render_page(page_with("name", parts=[table]))).text
    assert "12,345" in text and "0.5000" in text and "None" not in text


def test_an_existing_page_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = save_page(page_with("first"), tmp_path / "a.html")
    with pytest.raises(OutputError, match="a.html: exists; pass --overwrite, or choose another name"):
        save_page(page_with("second"), path)
    assert "second" in save_page(page_with("second"), path, overwrite=True).read_text()
    with pytest.raises(OutputError, match="missing: does not exist; make it, or write elsewhere"):
        save_page(page_with("first"), tmp_path / "missing" / "a.html")


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="a curve: a picture must be PNG, WebP, GIF or JPEG; convert it"):
        render_page(page_with("name", parts=[Picture(image=b"<svg>", alt="a curve")]))
