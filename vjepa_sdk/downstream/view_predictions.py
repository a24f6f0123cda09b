"""Let a probe say what videos show by the clips of an official evaluation, of which no tokens are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..corpus.lists import ClipSource
from ..errors import ConfigError, VideoDecodeError
from ..inference.embed.options import EmbedOptions
from ..models.attentive_probe import ProbeConfig
from ..runtime.progress import progress_bar
from .encoding import check_model
from .fit import predict_rows
from .probe import Probe
from .streaming import Failure, ViewEncoder, ViewRequest, part_of


def predict_views(
    probe: Probe, clips: Sequence[ClipSource], options: EmbedOptions
) -> tuple[dict[str, np.ndarray], list[Failure]]:
    """Return what a probe says of clips, and which of them could not be decoded.

    Args:
        options: of an embedding job with a clip set.

    Returns:
        By the ids of the clips the mean of the probabilities over their views, float32 `[classes]`; and failures.

    Raises:
        ConfigError: the probe reads no tokens, or those of another model or of other clips.
        VideoDecodeError: every clip failed, or more than `options.max_failures` did.
    """
    if not isinstance(probe.probe.config, ProbeConfig):
        raise ConfigError(f"an official protocol tests attentive probes, and this is a {probe.kind} one; leave it out")
    said: dict[str, np.ndarray] = {}
    failed: list[Failure] = []
    with ViewEncoder(options) as encoder:
        check_model(encoder.model, probe.source, probe.probe.config)
        if probe.source.is_known and (changes := probe.source.differences(encoder.source)):
            raise ConfigError(f"the protocol is not that of the probe ({'; '.join(changes[:4])}); leave it out")
        wanted = {clip.id: ViewRequest(part_of(clip), tuple(range(encoder.num_views(clip.id)))) for clip in clips}
        with progress_bar("test", total=len(clips), show=options.show_progress_bar, unit="clip") as bar:
            for request, tokens in encoder.read(list(wanted.values())):
                id_ = request.part.id
                if isinstance(tokens, str):
                    failed.append({"id": id_, "path": str(request.part.video), "reason": tokens})
                else:
                    said[id_] = predict_rows(probe.probe, tokens).mean(axis=0)
                bar.advance()
                _check_failures(failed, len(clips), options)
    return said, failed


def _check_failures(failed: Sequence[Failure], total: int, options: EmbedOptions) -> None:
    if failed and (len(failed) == total or len(failed) > options.failure_share * total):
        first = failed[0]
        raise VideoDecodeError(
            f"{len(failed)} of {total} clips could not be decoded, such as {first['path']}: {first['reason']}; more "
            f"than max_failures={options.max_failures} allows"
        )
