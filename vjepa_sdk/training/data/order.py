"""Decide which clip stands where in a run: a function of seed and position alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

ORDER_KEY, CLIP_KEY, REPLACEMENT_KEY, SOURCE_KEY = range(4)
"""What a seed is drawn for."""
_DRAWS = 1 << 16


def derive_seed(*keys: int) -> int:
    """Mix integers into one seed; equal keys give equal seeds on every machine and version."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


class ClipOrder:
    """Which clip of which source stands at each position of a run: a function of seed and position.

    Each position draws its source by weight. Each source is walked through in shuffled epochs: none of its clips comes
    again before all have come.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.sizes, self.seed = tuple(sizes), seed
        self._edges = np.cumsum(weights)[:-1] / np.sum(weights)
        self._drawn = (-1, np.arange(0))
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def walk(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield (source, clip) for the positions from `first` up to, not including, `last`.

        With several sources a walk that starts late draws the sources of all earlier positions first, to count them:
        about a second for every hundred million.
        """
        walked = self._counts(first)
        for position in range(first, last):
            source = int(self._draws(position // _DRAWS)[position % _DRAWS]) if len(self.sizes) > 1 else 0
            epoch, place = divmod(walked[source], self.sizes[source])
            walked[source] += 1
            yield source, int(self._shuffled(source, epoch)[place])

    def _counts(self, position: int) -> list[int]:
        """Count how often each source was drawn before a position."""
        if len(self.sizes) == 1:
            return [position]
        counts = np.zeros(len(self.sizes), np.int64)
        for start in range(0, position, _DRAWS):
            counts += np.bincount(self._draws(start // _DRAWS)[: position - start], minlength=len(counts))
        return counts.tolist()

    def _draws(self, block: int) -> np.ndarray:
        """Draw the sources of a block of positions."""
        known, sources = self._drawn
        if known != block:
            draws = np.random.default_rng(derive_seed(self.seed, SOURCE_KEY, block)).random(_DRAWS)
            sources = np.searchsorted(self._edges, draws, side="right")
            self._drawn = block, sources
        return sources

    def _shuffled(self, source: int, epoch: int) -> np.ndarray:
        """Return the order of a source's clips in one epoch; the first source has the order it would have alone."""
        known, order = self._epochs.get(source, (-1, np.arange(0)))
        if known != epoch:
            keys = (self.seed, ORDER_KEY, epoch, source) if source else (self.seed, ORDER_KEY, epoch)
            order = np.random.default_rng(derive_seed(*keys)).permutation(self.sizes[source])
            self._epochs[source] = epoch, order
        return order
