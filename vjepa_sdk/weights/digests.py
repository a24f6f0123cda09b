"""Tell weights from others by a digest, so that what is said of them is said of no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

DIGESTS = "weights_sha256"
"""Key of a provenance on disk: the sha256 of each network's weights that it speaks of."""


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the sha256 over names, dtypes, shapes and values, whatever the order and the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def network_digests(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the digest of each network's weights."""
    return {name: weights_digest(network.state_dict().items()) for name, network in networks.items()}


def parted(provenance: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a stored provenance without its digests, and these; none where there are none, or not ours."""
    told, found = dict(provenance), provenance.get(DIGESTS)
    told.pop(DIGESTS, None)
    return told, found if isinstance(found, dict) else {}
