"""A tour on the sample videos: features, the clips most alike, and a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..corpus.samples import sample_videos
from ..downstream.search import Hit, SearchIndex
from ..errors import OutputError
from ..inference.embed.job import embed_files
from ..inference.vjepa import VJEPA
from ..runtime.files import atomic_file, disk_errors
from .answer_pages import PageOptions, save_hits
from .films import film_frames, to_mp4
from .maps import panel_row
from .page import Film
from .pca import feature_pca

FEATURES, PAGE = "feats.npy", "demo.html"


@dataclass(frozen=True)
class Demo:
    """What the tour has made."""

    features: Path
    """One row for each sample video."""
    rows: int
    dim: int
    query: Path
    hits: tuple[Hit, ...]
    """The samples most like the query, best first."""
    page: Path


def run_demo(
    out: str | Path = "vjepa-demo",
    *,
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
    command: Sequence[str] = (),
) -> Demo:
    """Embed the sample videos with the bundled model, find those most like the first, and write a page of it.

    Args:
        out: a directory, which is made: the videos in `clips`, features and page.
        overwrite: do it again where it was done before.
        show_progress_bar: on stderr; None: if it is a terminal.
        command: the command line that the page names.

    Raises:
        OutputError: the directory holds something, or cannot be made.
    """
    out = Path(out)
    videos = _copied_samples(out, overwrite=overwrite)
    model = VJEPA.from_pretrained("vjepa-tiny", device="cpu")
    result = embed_files(
        videos, out / FEATURES, device="cpu", num_workers=0, overwrite=overwrite, show_progress_bar=show_progress_bar
    )
    index = SearchIndex.open(out / FEATURES)
    query = videos[0]
    hits = [hit for hit in index.search(str(query), k=6, model=model) if not hit.is_query]
    options = PageOptions(
        path=out / PAGE,
        settings={},
        command=command,
        overwrite=overwrite,
        num_workers=0,
        show_progress_bar=False,
    )
    page = save_hits(hits, index.features, options, queries=[query.name], below=[_what_it_sees(model, query)])
    return Demo(result.out, result.rows, index.features.rows.shape[1], query, tuple(hits), page)


def _copied_samples(out: Path, *, overwrite: bool) -> list[Path]:
    """Copy the sample videos to where a user can see them, and use them."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out}: is no directory; choose another --out")
    is_earlier_demo = overwrite and (out / PAGE).is_file()
    if out.is_dir() and any(out.iterdir()) and not is_earlier_demo:
        raise OutputError(f"{out}: is not empty; pass --overwrite to do a demo again, or choose another --out")
    try:
        (out / "clips").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    videos = []
    for sample in sample_videos():
        video = out / "clips" / sample.name
        if not video.exists():
            with disk_errors(video), atomic_file(video) as file:
                file.write(sample.read_bytes())
        videos.append(video)
    return videos


def _what_it_sees(model: VJEPA, video: Path) -> Film:
    maps = feature_pca(model, video, show_progress_bar=False)
    return Film(
        mp4=to_mp4(film_frames([panel_row(maps, None, 0.6)], caption=""), fps=maps.volume.fps),
        alt="Film of the clip, and beside it what the encoder sees of it, coloured",
        title="What the encoder takes for alike has like colours",
        note="Principal components of its tokens: vjepa viz pca",
    )
