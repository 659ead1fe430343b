"""The order in which blocks of inputs leave a least squares fit at least error, the rest refitted each time.

Hassibi and Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NeurIPS 1992; for blocks of
inputs Kurtic et al., ZipLM: Inference-Aware Structured Pruning of Language Models, NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SHARE = 32
"""Of so many blocks that are left one goes before what is left is scored anew."""


class Fit:
    """The least squares fit of a layer's outputs by its inputs, of which blocks can be removed.

    With the inverse H of the inputs' Gram matrix and the weights W, removing the inputs S adds
    ``tr(W_S^T H_SS^-1 W_S)`` to the sum of squared errors once all other weights are refitted, which makes them
    ``W - H_:S H_SS^-1 W_S``. The matrix of the others' inverse is ``H - H_:S H_SS^-1 H_S:``.

    Parameters
    ----------
    inverse, weight
        H, of shape [inputs, inputs], and W, [inputs, outputs].
    places
        For each block the places of its inputs, [blocks, most inputs of a block], filled up with -1. Inputs of no block
        stay.
    """

    def __init__(self, inverse: Tensor, weight: Tensor, places: Tensor) -> None:
        self._inverse, self._weight, self._places = inverse, weight, places.to(inverse.device)

    def costs(self) -> Tensor:
        """Return the error that the removal of each block would add, [blocks]."""
        if not len(self._inverse):
            return self._weight.new_zeros(len(self._places))
        places, is_there = self._places.clamp_min(0), self._places >= 0
        square = self._inverse[places[:, :, None], places[:, None, :]]
        square = square * (is_there[:, :, None] & is_there[:, None, :]) + torch.diag_embed((~is_there).to(square))
        weight = self._weight[places] * is_there[:, :, None]
        costs: Tensor = (weight * torch.linalg.solve(square, weight)).sum((1, 2))
        return costs.clamp_min(0)

    def part(self, blocks: Tensor) -> Fit:
        """Return the fit as far as the costs of some blocks depend on it."""
        places = self._places[blocks]
        is_there = places >= 0
        used = places[is_there]
        renumbered = torch.full_like(places, -1)
        renumbered[is_there] = torch.arange(len(used), device=places.device)
        return Fit(self._inverse[used[:, None], used], self._weight[used], renumbered)

    def remove(self, blocks: Tensor) -> Fit:
        """Return the fit without these blocks, the other weights refitted; other blocks move up to their places."""
        gone = self._places[blocks]
        gone = gone[gone >= 0]
        stays = torch.ones(len(self._places), dtype=torch.bool, device=self._places.device)
        stays[blocks] = False
        others = torch.ones(len(self._inverse), dtype=torch.bool, device=stays.device)
        others[gone] = False
        rows = self._inverse[others][:, gone]
        change = torch.linalg.solve(self._inverse[gone[:, None], gone], torch.cat([rows.T, self._weight[gone]], 1))
        inverse = self._inverse[others][:, others] - rows @ change[:, : len(rows)]
        weight = self._weight[others] - rows @ change[:, len(rows) :]
        places = self._places[stays]
        renumbered = torch.where(places < 0, places, (others.cumsum(0) - 1)[places.clamp_min(0)])
        return Fit(inverse, weight, renumbered)


def removal_order(fits: Sequence[Fit], blocks: int) -> Iterator[tuple[int, float]]:
    """Yield all blocks in the order in which they go, least added error of all fits together first, with that error.

    One of `SHARE` blocks goes at a time: the cheapest twice as many are eliminated among themselves, one by one, so
    that of two that can stand for each other only one goes, before the matrices of all follow.
    """
    left = torch.arange(blocks)
    while len(left):
        number = max(1, len(left) // SHARE)
        pool = _costs(fits).argsort(stable=True)[: 2 * number if number > 1 else 1].cpu()
        chosen = list(_one_by_one([fit.part(pool) for fit in fits], number))
        gone = pool[[place for place, _ in chosen]]
        for block, (_, cost) in zip(left[gone].tolist(), chosen, strict=True):
            yield block, cost
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[gone] = False
        left = left[stays]
        if len(left):
            fits = [fit.remove(gone) for fit in fits]


def _one_by_one(fits: Sequence[Fit], number: int) -> Iterator[tuple[int, float]]:
    left = list(range(len(fits[0]._places)))
    for _ in range(number):
        costs = _costs(fits)
        least = int(costs.argmin())
        yield left.pop(least), float(costs[least])
        fits = [fit.remove(torch.tensor([least])) for fit in fits]


def _costs(fits: Sequence[Fit]) -> Tensor:
    return torch.stack([fit.costs().cpu() for fit in fits]).sum(0)
