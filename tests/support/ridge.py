"""A classifier that needs no solver: ridge regression in closed form."""

from __future__ import annotations

import numpy as np


def ridge_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit one ridge regression per class and return the best class of each test row.

    The penalty is chosen by leave-one-out error on the training rows alone.
    """
    classes = np.unique(labels)
    targets = np.where(labels[:, None] == classes, 1.0, -1.0)
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z = (train - mean) / std, (test - mean) / std
    kernel = x @ x.T / x.shape[1]
    values, vectors = np.linalg.eigh(kernel)
    centre = targets.mean(0)
    best_error, best_weights = np.inf, np.zeros_like(targets)
    for penalty in 10.0 ** np.arange(-4, 3, 0.5):
        inverse = (vectors / (values + penalty)) @ vectors.T
        weights = inverse @ (targets - centre)
        error = float(np.mean((weights / np.diag(inverse)[:, None]) ** 2))
        if error < best_error:
            best_error, best_weights = error, weights
    scores = z @ x.T / x.shape[1] @ best_weights + centre
    return classes[scores.argmax(1)]
