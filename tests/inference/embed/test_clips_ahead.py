"""Decoded clips wait for the encoder, two batches of them, and in bounded memory."""

from __future__ import annotations

import pytest

from vjepa_sdk.inference.embed.batches import num_ahead

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("batch_size", "num_workers", "clip_bytes", "expected"),
    [
        (8, 2, 3 * MEBIBYTE, 16),
        (64, 8, 3 * MEBIBYTE, 128),
        (1, 8, 3 * MEBIBYTE, 2),
        (256, 8, 16 * MEBIBYTE, 64),  # 8 GiB otherwise
        (256, 16, 512 * MEBIBYTE, 16),
        (256, 0, 4096 * MEBIBYTE, 0),
    ],
)
def test_two_batches_are_decoded_ahead_where_memory_allows(
    batch_size: int, num_workers: int, clip_bytes: int, expected: int
) -> None:
    assert num_ahead(batch_size=batch_size, num_workers=num_workers, clip_bytes=clip_bytes) == expected
