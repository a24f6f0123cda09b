"""Look at files before they go to a decoder that conceals damage and shows some of them wrongly without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from .containers import check_structure
from .damage import DamageChecks
from .frame_image import has_alpha_apart, is_square, may_be_transparent
from .pictures import fields_counter
from .safety import failure

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


def refuse_what_it_shows_wrong(name: str, path: str, container: InputContainer, stream: VideoStream) -> None:
    """Raise VideoDecodeError for pixels that are not square, and for alpha, which decoder `name` does not heed."""
    aspect, pixel_format = stream.sample_aspect_ratio, stream.codec_context.format
    codec = stream.codec_context.codec.canonical_name
    if aspect is not None and not is_square(aspect):
        shape = f"{aspect.numerator}:{aspect.denominator}"
        raise failure(path, f"has pixels of {shape}, which {name} takes for square; decoder='pyav' does not")
    has_alpha = pixel_format is not None and may_be_transparent(
        pixel_format, container=container.format.name, codec=codec
    )
    if has_alpha or has_alpha_apart(stream):
        raise failure(path, f"has alpha, of which {name} shows the hidden colours; decoder='pyav' does not")


def check_all_packets(name: str, path: str, file: BinaryIO, container: InputContainer, stream: VideoStream) -> None:
    """Raise VideoDecodeError for damage, which decoder `name` does not tell, and for packets that are no frames."""
    check_structure(path, file)
    checked, count_fields = DamageChecks(file).decoder(stream), fields_counter(stream)
    for packet in container.demux(stream):
        checked.check(packet)
        if packet.size and not packet.is_discard and count_fields(packet) != 2:
            reason = f"has packets of half a frame or none, each of which {name} counts as one"
            raise failure(path, f"{reason}; decoder='pyav' does not")
