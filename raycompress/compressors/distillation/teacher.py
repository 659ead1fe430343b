"""The teacher: the dense model, frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, ExperimentError


def teacher_of(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy of `model` as it is now, without gradients and in eval mode, in another type where one is given."""
    copied = clean_copy(model).eval().requires_grad_(False)
    return copied if dtype is None else copied.to(dtype)


def teacher_dtype(asked: Any) -> torch.dtype | None:
    """Return the type that ``teacher=`` of `create_compressor` asks for; None for the model's own.

    Raises
    ------
    ExperimentError
        It is neither True nor a floating type.
    """
    found = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if found is True:
        return None
    if isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    raise ExperimentError(
        f"teacher= is True or a floating type, not {asked!r}",
        where="create_compressor",
        fix='teacher=True, or teacher="bfloat16"',
    )


def too_late(model: nn.Module) -> CompressionError:
    """Return the error for a teacher that is asked for when its weights are gone."""
    return CompressionError(
        f"the {type(model).__name__} is compressed already, and no copy of the dense one was kept to teach it",
        where="compressor.teacher",
        fix="create_compressor(..., teacher=True), or read compressor.teacher before compress()",
    )
