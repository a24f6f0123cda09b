"""Put a whole frame in the place of each that is woven from two moments, by the filter that the ffmpeg program has."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame


def deinterlaced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield a frame for each frame, as `yadif=deint=interlaced` of ffmpeg: those not marked as interlaced unchanged.

    Each is made with the one before and the one after it, so it comes one later.
    """
    graph: Graph | None = None
    layout = None
    for frame in frames:
        if layout != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                graph.vpush(None)
                yield from _finished(graph)
            graph, layout = _build(frame), (frame.width, frame.height, frame.format.name)
        assert graph is not None
        graph.vpush(frame)
        yield from _finished(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _finished(graph)


def _build(frame: VideoFrame) -> Graph:
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    graph.link_nodes(source, graph.add("yadif", "deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _finished(graph: Graph) -> Iterator[VideoFrame]:
    import av

    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):  # it waits for the next frame, or has given the last
            return
