"""Find the clips that files, directories, patterns and lists name.

A symbolic link is followed only if the caller says so. Else it is left out, with a warning, where it was found, and an
error where it was named.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..errors import InputError, printable
from ..runtime.host import working_directory
from ..runtime.progress import ProgressBar, progress_bar
from ..video.images import STILL_SUFFIXES, is_animation
from ..video.reader import OTHER_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from ..video.safety import PathLike, check_is_path
from .lists import LIST_SUFFIXES, ClipSource, default_id, frame_sources, read_sources, whole
from .tables import DataFrame

logger = logging.getLogger(__name__)

_ANIMATED = (".png", ".webp")  # what may be images of several frames

Images = Literal["frames", "stills", "both", "none"]
"""What images in a directory are: numbered `frames` of one video, single `stills`, `both`, or `none` of interest."""
Links = Literal["refuse", "named", "follow"]
"""Which symbolic links are followed: none, those that were `named` by the caller, or all."""
Inputs = PathLike | DataFrame | Iterable[PathLike | DataFrame]
"""What names clips: files, directories, patterns, lists and data frames."""


@dataclass(frozen=True)
class Folder:
    """Videos and images that lie directly in one directory."""

    path: str
    videos: list[str]
    images: list[str]

    @property
    def is_frames(self) -> bool:
        """Whether it is one video: images and nothing else, whose names differ in a number only."""
        return not self.videos and _are_numbered([Path(image).stem for image in self.images])

    def clips(self, images: Images) -> list[str]:
        """Return the paths of its clips."""
        if images == "stills":
            return self.images
        if images != "none" and self.is_frames:
            return [self.path]
        return self.videos + (self.images if images == "both" else [])


@dataclass
class FoundClips:
    """What the inputs of a command hold; what of it are clips depends on the model."""

    named: list[ClipSource] = field(default_factory=list)
    """Files and frame directories that were named one by one."""
    folders: list[Folder] = field(default_factory=list)
    num_links: int = 0
    """Symbolic links that were left out."""
    unread: list[str] = field(default_factory=list)
    """Files that were left out though they look like videos."""

    def clips(self, images: Images) -> list[ClipSource]:
        """Return the clips, sorted by path and time, each once.

        Raises:
            InputError: there is none, two of them have one id, or two lines of lists say different things of one.
        """
        sources = [*self.named, *(whole(path) for folder in self.folders for path in folder.clips(images))]
        if not sources:
            raise InputError(self._nothing(images))
        if images == "frames" and (empty := [folder.path for folder in self.folders if not folder.clips(images)]):
            logger.warning(
                "%d directories left out, their images are not numbered as frames (%s)", len(empty), printable(empty[0])
            )
        return _unique(sources)

    def _nothing(self, images: Images) -> str:
        where = ", ".join(sorted({printable(folder.path) for folder in self.folders})[:3]) or "inputs"
        if images == "stills":
            return f"{where}: no image there, and this model takes images; looked for {_suffixes(STILL_SUFFIXES)}"
        hint = "; its images are not numbered as frames, name them as in 'photos/*.jpg' to encode stills"
        has_images = images == "frames" and any(folder.images for folder in self.folders)
        return f"{where}: no video there; looked for {_suffixes(VIDEO_SUFFIXES)}{hint if has_images else ''}"


def find_clips(
    inputs: Inputs, *, links: Links = "refuse", split: str | None = None, show_progress_bar: bool | None = False
) -> FoundClips:
    """Look up what files, directories, patterns, lists and data frames name.

    Directories are searched recursively; hidden files in them are left out. A pattern has * ? [, and ** for any depth.
    A file that ends in .txt, .csv or .jsonl, or that is written @file, is a list. A path that exists is never read as a
    pattern. A file named directly is taken whatever its suffix. A data frame of pandas, polars or pyarrow has the
    columns of a list.

    Args:
        inputs: one or several of them.
        links: which symbolic links are followed: none (`refuse`), those that are `named` here, or all (`follow`).
        split: only lines of lists and data frames that have this in their column `split`.
        show_progress_bar: on stderr, where it takes more than a second; None: if it is a terminal.

    Raises:
        InputError: a path does not exist or is a symbolic link, a directory or pattern holds neither video nor image,
            a list is not valid, or `split` is given for what is no list.
    """
    found = FoundClips()
    with progress_bar("listing", total=None, show=show_progress_bar, unit="clip", patience_seconds=1.0) as bar:
        search = _Search(links, split, bar)
        for item in [inputs] if isinstance(inputs, str | os.PathLike | DataFrame) else inputs:
            _add(found, item, search)
    if not found.named and not found.folders:
        raise InputError("inputs is empty; pass at least one file, directory, pattern or list")
    if found.num_links:
        hint = "; --follow-symlinks takes them" if links == "refuse" else ""
        logger.warning("%d symbolic links left out%s", found.num_links, hint)
    if found.unread:
        logger.warning(
            "%d files left out, videos of a format that is not read (%s); convert them, or name one to try it",
            len(found.unread),
            printable(found.unread[0]),
        )
    return found


def missing(name: str) -> InputError:
    """Return the error for a path that does not exist."""
    return InputError(f"{printable(name)}: does not exist; check the spelling or the working directory")


@dataclass(frozen=True)
class _Search:
    """How is searched; see `find_clips`."""

    links: Links
    split: str | None
    bar: ProgressBar


def _add(found: FoundClips, item: PathLike | DataFrame, search: _Search) -> None:
    """Take what one of the inputs names."""
    if isinstance(item, DataFrame):
        _add_sources(found, frame_sources(item, split=search.split), search)
        return
    check_is_path(item)
    name = str(Path(item))
    if name.startswith("@") and not os.path.lexists(name):
        _add_list(found, Path(name[1:]), search)
    elif os.path.lexists(name):
        _add_named(found, name, search)
    elif search.split is not None and glob.has_magic(name):
        raise _without_split(name, search.split)
    elif glob.has_magic(name):
        _add_pattern(found, name, search)
    else:
        raise missing(name)


def find_videos(inputs: Sequence[PathLike]) -> list[Path]:
    """Return the video files that paths, directories and patterns name, sorted, each once.

    Raises:
        InputError: as `find_clips`.
    """
    return [Path(source.path) for source in find_clips(inputs, links="named").clips("none")]


def find_stills(inputs: Sequence[PathLike]) -> list[Path]:
    """Return the image files in directories, or if there are none the videos, in all else as `find_videos`."""
    found = find_clips(inputs, links="named")
    has_images = any(folder.images for folder in found.folders)
    return [Path(source.path) for source in found.clips("stills" if has_images else "none")]


def _add_named(found: FoundClips, name: str, search: _Search) -> None:
    if search.links == "refuse" and os.path.islink(name):
        raise _link(name)
    if not os.path.isdir(name) and Path(name).suffix.lower() in LIST_SUFFIXES:
        _add_list(found, Path(name), search)
    elif search.split is not None:
        raise _without_split(name, search.split)
    elif os.path.isdir(name):
        _add_directory(found, name, search)
    else:
        found.named.append(whole(name))


def _add_list(found: FoundClips, path: Path, search: _Search) -> None:
    if not path.is_file():
        raise InputError(f"{printable(path)}: no such list; check the spelling or the working directory")
    _add_sources(found, read_sources(path, split=search.split), search)


def _add_sources(found: FoundClips, sources: Iterable[ClipSource], search: _Search) -> None:
    for source in search.bar.counting(sources):
        if search.links == "refuse" and os.path.islink(source.path):
            raise _link(source.path)
        found.named.append(source)


def _without_split(name: str, split: str) -> InputError:
    return InputError(
        f"{printable(name)}: is no list, and split={split!r} needs one with a column 'split'; leave it out"
    )


def _link(name: str) -> InputError:
    return InputError(f"{printable(name)}: is a symbolic link; pass --follow-symlinks to read what it points to")


def _add_directory(found: FoundClips, directory: str, search: _Search) -> None:
    num_links, folders = found.num_links, list(_walk(found, directory, search))
    if not folders:
        raise _found_nothing(f"{printable(directory)}: no video or image in this directory", found, num_links)
    found.folders += folders


def _walk(found: FoundClips, directory: str, search: _Search) -> Iterator[Folder]:
    """Yield the folders below a directory that hold videos or images."""
    links = search.links

    def refuse(error: OSError) -> None:
        raise InputError(f"{printable(error.filename)}: cannot be listed: {error.strerror}") from error

    seen: set[tuple[int, int]] = set()
    for walked, subfolders, names in os.walk(directory, onerror=refuse, followlinks=links == "follow"):
        place = Path(walked)
        status = place.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a directory above
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        folder = Folder(str(place), [], [])
        if links != "follow":
            found.num_links += sum((place / name).is_symlink() for name in subfolders)
        for name in sorted(names):
            suffix, path = Path(name).suffix.lower(), str(place / name)
            if suffix in OTHER_VIDEO_SUFFIXES and not name.startswith("."):
                found.unread.append(path)
            if name.startswith(".") or suffix not in VIDEO_SUFFIXES | STILL_SUFFIXES:
                continue
            if links != "follow" and os.path.islink(path):
                found.num_links += 1
            else:
                (folder.videos if suffix in VIDEO_SUFFIXES else folder.images).append(path)
        if not folder.is_frames:
            animations = [path for path in folder.images if path.lower().endswith(_ANIMATED) and is_animation(path)]
            folder.videos[:] = sorted(folder.videos + animations)
            folder.images[:] = sorted(set(folder.images) - set(animations))
        if folder.videos or folder.images:
            search.bar.advance(by=len(folder.videos) + len(folder.images))
            yield folder


def _add_pattern(found: FoundClips, pattern: str, search: _Search) -> None:
    """Take what a shell would: files, and directories too, unless ** names what is in them anyway."""
    before, num_links = (len(found.named), len(found.folders)), found.num_links
    for name in search.bar.counting(sorted(glob.iglob(pattern, recursive=True))):
        if search.links != "follow" and _passes_link(name, pattern):
            found.num_links += 1
        elif os.path.isdir(name):
            found.folders += [] if "**" in pattern else _walk(found, name, search)
        elif (suffix := Path(name).suffix.lower()) in VIDEO_SUFFIXES | STILL_SUFFIXES:
            found.named.append(whole(name))
        elif suffix in OTHER_VIDEO_SUFFIXES:
            found.unread.append(name)
    if (len(found.named), len(found.folders)) == before:
        raise _found_nothing(f"{printable(pattern)}: no video or image matches this pattern", found, num_links)


def _found_nothing(what: str, found: FoundClips, num_links: int) -> InputError:
    """Explain an empty search; `num_links` had been left out before it."""
    skipped = found.num_links - num_links
    hint = f", and left out {skipped} symbolic links (see --follow-symlinks)" if skipped else ""
    return InputError(f"{what}; looked for {_suffixes(VIDEO_SUFFIXES | STILL_SUFFIXES)}{hint}")


def _passes_link(name: str, pattern: str) -> bool:
    """Whether a match is a link, or lies behind one that the pattern does not spell out."""
    fixed = 0
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        fixed += 1
    parts = Path(name).parts
    return any(os.path.islink(os.path.join(*parts[: i + 1])) for i in range(fixed, len(parts)))


def _are_numbered(stems: list[str]) -> bool:
    """Whether names are the same but for their last number."""
    matches = [re.fullmatch(r"(.*?)\d+(\D*)", stem, re.S) for stem in stems]
    return len(stems) > 1 and None not in matches and len({match.groups() for match in matches if match}) == 1


def _unique(sources: list[ClipSource]) -> list[ClipSource]:
    """Drop repeats, refuse ids that stand for two clips, and sort."""
    kept: dict[object, ClipSource] = {}
    owners: dict[str, ClipSource] = {}
    here, is_mixed = str(working_directory()), len({os.path.isabs(source.path) for source in sources}) > 1
    for source in sources:
        # a relative path and its absolute form are one clip; the first spelling stays
        is_whole = source.start_seconds is None and source.end_seconds is None
        default = source.path if is_whole else default_id(source.path, source.start_seconds, source.end_seconds)
        given = source.id if source.id != default else None
        where = os.path.normcase(os.path.join(here, source.path) if is_mixed else source.path)
        # of most clips the path is all there is: a million of them need no more than that
        key = where if is_whole and given is None else (where, source.start_seconds, source.end_seconds, given)
        if key in kept:
            kept[key] = _joined(kept[key], source)
            continue
        kept[key] = source
        other = owners.setdefault(source.id, source)
        if other is not source:
            raise InputError(
                f"id {source.id!r} stands for two clips, {printable(_span(other))} and {printable(_span(source))}; "
                "give each its own"
            )
    return sorted(kept.values(), key=lambda source: source.place)


def _joined(kept: ClipSource, again: ClipSource) -> ClipSource:
    """Return a clip that is named twice with what lists say of it, which must be the same."""
    columns, others = kept.columns or {}, again.columns or {}
    for name, value in others.items():
        if name in columns and columns[name] != value:
            raise InputError(
                f"{printable(_span(kept))}: has two values in the column {name!r}, {columns[name]!r} and {value!r}; "
                "keep one line, or give each an id"
            )
    return kept if again.columns is None else replace(kept, columns={**columns, **others})


def _span(source: ClipSource) -> str:
    if source.start_seconds is None and source.end_seconds is None:
        return source.path
    return f"{source.path} from {source.start_seconds or 0:g} to {source.end_seconds or 'its end'} s"


def _suffixes(suffixes: Iterable[str]) -> str:
    return " ".join(sorted(suffixes))
