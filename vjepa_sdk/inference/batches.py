"""What `VJEPA.encode` does beside encoding: decode in other processes, and encode on several devices."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import VideoDecodeError
from ..runtime.workers.pool import TaskResult, WorkerPool
from ..video.clips import ClipLoader
from ..video.in_memory import content_of

DEADLINE_SECONDS = 60.0
"""Of one video in a decoding process, as for `embed_files`."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load_clips(
    items: Sequence[object], load: ClipLoader, *, num_workers: int, prefetch: int
) -> Generator[Tensor, None, None]:
    """Yield the clip of each input, `uint8 [T, 3, crop, crop]`, in order.

    Files and bytes are decoded in other processes if there are to be any; what is pixels already is cropped here.

    Raises:
        ConfigError: processes cannot be started here.
        InputError: not a video.
        VideoDecodeError: a file that cannot be decoded; of another process also for what would be an InputError here.
    """
    if not num_workers:
        yield from (torch.from_numpy(load(item)[0]) for item in items)
        return
    contents = [content_of(item) for item in items]
    encoded = [each for each in contents if isinstance(each, str | bytes | os.PathLike)]
    with WorkerPool(load, num_workers=num_workers, deadline_seconds=DEADLINE_SECONDS, crash_retries=1) as pool:
        results = pool.map(encoded, prefetch=prefetch)
        for content in contents:
            is_encoded = isinstance(content, str | bytes | os.PathLike)
            yield torch.from_numpy(_checked(next(results), load) if is_encoded else load(content)[0])


def _checked(decoded: TaskResult[Any], load: ClipLoader) -> np.ndarray:
    """Return the pixels that a decoding process sent, which a hostile file may have taken over."""
    if decoded.error is not None:
        raise VideoDecodeError(decoded.error)
    pixels, side = decoded.array, load.preprocess.crop_size
    shapes = [(num_frames, 3, side, side) for num_frames in load.clip_lengths]
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape not in shapes:
        raise VideoDecodeError("the decoding process sent something other than a clip; pass num_workers=0 to see why")
    return pixels


def in_turns(items: Iterable[_Item], workers: Sequence[Callable[[_Item], _Result]]) -> Iterator[_Result]:
    """Give items to workers in turn, each of which runs in a thread of its own; yield their results in order.

    One item for each worker waits or is at work, and no more are taken.
    """
    if len(workers) == 1:
        yield from map(workers[0], items)
        return
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in workers]
        under_way: deque[Future[_Result]] = deque()
        for number, item in enumerate(items):
            if len(under_way) == len(workers):
                yield under_way.popleft().result()
            place = number % len(workers)
            under_way.append(threads[place].submit(workers[place], item))
        while under_way:
            yield under_way.popleft().result()
