"""Pages in a browser: at two widths, light and dark, without complaint, request or sideways scrolling; they answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser, browser
from media import write_video
from outlines import HOSTILE
from probes import write_probe
from tiny_models import VIDEO

from vjepa_sdk import (
    VJEPA,
    Embeddings,
    Probe,
    attention_maps,
    draw_embeddings,
    draw_probe,
    draw_run,
    feature_pca,
    similarity_map,
    surprise_maps,
)
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig
from vjepa_sdk.viz.page import Card, Gallery, Note, Page, Table, plain_text, save_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.usefixtures("_home"),
]

SHOTS = os.environ.get("SCREENSHOTS")
"""Directory to keep screenshots in; they are to be looked at."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


def pca(path: Path, model: VJEPA) -> None:
    feature_pca(model, write_video(path.parent / "clip.mp4")).save(path, command=["vjepa", "viz", "pca"])


def similarity(path: Path, model: VJEPA) -> None:
    maps = similarity_map(model, write_video(path.parent / "clip.mp4", width=96), at=(1.0, 0.5, 0.5))
    maps.save(path, command=["vjepa", "viz", "similarity"])


def attention(path: Path, model: VJEPA) -> None:
    torch.manual_seed(0)
    probe = Probe(AttentiveProbe(ProbeConfig(embed_dim=24, num_classes=20, num_heads=4)), tuple(HOSTILE), {})
    maps = attention_maps(model, write_video(path.parent / "clip.mp4"), probe=probe)
    maps.save(path, command=["vjepa", "viz", "attention"])


def surprise(path: Path, model: VJEPA) -> None:
    maps = surprise_maps(model, write_video(path.parent / "clip.mp4", width=96, num_frames=40), fps=10, threshold=1.0)
    maps.save(path, command=["vjepa", "viz", "surprise"])


def probe(path: Path, model: VJEPA) -> None:
    clip = str(write_video(path.parent / "clip.mp4"))
    write_probe(path.parent / "probe", [f"class {i}" for i in range(12)], paths=[clip, "gone.mp4"] * 30)
    draw_probe(path.parent / "probe", path, num_workers=0, show_progress_bar=False, command=["vjepa", "viz", "probe"])


def hostile_probe(path: Path, model: VJEPA) -> None:
    write_probe(path.parent / "hostile", HOSTILE, paths=HOSTILE)
    draw_probe(path.parent / "hostile", path, num_workers=0, show_progress_bar=False, command=HOSTILE)


def embeddings(path: Path, model: VJEPA) -> None:
    names = [str(write_video(path.parent / f"{i}.mp4")) for i in range(4)] + HOSTILE
    index = [{"id": str(i), "path": name, "frames": [0], "label": f"l{i % 3}"} for i, name in enumerate(names)]
    rows = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    found = Embeddings(rows, index, {"output": "feats.npy", "model": {"name": "tiny"}})
    draw_embeddings(found, path, num_workers=0, show_progress_bar=False, command=["vjepa", "viz", "embeddings"])


