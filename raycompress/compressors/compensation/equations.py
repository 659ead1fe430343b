"""Ridge regression in closed form, from rows that stream by."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties on what a refit changes, relative to the mean of the Gram matrix's diagonal; the held-out rows choose."""
_SPARED, _WORSE = 0.1, 1.25
"""A larger penalty may leave so much of what the best one wins on the held-out rows, and its error so many times.

The rest is bought with weights several times as large, from which training ends lower (docs/benchmarks.md).
"""


class NormalEquations:
    """The sums over rows that a least squares fit needs, for each group of channels by itself.

    Attributes
    ----------
    gram, cross
        Inputs by inputs, of shape [groups, inputs, inputs], and inputs by outputs, [groups, inputs, outputs]; float64.
    square
        The sum of the squares of each output, [groups, outputs].
    """

    def __init__(self) -> None:
        self.gram = torch.empty(0)
        self.cross = torch.empty(0)
        self.square = torch.zeros(())

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows: `inputs` of shape [rows, groups, inputs], `outputs` of [rows, groups, outputs]."""
        x, y = (rows.float().transpose(0, 1) for rows in (inputs, outputs))
        # a script may first call its model inside an autocast block, which would compute these sums in half precision
        with torch.autocast(x.device.type, enabled=False):
            found = [_double(x.transpose(1, 2) @ one) for one in (x, y)]
        if self.gram.numel():
            self.gram += found[0]
            self.cross += found[1]
        else:
            self.gram, self.cross = found
        self.square = self.square.to(found[0]) + _double(y).square().sum(1)

    def error(self, solution: Tensor) -> float:
        """Return the sum of the squared residuals of `solution`, [groups, inputs, outputs]."""
        bent = self.gram @ solution - 2 * self.cross
        return float(self.square.sum() + (solution * bent).sum())

    def factor(self, ridge: float) -> Tensor | None:
        """Return the Cholesky factor of the penalized Gram matrix; None where it has none."""
        mean = self.gram.diagonal(dim1=1, dim2=2).mean(1)
        penalty = torch.diag_embed((ridge * mean)[:, None].expand(self.gram.shape[:2]))
        factor, failed = torch.linalg.cholesky_ex(self.gram + penalty)
        return None if bool(failed.any()) else factor

    def solve(self, start: Tensor, ridge: float) -> Tensor | None:
        """Return the solution that a penalty keeps near `start`; None where the equations have none.

        Parameters
        ----------
        ridge
            The penalty on the squared change, in units of the mean of the Gram matrix's diagonal.
        """
        factor = self.factor(ridge)
        if factor is None:
            return None
        found = start + torch.cholesky_solve(self.cross - self.gram @ start, factor)
        return found if bool(found.isfinite().all()) else None


def refitted(fit: NormalEquations, held_out: NormalEquations, start: Tensor) -> Tensor | None:
    """Return the solution of `fit` with the largest penalty that wins nearly as much on the held-out rows as the best.

    None where none has less error there than `start`. It is the rule of one standard error (Breiman et al.,
    Classification and Regression Trees, 1984), with a share of the gain in the place of the error of its estimate.
    """
    if not fit.gram.numel() or not held_out.gram.numel():
        return None
    start = _double(start).to(fit.gram.device)
    before = held_out.error(start) - 1e-6 * float(held_out.square.sum())  # beyond what rounding leaves
    found = [(held_out.error(one), one) for ridge in RIDGES if (one := fit.solve(start, ridge)) is not None]
    least = min((error for error, _ in found), default=before)
    if not least < before:
        return None
    most = min(least + _SPARED * (before - least), _WORSE * max(least, 0.0) + 1e-9 * before)
    return next(one for error, one in reversed(found) if error <= max(most, least))


def _double(tensor: Tensor) -> Tensor:
    """Return float64, on the CPU where the device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
