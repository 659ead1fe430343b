"""Weights of 4 bits as torch tensors: whole numbers in int8 to compute with, two in a byte to be stored."""

from __future__ import annotations

import torch
from torch import Tensor

from raycompress.compressors.quantization.int4.rounding import LOW, packed, rounded, unpacked
from raycompress.model.stored import group_of


def as_int4(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the whole numbers of a weight and their scales, one for each group of values that follow along `axis`.

    Returns
    -------
    tuple of Tensor
        int8 from -8 to 7 of the weight's shape; float32, numbers that bfloat16 has, with one for each group
        along `axis` (see `raycompress.model.stored.group_of`).
    """
    rows = weight.detach().float().cpu().movedim(axis, -1)
    numbers, scales = rounded(rows.reshape(*rows.shape[:-1], -1, group_of(rows.size(-1))).numpy(), coarse=True)
    whole, scale = torch.from_numpy(numbers).flatten(-2), torch.from_numpy(scales[..., 0])
    return whole.movedim(-1, axis).contiguous().to(weight.device), scale.movedim(-1, axis).contiguous().to(
        weight.device
    )


def pack(numbers: Tensor) -> Tensor:
    """Return uint8 of one dimension, two numbers from -8 to 7 in each."""
    return torch.from_numpy(packed((numbers.detach().cpu() - LOW).flatten().numpy()))


def unpack(stored: Tensor, shape: torch.Size) -> Tensor:
    """Return the int8 numbers of this shape that `pack` was given; raises KeyError where they are not so many."""
    if stored.dtype != torch.uint8 or tuple(stored.shape) != (-(-shape.numel() // 2),):
        raise KeyError(f"weight of shape {tuple(shape)}")
    return (torch.from_numpy(unpacked(stored.cpu().numpy(), shape.numel())).to(torch.int8) + LOW).reshape(shape)