def run(path: Path, model: VJEPA) -> None:
    lines = [{"step": i + 1, "loss": 2 / (i + 1), "lr": 0.1, "target_effective_rank": 9.0} for i in range(40)]
    lines += [{"step": 41 + i, "skipped": name} for i, name in enumerate(HOSTILE)]
    (path.parent / "run").mkdir(exist_ok=True)
    (path.parent / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_run(path.parent / "run", path, command=["vjepa", "viz", "run", "x" * 300])


def hostile(path: Path, model: VJEPA) -> None:
    parts = [
        Table(head=("path", "score", "note"), rows=[(name, 0.5, name) for name in HOSTILE], title=HOSTILE[0]),
        Gallery(cards=[Card(name=name, href="./a", note=name) for name in HOSTILE]),
        Note(text=HOSTILE[-5]),
    ]
    save_page(
        Page(title=HOSTILE[1], summary=HOSTILE[0], parts=parts, settings={"a": HOSTILE[15]}, command=HOSTILE), path
    )


PAGES: list[Callable[[Path, VJEPA], None]] = [
    pca,
    similarity,
    attention,
    surprise,
    probe,
    hostile_probe,
    embeddings,
    run,
    hostile,
]


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_a_page_stands_in_every_window(
    chromium: Browser, model: VJEPA, tmp_path: Path, make: Callable[..., None]
) -> None:
    make(path := tmp_path / "page.html", model)
    for width, dark in ((360, False), (390, True), (1280, False), (1280, True)):
        chromium.errors.clear(), chromium.requests.clear(), chromium.opened.clear()
        chromium.open(path, width=width, dark=dark)
        chromium.run("new Promise((done) => setTimeout(done, 300))")
        if SHOTS:
            chromium.screenshot(Path(SHOTS) / f"{make.__name__}-{width}-{'dark' if dark else 'light'}.png")
        found = (width, dark, chromium.overflow, chromium.errors, chromium.requests, chromium.opened)
        assert found == (width, dark, 0, [], [], [])
        small = """[...document.querySelectorAll('button, input:not([type=range]), select, summary, .cards a')]
            .filter((each) => each.getClientRects().length && each.getBoundingClientRect().height < 39.5)
            .map((each) => each.outerHTML.slice(0, 80))"""
        assert chromium.run(small) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_press_moves_the_point(chromium: Browser, model: VJEPA, tmp_path: Path, width: int) -> None:
    similarity(path := tmp_path / "page.html", model)
    maps = similarity_map(model, tmp_path / "clip.mp4", at=(1.0, 0.5, 0.5))
    chromium.errors.clear()
    chromium.open(path, width=width)
    status = "document.querySelector('.sim-status code').textContent"
    assert chromium.run(status) == "--at 1.05,0.50,0.50"
    top, left, bottom, right = maps.volume.crop
    x, y = left + 0.25 * (right - left), top + 0.75 * (bottom - top)
    chromium.run("document.querySelector('.sim-slider').value = 0")
    chromium.run("document.querySelector('.sim-slider').dispatchEvent(new Event('input'))")
    box = chromium.run("Object.values(document.querySelector('.sim-frame').getBoundingClientRect().toJSON())")
    chromium.point(box[0] + x * box[2], box[1] + y * box[3], click=True)
    assert chromium.run(status) == f"--at 0.05,{x:.2f},{y:.2f}"
    # what the page shows as its range is that of the exact similarities
    exact = np.sort(similarity_map(model, tmp_path / "clip.mp4", at=(0.05, x, y)).values, axis=None)
    low, high = (float(chromium.run(f"document.querySelector('.sim-{name}').textContent")) for name in ("low", "high"))
    assert (low, high) == pytest.approx(
        (exact[int(0.02 * (len(exact) - 1))], exact[int(0.995 * (len(exact) - 1))]), abs=0.011
    )
    chromium.run("document.querySelector('.sim-frame').focus()")
    chromium.press("ArrowRight")
    assert chromium.run(status) == f"--at 0.05,{left + 0.75 * (right - left):.2f},{y:.2f}"
    assert chromium.errors == []


def test_the_line_follows_the_pointer_the_keys_and_the_film(chromium: Browser, model: VJEPA, tmp_path: Path) -> None:
    surprise(path := tmp_path / "page.html", model)
    maps = surprise_maps(model, tmp_path / "clip.mp4", fps=10)
    chromium.errors.clear()
    chromium.open(path, width=1280)
    chromium.wait("document.querySelector('video').readyState >= 2")
    status = "document.querySelector('.sur-status').textContent"
    assert chromium.run(status) == "0.00 s: not predicted"
    box = chromium.run(
        "((all) => [all.left, all.width, all.top])(document.querySelector('.fallback .chart').getBoundingClientRect())"
    )
    data = chromium.run("JSON.parse(document.querySelector('.widget .data').textContent)")
    moment = 3  # the middle of this tubelet
    wanted = float(data["edges"][moment] + data["edges"][moment + 1]) / 2
    share = (wanted - data["edges"][0]) / (data["edges"][-1] - data["edges"][0])
    left, right = data["box"][:2]
    chromium.point(box[0] + (left + share * (right - left)) * box[1], box[2] + 40)
    value = maps.surprise.timeline[moment]
    assert chromium.run(status) == f"{wanted:.2f} s: {value:.2f} times what is usual in it"
    shown = "Math.floor(document.querySelector('video').currentTime * 10)"
    assert chromium.run(shown) in (2 * moment, 2 * moment + 1)  # tubelets are two frames
    chromium.point(5, 5)
    chromium.run("document.querySelector('.sur-cursor').focus()")
    chromium.press("ArrowRight")
    assert chromium.run(status).startswith(
        f"{data['edges'][moment + 1]:.2f} s: {maps.surprise.timeline[moment + 1]:.2f} "
    )
    assert chromium.run(shown) == 2 * moment + 2
    before = chromium.run(status)
    chromium.run("document.querySelector('video').play()")
    chromium.wait(f"{status} !== {json.dumps(before)}")
    assert chromium.errors == []


def test_a_map_is_walked_by_keys_and_searched(chromium: Browser, model: VJEPA, tmp_path: Path) -> None:
    embeddings(path := tmp_path / "page.html", model)
    chromium.errors.clear()
    chromium.open(path, width=1280)
    chromium.run("document.querySelector('.map-canvas').focus()")
    chromium.press("ArrowRight")
    name = "document.querySelector('.map-name').textContent"
    assert chromium.run("document.querySelector('.map-clip').hidden") is False
    known = [plain_text(each) for each in HOSTILE] + [str(tmp_path / f"{i}.mp4") for i in range(4)]
    assert chromium.run(name) in known
    chromium.run("document.querySelector('.map-search').value = '2.MP4'")
    chromium.run("document.querySelector('.map-search').dispatchEvent(new Event('input'))")
    chromium.run("document.querySelector('.map-search').focus()")
    chromium.press("Enter")
    assert chromium.run(name) == str(tmp_path / "2.mp4")
    assert "24 of 24 points shown, 1 found" in chromium.run("document.querySelector('.map-status').textContent")
    assert chromium.errors == [] and chromium.opened == []


def test_pages_say_all_without_script(chromium: Browser, model: VJEPA, tmp_path: Path) -> None:
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        for make in (similarity, embeddings, surprise):
            make(path := tmp_path / f"{make.__name__}.html", model)
            chromium.open(path, width=1280)
            shown = "document.querySelector('.fallback').getBoundingClientRect().height > 100"
            assert chromium.run(shown) and chromium.run("document.querySelector('.widget > div[hidden]') !== null")
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
