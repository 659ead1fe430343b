from __future__ import annotations

import math

import pytest

from raycompress.experiment.objective import Objective


@pytest.mark.parametrize(("goal", "best"), [("max", ("b", 3.0)), ("min", ("a", 1.0))])
def test_the_best_is_the_first_of_equals_and_never_nan(goal: str, best: tuple[str, float]) -> None:
    scores = [("x", math.nan), ("a", 1.0), ("b", 3.0), ("c", 3.0), ("d", 1.0), ("y", math.nan)]
    objective = Objective(goal)  # type: ignore[arg-type]
    assert objective.best(scores) == best
    assert objective.best([("x", math.nan)]) is None
    assert not objective.better(best[1], best[1])
    assert not objective.better(math.nan, best[1])
    assert objective.better(best[1], math.nan)
