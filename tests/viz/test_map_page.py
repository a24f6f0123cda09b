"""A map of features is one page: its data, its pictures and its script are in it, and names stay text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_video
from outlines import HOSTILE, Outline
from tiny_models import save_tiny

from vjepa_sdk import Embeddings, embed_files, load_embeddings
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.viz import map_page
from vjepa_sdk.viz.colourings import NO_LABEL, colouring, read_labels
from vjepa_sdk.viz.map_page import draw_embeddings, spread_out
from vjepa_sdk.viz.page import plain_text


def embeddings(names: list[str], **columns: list[Any]) -> Embeddings:
    rows = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    index = [
        {"id": name, "path": name, "start_seconds": 1.5, "end_seconds": 3.0, "frames": [0]}
        | {key: values[row] for key, values in columns.items()}
        for row, name in enumerate(names)
    ]
    return Embeddings(rows, index, {"output": "feats.npy", "model": {"name": "tiny"}})


def draw(found: Embeddings, path: Path, **options: Any) -> tuple[Outline, dict[str, Any]]:
    draw_embeddings(found, path, num_workers=0, show_progress_bar=False, **options)
    outline = Outline(path.read_bytes())
    return outline, json.loads(outline.data)


def test_hostile_names_and_labels_stay_text(tmp_path: Path) -> None:
    groups = ["<img src=x onerror=alert(1)>", "</script><svg onload=alert(2)>"] * 10
    harmless, _ = draw(embeddings([f"{i}.mp4" for i in range(20)], label=["a", "b"] * 10), tmp_path / "a.html")
    hostile, data = draw(embeddings(HOSTILE, label=groups), tmp_path / "b.html")
    named = [element for element in hostile.elements if element[0] not in ("g", "path", "use", "defs", "text", "svg")]
    assert named == [
        element for element in harmless.elements if element[0] not in ("g", "path", "use", "defs", "text", "svg")
    ]
    assert data["names"] == [plain_text(name) for name in HOSTILE]
    assert all(link.startswith("./") and link.endswith("#t=1.50") and link.isascii() for link in data["links"])
    assert data["colourings"][0]["names"] == sorted(set(groups))


def test_the_policy_allows_the_one_script_and_nothing_else(tmp_path: Path) -> None:
    outline, _ = draw(embeddings([f"{i}.mp4" for i in range(6)]), tmp_path / "a.html")
    digest = base64.b64encode(hashlib.sha256(outline.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in outline.policy and "innerHTML" not in outline.script
    assert not any("http" in address for address in outline.addresses)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    found = embeddings([f"{i}.mp4" for i in range(12)])
    pages = [draw_embeddings(found, tmp_path / f"{i}.html", num_workers=0).path for i in range(2)]
    first, second = (page.read_bytes() for page in pages)
    assert first == second
    pictures = [draw_embeddings(found, tmp_path / f"{i}.png", num_workers=0).path.read_bytes() for i in range(2)]
    assert pictures[0] == pictures[1]


def test_pictures_stand_beside_their_clips_and_bad_clips_say_why(tmp_path: Path) -> None:
    names = [str(write_video(tmp_path / f"{i}.mp4")) for i in range(4)]
    found = embeddings([*names, str(tmp_path / "gone.mp4")])
    drawn = draw_embeddings(found, tmp_path / "a.html", num_workers=0, show_progress_bar=False)
    data = json.loads(Outline((tmp_path / "a.html").read_bytes()).data)
    assert drawn.num_pictures == 4 and sorted(data["pictures"]) == ["0", "1", "2", "3"]
    assert data["reasons"] == {"4": "does not exist"} and drawn.failures == {
        names[0].replace("0.mp4", "gone.mp4"): "does not exist"
    }
    target = (tmp_path / data["links"][0].partition("#")[0]).resolve()
    assert target == Path(names[0]).resolve()


def test_a_page_that_is_too_large_loses_pictures_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(write_video(tmp_path / f"{i}.mp4")) for i in range(4)]
    whole = draw_embeddings(embeddings(names), tmp_path / "a.html", num_workers=0)
    size = (tmp_path / "a.html").stat().st_size
    monkeypatch.setattr(map_page, "MAX_PAGE_BYTES", size - 1)
    outline, data = draw(embeddings(names), tmp_path / "b.html")
    assert whole.num_pictures == 4 and len(data["pictures"]) == 2
    assert "2 pictures are left out, to keep the page below 15 MB." in outline.text


def test_of_too_many_rows_a_sample_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_page, "MAX_POINTS", 10)
    outline, data = draw(embeddings([f"{i}.mp4" for i in range(30)]), tmp_path / "a.html")
    assert len(data["x"]) == 10 and "A sample of 30 rows." in outline.text


def test_pictures_are_spread_over_the_map() -> None:
    points = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    rows = spread_out(points, 100)
    assert len(rows) == 100 and len(set(rows.tolist())) == 100
    reach = np.linalg.norm(points[:, None] - points[rows], axis=2).min(axis=1)
    assert reach.max() < 1.0
    assert spread_out(points[:5], 9).tolist() == [0, 1, 2, 3, 4] and not len(spread_out(points, 0))


def test_twelve_groups_have_a_colour_and_the_others_are_grey() -> None:
    found = colouring("label", [f"g{i:02d}" for i in range(15) for _ in range(20 - i)] + [NO_LABEL] * 50)
    assert found.groups[:2] == ("g00", "g01") and found.groups[-1] == NO_LABEL
    assert len(set(found.colours[:12])) == 12 and set(found.colours[12:]) == {"#8A94A0"}
    assert np.bincount(found.of).tolist() == [*range(20, 5, -1), 50]


def test_labels_belong_to_rows_by_id_and_by_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "labels.csv").write_text("path,id,label\nclips/a.mp4,,jump\nclips/b.mp4,x,run\n")
    index = [
        {"id": "1", "path": str(tmp_path / "clips/a.mp4")},
        {"id": "x", "path": "elsewhere"},
        {"id": "3", "path": "c"},
    ]
    assert read_labels(tmp_path / "labels.csv", index) == ["jump", "run", NO_LABEL]
    assert "1 of 3 rows have no label" in caplog.text


def test_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    index = [{"id": "1", "path": "a.mp4"}]
    for text, message in (
        ("path,class\na.mp4,x\n", "has no column 'label'; its first line must be `path,label`"),
        ("path,label\nz.mp4,x\n", "labels none of the 1 rows, for example a.mp4; paths are relative to the list"),
        ("path,id,label\na.mp4,1,x\na.mp4,1,y\n", "line 3 gives 1 another label than before; keep one"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_labels(tmp_path / "labels.csv", index)


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    found = embeddings([f"{i}.mp4" for i in range(6)])
    with pytest.raises(ConfigError, match="suffix '.pdf' must be one of .html, .png; rename the output"):
        draw_embeddings(found, tmp_path / "a.pdf")
    (tmp_path / "a.html").touch()
    with pytest.raises(OutputError, match="a.html: exists; pass --overwrite"):
        draw_embeddings(found, tmp_path / "a.html")


def test_the_command_draws_what_embed_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("clips")
    save_tiny(Path("model"))
    for number in range(5):
        write_video(Path(f"clips/{number}.mp4"), num_frames=20 + number)
    embed_files(["clips"], "feats.npy", model="model", num_workers=0)
    assert len(load_embeddings("feats.npy").index) == 5
    for extra in ((), ("--json", "--overwrite")):
        words = ["viz", "embeddings", "feats.npy", "-o", "map.html", "--num-workers", "0", *extra]
        monkeypatch.setattr(sys, "argv", ["vjepa", *words])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        printed = capsys.readouterr().out
        if extra:
            assert json.loads(printed)["points"] == 5 and json.loads(printed)["failures"] == {}
        else:
            assert printed == "map.html: 5 points\n"
            assert "vjepa viz embeddings feats.npy -o map.html" in Outline(Path("map.html").read_bytes()).text
