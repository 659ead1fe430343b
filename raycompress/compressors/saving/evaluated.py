"""The weights that a model had when a script evaluated it."""

from __future__ import annotations

import math

import torch
from torch import nn

from raycompress.compressors.saving.witness import Fingerprint

_MOST = 1000
_TOLERANCE = 1e-5

Norms = dict[str, float]
"""Parameter name -> its norm."""


class EvaluatedWeights:
    """What the parameters of a model were at its evaluations, as norms: one pass over each, and few bytes.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen: list[Norms] = []
        self._dtypes = _dtypes(model)

    def add(self) -> None:
        """Note the parameters as they are now."""
        now = _norms(self._model)
        self._dtypes = _dtypes(self._model)
        if not self._seen or not _same(now, self._seen[-1]):
            self._seen = [*self._seen[-_MOST:], now]

    def carry_over(self, masked: Fingerprint, small: Fingerprint) -> None:
        """Note that weights of the fingerprint `small` were proved to be the same function as those of `masked`."""
        before = {name: math.sqrt(squares) for name, (_total, squares) in masked.items()}
        after = {name: math.sqrt(squares) for name, (_total, squares) in small.items()}
        for place, norms in enumerate(self._seen):
            if norms.keys() <= before.keys() and _same(norms, {name: before[name] for name in norms}):
                self._seen[place] = {name: after[name] for name in norms if name in after}

    def is_last(self) -> bool:
        """Return whether the model has the weights of its last evaluation, and had others at all earlier ones."""
        if not self._seen:
            return False
        now = _norms(self._model)
        return _same(now, self._seen[-1]) and not any(_same(now, one) for one in self._seen[:-1])

    def is_unknown(self) -> bool:
        """Return whether it has weights that it had at no evaluation; False where they cannot be compared."""
        if not self._seen or self._dtypes != _dtypes(self._model):
            return False
        now = _norms(self._model)
        return now.keys() == self._seen[-1].keys() and not any(_same(now, one) for one in self._seen)


@torch.no_grad()
def _norms(model: nn.Module) -> Norms:
    named = {name: one.detach() for name, one in model.named_parameters() if _is_plain(one)}
    norms = [
        torch.linalg.vector_norm(one, dtype=torch.promote_types(one.dtype, torch.float32)).float().cpu()
        for one in named.values()
    ]
    return dict(zip(named, torch.stack(norms).tolist() if norms else [], strict=True))


def _is_plain(parameter: nn.Parameter) -> bool:
    """Tell whether a parameter has a norm: those of subclasses, as of quantized weights, may have none."""
    has_values = not parameter.is_meta and parameter.layout == torch.strided
    return type(parameter) is nn.Parameter and parameter.is_floating_point() and has_values


def _same(one: Norms, other: Norms) -> bool:
    return one.keys() == other.keys() and all(
        math.isclose(norm, other[name], rel_tol=_TOLERANCE, abs_tol=1e-12) for name, norm in one.items()
    )


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}
