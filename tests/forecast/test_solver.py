"""The exact solver: against every sample of small spaces, where costs are no sums."""

import itertools
import random

import pytest

from raycompress.config.dimension import Dimension
from raycompress.forecast.amounts import kept, options
from raycompress.forecast.solver import solve

STEPS = 4
DIMENSIONS = (
    *(Dimension(f"{name}.sparsity", "float", 0.0, 0.75) for name in "abc"),
    Dimension("a.quant_bits", "choice", choices=(32, 8, 4)),
    Dimension("b.quant_bits", "choice", choices=(8, 4)),
    Dimension("block.keep", "choice", choices=(True, False)),
    Dimension("depth.drop", "int", 0, 2),
)


def every_sample():
    values = [options(one, STEPS) for one in DIMENSIONS]
    return [dict(zip((one.name for one in DIMENSIONS), found, strict=True)) for found in itertools.product(*values)]


def losses(seed):
    """Return the loss of each value, which grows where less is left; some values lose as little as those before."""
    draw = random.Random(seed)
    found = {}
    for one in DIMENSIONS:
        loss = 0.0
        for value in options(one, STEPS):
            found[one.name, value] = loss
            loss += draw.choice([0.0, draw.random()])
    return found


def cost(sample):
    a, b, c = (kept(one, sample[one.name]) for one in DIMENSIONS[:3])
    block = 1.0 if sample["block.keep"] else 0.3
    bits = sample["a.quant_bits"] * a * b + sample["b.quant_bits"] * b * c * block
    return bits * (1 - 0.2 * sample["depth.drop"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [3.0, 8.0, 20.0])
def test_no_sample_that_fits_loses_less(seed, budget):
    found = losses(seed)

    def loss_of(name, value):
        return found[name, value]

    def whole(sample):
        return sum(loss_of(*pair) for pair in sample.items())

    solution = solve(DIMENSIONS, loss_of, lambda sample: cost(sample) <= budget, steps=STEPS)
    allowed = [whole(sample) for sample in every_sample() if cost(sample) <= budget]
    assert solution.is_optimal and cost(solution.sample) <= budget
    assert solution.loss == pytest.approx(min(allowed)) == pytest.approx(whole(solution.sample))


def test_the_best_so_far_where_it_may_not_go_on_and_what_was_known_before():
    found = losses(0)
    known = {one.name: options(one, STEPS)[-1] for one in DIMENSIONS} | {"a.sparsity": 0.6}
    solution = solve(
        DIMENSIONS,
        lambda name, value: found.get((name, value), 0.0),  # a value between the options loses nothing here
        lambda sample: cost(sample) <= 3,
        [known],
        steps=STEPS,
        most=0,
    )
    assert not solution.is_optimal and solution.sample == known


def test_nothing_fits():
    solution = solve(DIMENSIONS, lambda *_: 0.0, lambda _: False, steps=STEPS)
    assert solution.is_optimal and solution.loss == float("inf")
