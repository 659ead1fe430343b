"""Compares the outputs of pruned models with the dense one's on inputs that nothing is fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.compensation.watching import Tensors, computing
from raycompress.compressors.layer_kinds import is_weighted, output_dim
from raycompress.compressors.measure.difference import relative_difference

PIECES = 16
"""Parts of the held-out inputs that are compared one by one, where there are as many inputs."""


@dataclass(frozen=True)
class Judge:
    """Held-out inputs, and what the dense model puts out for them.

    Attributes
    ----------
    pieces
        The inputs in small batches.
    ends
        Layers that read fewer channels and keep all of their own; their outputs are compared where the model's cannot
        be: a detector finds other boxes, or as many in another order.
    outputs, at_ends
        For each piece what the dense model puts out, and its `ends`, call by call.
    """

    pieces: Sequence[Example]
    ends: Sequence[str]
    outputs: Sequence[list[Tensor]]
    at_ends: Sequence[Mapping[str, list[Tensor]]]

    @classmethod
    def of(cls, dense: nn.Module, tensors: Tensors, batches: Sequence[Example]) -> Judge:
        """Return the judge of models that are `dense` without what `tensors` leaves out."""
        least = max(batch.least for batch in batches)
        size = max(1, sum(batch.batch for batch in batches) // PIECES // least) * least
        pieces = [piece for batch in batches for piece in batch.pieces(size)]
        ends = [
            name for (name, key) in tensors if key == "weight" and _is_end(dense.get_submodule(name), tensors, name)
        ]
        found = [_computed(dense, piece, ends) for piece in pieces]
        return cls(pieces, ends, [outputs for outputs, _ in found], [at_ends for _, at_ends in found])

    def differences(self, model: nn.Module) -> list[float]:
        """Return the relative difference of a model's outputs for each piece; infinite where none can be compared."""
        found = [_computed(model, piece, self.ends) for piece in self.pieces]
        is_same = all(_shapes(one) == _shapes(other) for one, (other, _) in zip(self.outputs, found, strict=True))
        if is_same and not any(piece.is_list for piece in self.pieces):
            return [relative_difference(one, other) for one, (other, _) in zip(self.outputs, found, strict=True)]
        return [_at_ends(one, other) for one, (_, other) in zip(self.at_ends, found, strict=True)]


def standard_error(without: Sequence[float], by: Sequence[float]) -> float:
    """Return the standard error of the mean of what `by` is less, input by input; 0 of one input alone."""
    less = [one - other for one, other in zip(without, by, strict=True)]
    return stdev(less) / math.sqrt(len(less)) if len(less) > 1 and all(map(math.isfinite, less)) else 0.0


def _is_end(module: nn.Module, tensors: Tensors, name: str) -> bool:
    kept = tensors[name, "weight"].kept
    if not is_weighted(module) or len(kept) < 2:
        return False
    output = output_dim(module)
    return kept[output] is None and kept[1 - output] is not None


def _computed(model: nn.Module, piece: Example, ends: Sequence[str]) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return the outputs of a model, and those of some of its layers."""
    seen: dict[str, list[Tensor]] = {name: [] for name in ends}

    def watched(name: str) -> Any:
        return lambda _module, _inputs, output: seen[name].extend(tensors_in(output))

    with computing(model, [model.get_submodule(name).register_forward_hook(watched(name)) for name in ends]):
        outputs = tensors_in(piece.call(model))
    return outputs, seen


def _at_ends(dense: Mapping[str, list[Tensor]], found: Mapping[str, list[Tensor]]) -> float:
    """Return the mean over the layers whose outputs are as many; what reads other boxes has others."""
    differences = [
        relative_difference(dense[name], found[name])
        for name in dense
        if dense[name] and _shapes(dense[name]) == _shapes(found[name])
    ]
    return fmean(differences) if differences else math.inf


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
