"""Find principal components, exactly and always with the same signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK_ROWS = 65536


@dataclass(frozen=True, eq=False)
class Components:
    """The directions in which rows vary most."""

    mean: np.ndarray
    """float64 `[D]`."""
    components: np.ndarray
    """float64 `[C, D]`: orthonormal rows, most variance first."""
    variances: np.ndarray
    """float64 `[C]`: along each, descending."""
    total: float
    """Variance along all D directions together."""


def principal_components(rows: np.ndarray, count: int) -> Components:
    """Return the eigenvectors of the covariance of rows `[N, D]` in float64; the largest entry of each is positive.

    Randomised solvers are faster, and give other signs, and so other colours, at another time.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for first in range(0, len(rows), _BLOCK_ROWS):
        centred = rows[first : first + _BLOCK_ROWS] - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / len(rows))
    variances = np.maximum(values, 0.0)
    order = np.argsort(-variances, kind="stable")[:count]
    chosen = vectors[:, order].T
    largest = np.abs(chosen).argmax(axis=1)
    chosen = chosen * np.sign(chosen[np.arange(len(chosen)), largest])[:, None]
    return Components(mean, chosen, variances[order], float(variances.sum()))
