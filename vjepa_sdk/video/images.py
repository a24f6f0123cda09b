"""Read still images, and directories of them as videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, VideoDecodeError, VJEPAError, printable
from .safety import MAX_PIXELS, PathLike, check_is_path, check_pixels, checked_indices, failure, open_regular_file

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"])
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: rows and columns change places

_PNG = b"\x89PNG\r\n\x1a\n"
STILL_SUFFIXES = IMAGE_SUFFIXES - {".gif"}  # a file that ends so is one image and no video


def list_frame_directory(path: PathLike) -> list[Path]:
    """List the image files of a directory in natural order: frame2 before frame10.

    Raises:
        InputError: the directory does not exist or holds no image.
    """
    check_is_path(path)
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(f"{printable(path)}: is not a directory of frames")
    images = [p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not images:
        expected = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(
            f"{printable(path)}: no image in this directory; looked for {expected}; "
            "for a directory of videos use embed_files or `vjepa embed`"
        )
    return sorted(images, key=lambda image: _natural_key(image.name))


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", name.lower())
    # Odd parts are digit runs. The name itself settles ties such as "1.png" and "01.png".
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def read_frame_directory(path: PathLike, indices: ArrayLike | None = None) -> np.ndarray:
    """Read a directory of equally sized images, naturally sorted, as the frames of one video.

    Args:
        path: a directory.
        indices: K indices in any order, repeats allowed; None for every frame.

    Returns:
        uint8 [K, H, W, 3] RGB.

    Raises:
        InputError: no images, an index outside the directory, or images of different sizes.
        VideoDecodeError: an image cannot be read.
    """
    files = list_frame_directory(path)
    wanted = np.arange(len(files)) if indices is None else checked_indices(indices, len(files), path)
    if not len(wanted):
        return np.empty((0, 0, 0, 3), np.uint8)
    needed, rows = np.unique(wanted, return_inverse=True)
    return np.stack(list(iter_images([files[i] for i in needed])))[rows]


def iter_images(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield images of one size as uint8 [H, W, 3] RGB, holding one at a time.

    Raises:
        InputError: an image has another size than the first, or is an animation.
        VideoDecodeError: an image cannot be read.
    """
    height = width = 0
    for file in files:
        if is_animation(file):
            raise InputError(
                f"{printable(file)}: is an animation, not a frame of a video; pass it as a video of its own"
            )
        image = read_image(file)
        if not height:
            height, width = image.shape[:2]
        if image.shape[:2] != (height, width):
            h, w = image.shape[:2]
            raise InputError(f"{printable(file)}: is {w}x{h}, but frames before it are {width}x{height}")
        yield image


def read_image(path: PathLike) -> np.ndarray:
    """Read a JPEG, PNG, WebP, BMP or GIF image; EXIF orientation applied, alpha composited on black.

    Returns:
        uint8 [H, W, 3] RGB; the first frame of an animation.

    Raises:
        VideoDecodeError: the file is missing, not such an image, damaged or above MAX_PIXELS.
    """
    with open_regular_file(path) as file, open_image(file, path) as image:
        return rgb_of(image)


@contextmanager
def open_image(
    file: BinaryIO, path: PathLike, formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
) -> Iterator[Any]:
    """Open an image with Pillow; errors of opening and of what is done with it name the file."""
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    try:
        with Image.open(file, formats=formats) as image:
            check_pixels(image.width, image.height, path)
            yield image
    except VJEPAError:
        raise
    except UnidentifiedImageError as error:
        *others, last = ("WebP" if name == "WEBP" else name for name in formats)
        raise failure(path, f"is not a {', '.join(others)} or {last} image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise failure(path, f"has more than {MAX_PIXELS} pixels per frame") from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise failure(path, f"is truncated or corrupt: {error}") from error


def is_still_file(path: PathLike) -> bool:
    """Whether a file holds one image by its suffix, and no animation."""
    return Path(path).suffix.lower() in STILL_SUFFIXES and not Path(path).is_dir() and not is_animation(path)


def is_animation(path: PathLike) -> bool:
    """Whether a file is a WebP, PNG or AVIF of several frames; False for what cannot be read."""
    try:
        with open_regular_file(path) as file:
            return is_animated(file)
    except VideoDecodeError:
        return False


def is_animated(file: BinaryIO) -> bool:
    """Whether an open file is a WebP, PNG or AVIF of several frames."""
    head = file.read(32)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return len(head) > 20 and bool(head[20] & 2)
    return head[4:12] == b"ftypavis" or (head[:8] == _PNG and _is_animated_png(file))


def _is_animated_png(file: BinaryIO) -> bool:
    """Look for the animation's header, which comes before the picture's data (PNG, third edition, 11.3.6)."""
    position = len(_PNG)
    while True:
        file.seek(position)
        chunk = file.read(12)
        if len(chunk) < 12 or chunk[4:8] in (b"IDAT", b"IEND"):
            return False
        if chunk[4:8] == b"acTL":
            return int.from_bytes(chunk[8:12], "big") > 1
        position += 12 + int.from_bytes(chunk[:4], "big")


def size_of(image: Any) -> tuple[int, int]:
    """Return height and width of a Pillow image as it is shown, EXIF orientation applied."""
    is_turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
    return (image.width, image.height) if is_turned else (image.height, image.width)


def rgb_of(image: Any) -> np.ndarray:
    """Return a Pillow image as it is shown, uint8 [H, W, 3]: EXIF orientation applied, alpha composited on black."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        return on_black(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"), dtype=np.uint8)


def on_black(rgba: np.ndarray) -> np.ndarray:
    """Composite pixels `uint8 [H, W, 4]` on black, `uint8 [H, W, 3]`; the one rule for images and videos."""
    from PIL import Image

    if rgba[:, :, 3].min(initial=255) == 255:
        return rgba[:, :, :3].copy()
    image = Image.fromarray(np.ascontiguousarray(rgba), "RGBA")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(black, image).convert("RGB"), dtype=np.uint8)
