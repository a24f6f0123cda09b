"""Pages of what was found: names stay text, equal input gives equal bytes, and much is cut short and counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import HOSTILE, Outline
from outputs import clustered, write_output

from vjepa_sdk import SearchIndex, cluster, find_duplicates, label_errors, outlier_scores
from vjepa_sdk.downstream.stored import Features, open_features
from vjepa_sdk.errors import OutputError
from vjepa_sdk.viz import answer_pages
from vjepa_sdk.viz.answer_pages import (
    PageOptions,
    save_clusters,
    save_duplicates,
    save_hits,
    save_label_errors,
    save_outliers,
)
from vjepa_sdk.viz.page import plain_text, shortened


def options(path: Path, *, overwrite: bool = False) -> PageOptions:
    return PageOptions(path=path, settings={"k": 3}, command=["vjepa", "x"], overwrite=overwrite, num_workers=0)


def features(place: Path, names: list[str]) -> Features:
    half = len(names) // 2
    return open_features(write_output(place / f"{len(list(place.iterdir()))}.npy", clustered(half, half), names))


def save_all(place: Path, opened: Features, labels: list[str], query: str) -> list[Path]:
    """Write every kind of page."""
    index = SearchIndex(opened)
    duplicates = find_duplicates(opened, threshold=0.5, metric="cosine", across=labels)
    wrong = [labels[0], *labels[1:-1], labels[0]]
    return [
        save_hits(index.search(opened.rows[0], k=9), opened, options(place / "s.html"), queries=[query]),
        save_duplicates(duplicates, opened, options(place / "d.html"), across="path"),
        save_outliers(outlier_scores(opened, k=3), opened, options(place / "o.html"), count=9),
        save_label_errors(label_errors(opened, wrong, k=3), opened, options(place / "l.html")),
        save_clusters(cluster(opened, n_clusters=2, metric="cosine"), opened, options(place / "c.html")),
    ]


def test_hostile_names_labels_and_queries_make_no_element(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("harmless", "hostile")]
    for place in places:
        place.mkdir()
    harmless = save_all(places[0], features(places[0], [f"{i}.mp4" for i in range(20)]), ["a", "b"] * 10, "q.mp4")
    labels = ["<img src=x onerror=alert(1)>", "</script><svg onload=alert(2)>"] * 10
    hostile = save_all(places[1], features(places[1], HOSTILE), labels, HOSTILE[0])
    for first, second in zip(harmless, hostile, strict=True):
        expected, found = Outline(first.read_bytes()), Outline(second.read_bytes())
        drawn = ("g", "path", "use", "defs", "text", "svg", "clippath", "rect")
        assert [each for each in found.elements if each[0] not in drawn] == [
            each for each in expected.elements if each[0] not in drawn
        ]
        assert all(address.startswith(("data:image/webp;", "data:,", "./", "#")) for address in found.addresses)
        assert "script-src 'none'" in found.policy
    text = Outline(hostile[0].read_bytes()).text
    assert f"9 clips most like {plain_text(HOSTILE[0])}." in text
    assert shortened(plain_text(HOSTILE[0])) in text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    opened = features(tmp_path, [f"{i}.mp4" for i in range(20)])
    pages = []
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        pages.append([path.read_bytes() for path in save_all(place, opened, ["a", "b"] * 10, "q.mp4")])
    assert pages[0] == pages[1]


def test_a_page_shows_pictures_links_and_numbers_of_the_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a.mp4", "b.mp4", "damaged.mp4", "absent.mp4"]
    for name in names[:2]:
        write_video(tmp_path / name, num_frames=4)
    (tmp_path / "damaged.mp4").write_bytes(b"nothing")
    opened = features(tmp_path, names)
    hits = SearchIndex(opened).search(opened.rows[0], k=4)
    outline = Outline(save_hits(hits, opened, options(tmp_path / "s.html")).read_bytes())
    assert sum(address.startswith("data:image/webp;") for address in outline.addresses) == 2
    assert sorted(address for address in outline.addresses if address.startswith("./")) == sorted(
        f"./{name}#t=0.00" for name in names
    )
    assert outline.text.count("no picture") == 2 and "does not exist" in outline.text
    assert all(f"{hit.score:.4f}" in outline.text for hit in hits)


def test_groups_say_what_is_kept_and_the_histogram_how_alike_rows_are(tmp_path: Path) -> None:
    opened = features(tmp_path, [f"{i}.mp4" for i in range(6)])
    report = find_duplicates(opened, threshold=0.5, metric="cosine", prefer=[0, 0, 1, 0, 0, 0])
    outline = Outline(save_duplicates(report, opened, options(tmp_path / "d.html")).read_bytes())
    assert outline.text.count("is kept") == len(report.groups) == 2
    links = [os.path.basename(address) for address in outline.addresses if address.startswith("./")]
    assert links[:3] == [f"{row}.mp4#t=0.00" for row in (2, 0, 1)]  # what is kept comes first
    assert "Histogram of the cosine of each of 6 clips with its nearest" in outline.attributes["div.aria-label"]
    assert "The line is the threshold, 0.5" in outline.text


def test_without_anything_found_a_page_says_so(tmp_path: Path) -> None:
    opened = features(tmp_path, [f"{i}.mp4" for i in range(6)])
    report = find_duplicates(opened, threshold=1.0, metric="cosine")
    text = Outline(save_duplicates(report, opened, options(tmp_path / "d.html")).read_bytes()).text
    assert "0 pairs in 0 groups; keeping one of each leaves 6 of 6 rows." in text
    found = label_errors(opened, ["a"] * 3 + ["b"] * 3, k=2)
    text = Outline(save_label_errors(found, opened, options(tmp_path / "l.html")).read_bytes()).text
    assert "0 clips of 6 with another label than their neighbours." in text


def test_what_is_too_much_for_a_page_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_MAX_TABLE_ROWS", 5), ("_MAX_GROUPS", 1), ("_MAX_CARDS_OF_GROUP", 3), ("_MAX_CARDS", 4)):
        monkeypatch.setattr(answer_pages, name, value)
    opened = features(tmp_path, [f"{i}.mp4" for i in range(20)])
    report = find_duplicates(opened, threshold=0.5, metric="cosine")
    outline = Outline(save_duplicates(report, opened, options(tmp_path / "d.html")).read_bytes())
    assert len(report.pairs) == 90 and "85 more rows are left out; --out writes all of them." in outline.text
    assert "7 more are left out." in outline.text and "1 smaller ones are left out." in outline.text
    scores = outlier_scores(opened, k=3)
    text = Outline(save_outliers(scores, opened, options(tmp_path / "o.html"), count=9).read_bytes()).text
    assert "5 more are left out." in text and "4 more rows are left out" in text


def test_a_page_that_is_there_is_replaced_only_if_asked(tmp_path: Path) -> None:
    opened = features(tmp_path, [f"{i}.mp4" for i in range(6)])
    found = cluster(opened, n_clusters=2, metric="cosine")
    save_clusters(found, opened, options(tmp_path / "c.html"))
    with pytest.raises(OutputError, match=r"c.html: exists; pass --overwrite"):
        save_clusters(found, opened, options(tmp_path / "c.html"))
    save_clusters(found, opened, options(tmp_path / "c.html", overwrite=True))


def test_the_clips_of_a_cluster_are_its_middle_and_others_spread_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.repeat(np.eye(2, 8, dtype=np.float32), [30, 2], axis=0)
    opened = open_features(write_output(tmp_path / "feats.npy", rows))
    found = cluster(opened, n_clusters=2, metric="cosine")
    outline = Outline(save_clusters(found, opened, options(tmp_path / "c.html")).read_bytes())
    links = [address for address in outline.addresses if address.startswith("./")]
    assert len(links) == len(set(links)) == 8 + 2
    assert links[0] == "./0.mp4#t=0.00" and "./29.mp4#t=0.00" in links
