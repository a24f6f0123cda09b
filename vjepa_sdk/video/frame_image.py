"""Turn a decoded frame into the picture that is shown: in RGB, upright, of square pixels, on black."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .images import on_black
from .safety import PathLike, check_pixels

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Encoders write pixels this far from square to make up for sizes that they round, as 2159:2160 for 144x254.
_ALMOST_SQUARE = 0.01


class FrameImage:
    """Turn the frames of one video into pictures of one size, that of the first."""

    def __init__(
        self, path: PathLike, first: VideoFrame, *, aspect: Fraction | None, container: str, codec: str
    ) -> None:
        """Settle how the video is shown.

        Args:
            first: its first frame.
            aspect: width of a pixel over its height; None: not known.
            container: the demuxer's name.
            codec: the decoder's.

        Raises:
            VideoDecodeError: the picture is above MAX_PIXELS.
        """
        self._coded_size = (first.width, first.height)
        self._orientation = _orientation(first)
        self._container, self._codec = container, codec
        self.rotation = -first.rotation % 360
        is_turned = self._orientation[0]
        width, self.height = self._coded_size[::-1] if is_turned else self._coded_size
        self.width = _shown_width(width, 1 / aspect if aspect and is_turned else aspect)
        self._is_stretched = self.width != width
        check_pixels(self.width, self.height, path)
        self._has_alpha: dict[str, bool] = {}  # by pixel format
        self.num_interlaced = 0  # of the frames so far
        self._converter: Any = None
        self._graphs: dict[tuple[int, int, str, str], Graph] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return the picture, uint8 [H, W, 3]: with 8 bits a colour as the ffmpeg program gives it by default.

        With more, colours differ from it at sharp edges between them.
        """
        name = frame.format.name
        has_alpha = self._has_alpha.get(name)
        if has_alpha is None:
            has_alpha = may_be_transparent(frame.format, container=self._container, codec=self._codec)
            self._has_alpha[name] = has_alpha
        pixel_format = "rgba" if has_alpha else "rgb24"
        is_plain = (frame.width, frame.height) == self._coded_size and not self._is_stretched
        is_interlaced = frame.interlaced_frame
        self.num_interlaced += is_interlaced
        if is_plain and not is_interlaced:
            image = self._turn(self._convert(frame, pixel_format))
        else:
            image = self._filter(frame, pixel_format)
        return np.ascontiguousarray(on_black(image) if has_alpha else image)

    def _convert(self, frame: VideoFrame, pixel_format: str) -> np.ndarray:
        from av.video.reformatter import Interpolation, VideoReformatter

        if self._converter is None:
            self._converter = VideoReformatter()
        converted = self._converter.reformat(frame, format=pixel_format, interpolation=Interpolation.BICUBIC, threads=1)
        image: np.ndarray = converted.to_ndarray()
        return image

    def _turn(self, image: np.ndarray) -> np.ndarray:
        transpose, flip_vertically, flip_horizontally = self._orientation
        image = image.transpose(1, 0, 2) if transpose else image
        return image[:: -1 if flip_vertically else 1, :: -1 if flip_horizontally else 1]

    def _filter(self, frame: VideoFrame, pixel_format: str) -> np.ndarray:
        """Convert with the filters that the ffmpeg program uses: their scaler knows where samples of colour lie."""
        key = frame.width, frame.height, frame.format.name, pixel_format
        if key not in self._graphs:
            self._graphs[key] = self._build(frame, pixel_format)
        self._graphs[key].vpush(frame)
        image: np.ndarray = self._graphs[key].vpull().to_ndarray()
        return image

    def _build(self, frame: VideoFrame, pixel_format: str) -> Graph:
        from av.filter import Graph

        transpose, flip_vertically, flip_horizontally = self._orientation
        filters = [
            # else libswscale converts the fields of interlaced frames apart, which the ffmpeg program does not
            ("setfield", "prog"),
            *([("transpose", "cclock_flip")] if transpose else []),
            *([("vflip", None)] if flip_vertically else []),
            *([("hflip", None)] if flip_horizontally else []),
            ("scale", f"{self.width}:{self.height}:flags=bicubic"),
            ("format", pixel_format),
            ("buffersink", None),
        ]
        graph = Graph()
        graph.threads = 1
        last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        )
        for name, arguments in filters:
            following = graph.add(name, arguments)
            last.link_to(following)
            last = following
        graph.configure()
        return graph


def _shown_width(width: int, aspect: Fraction | None) -> int:
    """Return the width at which pixels are square while the height stays, as `scale=iw*sar:ih` of ffmpeg gives it."""
    return width if is_square(aspect) else int(width * float(aspect or 1)) or width


def is_square(aspect: Fraction | None) -> bool:
    """Whether pixels are taken for square: no aspect is known, or it is within 1 % of 1."""
    return not aspect or abs(aspect - 1) <= _ALMOST_SQUARE


def may_be_transparent(pixel_format: VideoFormat, *, container: str, codec: str) -> bool:
    """Whether frames have alpha that says what is seen of them."""
    if codec == "gif":  # whose frames are drawn over one another, and leave as it was what is transparent
        return False
    if (container, codec) == ("avi", "rawvideo"):  # the fourth byte of a pixel is not used (BITMAPINFOHEADER, BI_RGB)
        return False
    if pixel_format.name == "pal8":
        return codec == "png"  # other palettes have no alpha, and decoders put anything in its place
    return any(component.is_alpha for component in pixel_format.components)


def has_alpha_apart(stream: VideoStream) -> bool:
    """Whether alpha is a picture of its own beside each packet, as of VP8 and VP9 in Matroska and WebM."""
    is_vpx = stream.codec_context.codec.canonical_name in ("vp8", "vp9")
    return is_vpx and stream.metadata.get("alpha_mode") == "1"


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Read a display matrix as (transpose, flip vertically, flip horizontally), to the nearest quarter turn."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data  # PyAV's stubs describe it wrongly
    if Type.DISPLAYMATRIX not in side_data:
        return False, False, False
    matrix = bytes(side_data[Type.DISPLAYMATRIX])
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0
