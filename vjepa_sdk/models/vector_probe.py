"""Classify one vector a clip: a linear probe, and the nearest of the clips that were labelled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.schema import check_range, check_types

_MAX_DIM, _MAX_CLASSES, _MAX_ROWS = 1 << 24, 1 << 20, 1 << 28
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """Shape of a linear probe."""

    embed_dim: int
    """Numbers a row has, its axes made one."""
    num_classes: int
    """1 for a probe of a number."""
    has_centres: bool = True
    """Whether it can tell rows that are unlike those it was fitted to."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range("embed_dim", self.embed_dim, 1, _MAX_DIM)
        check_range("num_classes", self.num_classes, 1, _MAX_CLASSES)


@dataclass(frozen=True, kw_only=True)
class NearestProbeConfig:
    """Shape of a probe that looks up the nearest labelled rows."""

    embed_dim: int
    num_classes: int
    num_rows: int
    """Labelled rows it holds."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour at cosine s votes with exp(s / temperature) (DINOv2, `dinov2/eval/knn.py`)."""
    has_centres: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_range("embed_dim", self.embed_dim, 1, _MAX_DIM)
        check_range("num_classes", self.num_classes, 1, _MAX_CLASSES)
        check_range("num_rows", self.num_rows, 1, _MAX_ROWS)
        check_range("k", self.k, 1, _MAX_ROWS)
        check_range("temperature", self.temperature, 1e-6, 1e6)


class _Centres(nn.Module):
    """Tell rows that are far from every class, by the cosine with the nearest class's mean."""

    means: Tensor
    reach: Tensor

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, embed_dim))
        self.register_buffer("reach", torch.zeros(1))
        """Cosine distance that 1 % of the rows of the fit exceed, each left out of its own class's mean."""

    def forward(self, features: Tensor) -> Tensor:
        """Say of each row of `[B, D]` whether it is farther than that: bool `[B]`."""
        cosines = F.normalize(features, dim=-1) @ F.normalize(self.means, dim=-1).T
        return 1.0 - cosines.amax(dim=-1) > self.reach


class VectorProbe(nn.Module):
    """What probes of vectors have in common."""

    config: LinearProbeConfig | NearestProbeConfig

    def __init__(self, config: LinearProbeConfig | NearestProbeConfig) -> None:
        super().__init__()
        self.config = config
        self.centres = _Centres(config.num_classes, config.embed_dim) if config.has_centres else None

    def is_unlike(self, features: Tensor) -> Tensor:
        """Say of each row of float32 `[B, D]` whether it is unlike all it was fitted to; never without centres."""
        if self.centres is None:
            return torch.zeros(len(features), dtype=torch.bool)
        unlike: Tensor = self.centres(features)
        return unlike


class LinearProbe(VectorProbe):
    """Standardise, then weigh: `weight @ (x - mean) / scale + bias`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: LinearProbeConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.num_classes, config.embed_dim), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(config.num_classes), requires_grad=False)
        self.register_buffer("mean", torch.zeros(config.embed_dim))
        self.register_buffer("scale", torch.ones(config.embed_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Map float32 `[B, D]` to logits `[B, num_classes]`, or to the number `[B, 1]`."""
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)


class NearestProbe(VectorProbe):
    """Let the k nearest labelled rows vote."""

    config: NearestProbeConfig
    features: Tensor
    targets: Tensor

    def __init__(self, config: NearestProbeConfig) -> None:
        super().__init__(config)
        self.register_buffer("features", torch.zeros(config.num_rows, config.embed_dim))
        """Of length 1."""
        self.register_buffer("targets", torch.zeros(config.num_rows))
        """Numbers of classes; files of weights hold floats, which are exact up to 2^24."""

    def forward(self, features: Tensor) -> Tensor:
        """Map float32 `[B, D]` to the logarithms of the classes' shares of the vote, `[B, num_classes]`."""
        k = min(self.config.k, self.config.num_rows)
        votes = torch.zeros(len(features), self.config.num_classes, device=features.device)
        for first in range(0, len(features), _QUERIES_AT_ONCE):
            queries = F.normalize(features[first : first + _QUERIES_AT_ONCE], dim=-1)
            # of rows that score the same the first ones vote: `topk` promises no order
            cosines, rows = torch.sort(queries @ self.features.T, dim=-1, descending=True, stable=True)
            shares = torch.softmax(cosines[:, :k] / self.config.temperature, dim=-1)
            votes[first : first + len(queries)].scatter_add_(1, self.targets[rows[:, :k]].long(), shares)
        return votes.log()
