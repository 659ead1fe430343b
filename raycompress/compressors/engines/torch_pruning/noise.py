"""How much a model's outputs change with noise in those of one layer: what an error there costs in the end.

An error of a layer counts for less where a residual stream, a later BatchNorm or later layers drown it. The change of
the outputs per squared size of the noise is their second order sensitivity, as the trace of the Hessian is the loss's
(Dong et al., HAWQ-V2, NeurIPS 2020), here by forward passes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.compensation.readers import Reader
from raycompress.compressors.compensation.watching import computing
from raycompress.compressors.layer_kinds import channel_dim
from raycompress.compressors.measure.difference import relative_difference

SIZE = 0.3
"""Standard deviation of the noise, relative to that of the outputs."""
INPUTS = 32


def noise_sensitivities(model: nn.Module, readers: Iterable[Reader], batch: Example) -> dict[str, float]:
    """Return layer -> squared relative change of the model's outputs, by the squared relative size of the noise.

    The noise is relative to the standard deviation of all outputs of the layer, and to that of each channel where a
    BatchNorm follows. Layers after whose change the outputs have other shapes, as the boxes of a detector, are left
    out.

    Parameters
    ----------
    batch
        Inputs of the model, of which `INPUTS` are used.
    """
    piece = next(iter(batch.pieces(max(batch.least, INPUTS))))
    with computing(model, ()):
        dense = tensors_in(piece.call(model))
    found = {}
    for reader in readers:
        with computing(model, [model.get_submodule(reader.name).register_forward_hook(_noisy(bool(reader.norm)))]):
            change = relative_difference(dense, tensors_in(piece.call(model)))
            if math.isfinite(change):
                found[reader.name] = (change / SIZE) ** 2
    return found


def _noisy(is_normed: bool) -> Any:
    """Return a hook that adds noise to what a layer puts out; the same at each call."""

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # torch's attention: outputs, weights
            return (_with_noise(output[0], None), *output[1:])
        return _with_noise(output, channel_dim(module, output) if is_normed else None)

    return hook


def _with_noise(output: Tensor, channels: int | None) -> Tensor:
    others = [dim for dim in range(output.dim()) if dim != channels]
    spread = output.float().std(others, keepdim=True) if channels is not None else output.float().std()
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
    return output + (SIZE * spread * noise).to(output.dtype)
