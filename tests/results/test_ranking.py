"""How trials are judged, whatever ends first."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from raycompress.config.checks.preflight import load_checked
from raycompress.config.objective import Objective
from raycompress.errors import ExperimentError
from raycompress.results.ranking import Ranking
from tests.support.launching import number_experiment

OBJECTIVE = Objective.from_keys("max", {}, {"params": {"max_ratio": 0.3}}, kept=2)
BEFORE, AFTER = {"params": 10_000, "flops": 1, "size_bytes": 1}, {"params": 2_000, "flops": 1, "size_bytes": 1}
STEPS = ("dense", "in thousands", "measured")


@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids="-".join)
def test_a_reported_size_is_compared_with_the_dense_models_report(order: tuple[str, ...]) -> None:
    ranking = Ranking(OBJECTIVE)
    for step in order:
        if step == "dense":
            ranking.add_dense({"accuracy": 1.0, "params": 10.0})
        elif step == "in thousands":
            ranking.add(1, {"accuracy": 0.9, "params": 4.0}, BEFORE, AFTER)
        else:
            ranking.add(2, {"accuracy": 0.9, "params": 2.0}, BEFORE, AFTER)
    assert [ranking.judged[number].is_feasible for number in (1, 2)] == [False, True]


def test_without_the_dense_models_report_it_is_refused(tmp_path: Path) -> None:
    script = "import raycompress as rc\nrc.report(accuracy=1, params=2)\n"
    path = number_experiment(tmp_path, script, framework="torch", constraints={"params": {"max_ratio": 0.3}})
    with pytest.raises(ExperimentError, match='reports "params" itself'):
        load_checked(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "constraints": {"params": {"max": 3}}}))
    load_checked(path)
