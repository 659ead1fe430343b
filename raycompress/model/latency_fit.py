"""Fits a `raycompress.model.latency_model.LatencyModel` to networks whose times are known.

A few dozen networks against dozens of layers: few quantities that mean something, whose shares of the time are found by
non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23), and a Gaussian process
of the widths for what is left (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006). What multiples
channels are rounded to, and whether the process is of use, is decided by leaving networks out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from raycompress.model.latency_model import (
    Accuracy,
    Correction,
    LatencyModel,
    LayerWork,
    kernel,
    output_shares,
    quantities,
)
from raycompress.model.latency_table import Clock, Widths

Numbers = NDArray[np.float64]
Rows = NDArray[np.intp]

Multiples = tuple[int, int]
"""What a runtime computes channels in multiples of, and what it needs multiples of: `step` and `even`."""

MULTIPLES = [(step, even) for even in (1, 4, 8, 16) for step in (1, 4, 8, 16, 32)]
"""Candidates, simple ones first."""
_SURELY = 0.97
"""What must be left of the mean error for a less simple candidate to be worth it."""
_FOLDS = 10
_DENSE = 2.0
_REWEIGHTED = 3
_LEAST = 1e-6
_BETTER = 0.95
"""What must be left of the mean error for a more complicated model to be worth it."""


@dataclass(frozen=True)
class Sample:
    """A network that was timed.

    Attributes
    ----------
    widths
        Its layers' widths.
    share
        Its time as a share of the dense one's.
    weight_bytes, file_bytes
        Bytes of its weights, and of its deployed file.
    """

    widths: Widths
    share: float
    weight_bytes: float
    file_bytes: float


def fitted(
    works: Sequence[LayerWork], samples: Sequence[Sample], *, target: str, dense_ms: Mapping[Clock, float]
) -> LatencyModel:
    """Return the model that fits the samples best.

    Parameters
    ----------
    works
        What the layers of the dense model compute.
    samples
        Networks that were timed, a dozen at least.
    target
        The name of what they were timed in.
    dense_ms
        The dense model's time, by each clock.
    """
    table = _Table.of(works, samples)
    every = np.arange(len(samples))
    predicted = np.empty(len(samples))
    for fold in _folds(len(samples), _FOLDS):
        predicted[fold] = _best(table, np.setdiff1d(every, fold)).predict(table, fold)
    errors = np.abs(predicted / table.shares - 1)
    tau = kendall_tau(predicted.tolist(), table.shares.tolist())
    best = _best(table, every)
    return LatencyModel(
        target=target,
        works=tuple(works),
        step=best.multiples[0],
        even=best.multiples[1],
        parts={name: float(share) for name, share in zip(table.names, best.parts, strict=True) if share},
        correction=best.correction,
        dense_ms=dict(dense_ms),
        file=_line(samples),
        accuracy=Accuracy(len(samples), float(np.median(errors)), float(np.quantile(errors, 0.9)), tau),
        is_stepped=_is_less(np.abs(best.errors[best.multiples]), np.abs(best.errors[MULTIPLES[0]])),
    )


@dataclass(frozen=True)
class _Table:
    """The samples as arrays.

    Attributes
    ----------
    names
        The quantities.
    amounts
        Multiples -> samples by quantities.
    dense
        Multiples -> the quantities of the dense network.
    layers
        Of layers whose output widths always go together, one.
    places
        Samples by `layers`: the output widths as shares of the dense ones.
    shares
        The times as shares of the dense one.
    """

    names: tuple[str, ...]
    amounts: Mapping[Multiples, Numbers]
    dense: Mapping[Multiples, Numbers]
    layers: tuple[str, ...]
    places: Numbers
    shares: Numbers

    @classmethod
    def of(cls, works: Sequence[LayerWork], samples: Sequence[Sample]) -> _Table:
        names = tuple(quantities(works, {}, 1))

        def row(widths: Widths, multiples: Multiples) -> list[float]:
            found = quantities(works, widths, *multiples)
            return [found[name] for name in names]

        amounts = {each: np.array([row(one.widths, each) for one in samples]) for each in MULTIPLES}
        dense = {each: np.array(row({}, each)) for each in MULTIPLES}
        rows = [output_shares(works, one.widths) for one in samples]
        distinct: dict[tuple[float, ...], str] = {}
        for work in works:
            distinct.setdefault(tuple(row[work.name] for row in rows), work.name)
        layers = tuple(name for column, name in distinct.items() if min(column) < 1)
        places = np.array([[row[name] for name in layers] for row in rows]).reshape(len(rows), -1)
        return cls(names, amounts, dense, layers, places, np.array([one.share for one in samples]))


@dataclass(frozen=True)
class _Process:
    """A Gaussian process of the relative errors that the quantities leave.

    Attributes
    ----------
    length, noise
        The length scale, and the variance of the noise as a multiple of that of the process.
    """

    length: float
    noise: float

    def weights(self, places: Numbers, errors: Numbers) -> Numbers:
        """Return the weight of each network in the mean."""
        return np.asarray(np.linalg.solve(self._covariance(places), errors))

    def left_out(self, places: Numbers, errors: Numbers) -> Numbers:
        """Return what is left of each error by the process of the others (Rasmussen and Williams, equation 5.12)."""
        inverse = np.linalg.inv(self._covariance(places))
        return np.asarray(inverse @ errors / np.diag(inverse))

    def _covariance(self, places: Numbers) -> Numbers:
        return np.asarray(kernel(places, places, self.length) + self.noise * np.eye(len(places)))


_PROCESSES = [_Process(length, noise) for length in (0.15, 0.3, 0.6) for noise in (0.1, 0.5, 2.0)]


@dataclass(frozen=True)
class _Best:
    """What fits some of the samples best.

    Attributes
    ----------
    multiples
        `step` and `even` of the `LatencyModel`.
    parts, correction
        See there, too.
    errors
        Multiples -> the relative error of each network, left out of the fit in its turn; without a correction.
    """

    multiples: Multiples
    parts: Numbers
    correction: Correction | None
    errors: Mapping[Multiples, Numbers]

    def predict(self, table: _Table, rows: Rows) -> Numbers:
        """Return the shares of some of the samples."""
        base: Numbers = table.amounts[self.multiples][rows] @ self.parts / (table.dense[self.multiples] @ self.parts)
        if self.correction is None:
            return base
        factors = [self.correction.at(dict(zip(table.layers, place, strict=True))) for place in table.places[rows]]
        return np.asarray(base * np.array(factors) / self.correction.at({}))


def _best(table: _Table, rows: Rows) -> _Best:
    """Return what fits some of the samples best, found by leaving each of them out in its turn."""
    shares, places = table.shares[rows], table.places[rows]
    errors = {each: _left_out(amounts[rows], shares, table.dense[each]) for each, amounts in table.amounts.items()}
    chosen = MULTIPLES[0]
    for each in MULTIPLES:
        if _size(errors[each]) < _SURELY * _size(errors[chosen]):
            chosen = each
    parts, base = _parts(table.amounts[chosen][rows], shares, table.dense[chosen]), _size(errors[chosen])
    # the dense network is one more point, whose share is known
    points = np.vstack([places, np.ones(places.shape[1])])
    left = np.append(errors[chosen], 1 / max(float(table.dense[chosen] @ parts), _LEAST) - 1)
    process = min(_PROCESSES, key=lambda one: _size(one.left_out(points, left)[:-1]))
    correction = None
    if _size(process.left_out(points, left)[:-1]) <= _BETTER * base:
        weights = tuple(process.weights(points, left).tolist())
        correction = Correction(table.layers, process.length, tuple(map(tuple, points.tolist())), weights)
    return _Best(chosen, parts, correction, errors)


def _left_out(amounts: Numbers, shares: Numbers, dense: Numbers) -> Numbers:
    """Return how far each share lies above what a fit to the others predicts, relative to that."""
    found = np.empty(len(shares))
    for index in range(len(shares)):
        others = np.arange(len(shares)) != index
        found[index] = shares[index] / max(amounts[index] @ _parts(amounts[others], shares[others], dense), _LEAST) - 1
    return found


def _size(errors: Numbers) -> float:
    return float(np.abs(errors).mean())


def _parts(amounts: Numbers, shares: Numbers, dense: Numbers) -> Numbers:
    """Return the share of the time that goes along with each quantity, by the least squares of relative errors.

    Networks that lie far off, which something disturbed as they were timed, weigh less (Huber, Robust Estimation of a
    Location Parameter, 1964, by reweighting). The dense network, whose share is 1, counts as much as `_DENSE` squared
    others.
    """
    relative = amounts / shares[:, None]
    weights = np.ones(len(shares))
    for _ in range(_REWEIGHTED):
        found, _ = nnls(np.vstack([relative * weights[:, None], _DENSE * dense]), np.append(weights, _DENSE))
        errors = np.abs(relative @ found - 1)
        usual = 1.5 * 1.4826 * max(float(np.median(errors)), _LEAST)
        weights = np.sqrt(np.minimum(1, usual / np.maximum(errors, _LEAST)))
    return np.asarray(found)


def _line(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the bytes of a file beside the weights, and for each byte of the weights."""
    weights = np.array([[1.0, one.weight_bytes] for one in samples])
    scale = weights.max(0)
    found, _ = nnls(weights / scale, np.array([one.file_bytes for one in samples], float))
    beside, each = (found / scale).tolist()
    return beside, each


def _is_less(errors: Numbers, others: Numbers) -> bool:
    """Tell whether errors are smaller than others of the same networks by a tenth, and beyond chance.

    By the permutation test of pairs (Fisher, The Design of Experiments, 1935, section 21), at 1 of 100.
    """
    gains = others - errors
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2000, len(gains)))
    is_sure = float((signs @ gains >= gains.sum()).mean()) < 0.01
    return is_sure and float(errors.mean()) <= 0.9 * float(others.mean())


def kendall_tau(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Kendall's rank correlation: of all pairs, those in the same order less those in the opposite one.

    Examples
    --------
    >>> kendall_tau([1, 2, 3], [10, 30, 20])
    0.3333333333333333
    """
    pairs = list(itertools.combinations(zip(left, right, strict=True), 2))
    signs = [(one[0] - other[0]) * (one[1] - other[1]) for one, other in pairs]
    return (sum(sign > 0 for sign in signs) - sum(sign < 0 for sign in signs)) / max(1, len(pairs))


def _folds(count: int, most: int) -> list[Rows]:
    return np.array_split(np.random.default_rng(0).permutation(count), min(most, count))
