"""How much each residual block changes what passes through it: which blocks go where only their number is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.depth.dropped_block import input_of
from raycompress.compressors.structure.axes.recorder import unchanged


def block_influence(model: nn.Module, blocks: Sequence[str], inputs: Sequence[Example]) -> dict[str, float]:
    """Return 1 - the mean cosine similarity of the input and the output of each block; 0 for one that changes nothing.

    This is the block influence of Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You
    Expect (2024), measured by which they drop layers of decoders. Vectors are those of tokens where tensors are of
    [batch, tokens, features], and else whole samples. `model` is left as it is.

    Parameters
    ----------
    inputs
        To measure it on; eval mode.
    """
    meters = {name: _Meter() for name in blocks}
    handles = []
    for name, meter in meters.items():
        block = model.get_submodule(name)
        handles.append(block.register_forward_pre_hook(meter.before, with_kwargs=True))
        handles.append(block.register_forward_hook(meter.after))
    try:
        with evaluating(model), unchanged(model), torch.no_grad():
            for one in inputs:
                one.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return {name: 1.0 - meter.total / max(1, meter.count) for name, meter in meters.items()}


class _Meter:
    """Adds up the cosine similarities of one block's inputs and outputs."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self._inputs: list[Tensor] = []

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inputs.append(input_of(module, args, kwargs).detach().clone())

    def after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        one, other = self._inputs.pop(), output if isinstance(output, Tensor) else output[0]
        is_sequence = one.dim() == 3
        one, other = (tensor.flatten(0, 1) if is_sequence else tensor.flatten(1) for tensor in (one, other))
        found = cosine_similarity(one.float(), other.float(), dim=1)
        self.total, self.count = self.total + float(found.sum()), self.count + len(found)
