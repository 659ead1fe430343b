"""Fingerprints of torch models and of files, for `raycompress.compressors.saving.witness`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raycompress.compressors.saving.witness import Fingerprint

_AT_ONCE = 1 << 20
"""Elements that are converted at a time."""


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the fingerprint of all floating-point parameters and buffers."""
    state = model.state_dict()
    return fingerprint_of({name: t for name, t in state.items() if isinstance(t, Tensor) and t.is_floating_point()})


def fingerprint_of(parts: Mapping[str, Tensor]) -> Fingerprint:
    """Return the fingerprint of tensors of any type."""
    with torch.inference_mode(False):
        return {name: _sums(tensor.detach()) for name, tensor in parts.items()}


def _sums(tensor: Tensor) -> tuple[float, float]:
    """Return the sum of the elements and that of their squares, in float64; no large tensor is copied for it."""
    total = squares = 0.0
    for part in torch.split(tensor.reshape(-1), _AT_ONCE):
        values = part.double()
        total += float(values.sum())
        squares += float(values.dot(values))
    return total, squares


def fingerprint_of_bytes(data: bytes) -> Fingerprint:
    """Return the fingerprint of a file: numbers that differ by more than a rounding where the files differ."""
    digest = hashlib.sha256(data).digest()
    return {
        f"sha256.{place}": (
            float(int.from_bytes(digest[place : place + 2], "big")),
            float(1 + int.from_bytes(digest[place + 2 : place + 4], "big")),
        )
        for place in range(0, len(digest), 4)
    }
