"""Recomputes BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from raycompress.bundle.example import Example, evaluating
from raycompress.errors import CompressionError


def recompute_statistics(model: nn.Module, batches: Sequence[Example]) -> None:
    """Replace BatchNorm's running means and variances by those of `batches`, the model otherwise in eval mode.

    Raises
    ------
    CompressionError
        A batch is too small for a variance.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    several = [batch for batch in batches if max((shape[0] for shape in batch.shapes if shape), default=1) > 1]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        try:
            for batch in several or batches:
                batch.call(model)
        except ValueError as error:
            raise CompressionError(
                f"BatchNorm statistics cannot be recomputed: {error}",
                fix="evaluate with larger batches, or leave it out",
            ) from error
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
