"""Constraints, the front, repeats and rung 0 of a search: on the page of a report, and as lines of a terminal."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raycompress.cli.view import goals as view
from raycompress.config.objective import Objective
from raycompress.results import store
from raycompress.results.journal.journal import Journal
from raycompress.results.ranking import Ranking
from raycompress.results.record import SearchRecord
from raycompress.results.report import goals, page
from tests.support.searches import BEGAN, header, without_waiting

DENSE = {"params": 100.0, "flops": 1000.0, "size_bytes": 400.0}
CONSTRAINTS = {"flops": {"max_ratio": 0.5}, "accuracy": {"min": 0.85}}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


def searched(
    storage: Path,
    trials: dict[int, tuple[float, float]],
    *,
    rung0: dict[int, float] | None = None,
    rung0_of: str = "",
    best: int = 0,
    repeated: dict[str, Any] | None = None,
    **changes: Any,
) -> SearchRecord:
    """Write the journal of a search whose trials (number -> accuracy, share of the FLOPs) have ended, and read it."""
    folder = store.create(storage, "digits")
    journal = Journal(folder.journal)
    changes |= {"rung0": rung0_of} if rung0_of else {}
    journal.append("experiment", t=BEGAN, **header(folder, ["sparsity"], **changes))
    for number, (accuracy, share) in {0: (0.95, 1.0), **trials}.items():
        given = {"trial": number, "sample": {"sparsity": 1 - share}, "config": {}, "baseline": number == 0}
        journal.append("started", t=BEGAN, **given)
        if rung0 is not None and number in rung0:
            journal.append("rung0", t=BEGAN, trial=number, score=rung0[number])
        sizes = {"before": DENSE, "after": {name: share * size for name, size in DENSE.items()}}
        more = {"state": "finished", "cause": "", "values": {"accuracy": accuracy}, "score": accuracy, "saved": True}
        journal.append("ended", t=BEGAN, trial=number, seconds=1.0, removed={}, **sizes, **more)
    if best:
        folder.point_to_best(best, trials[best][0])
    if repeated is not None:
        journal.append("repeated", t=BEGAN, **repeated)
    journal.append("finished", t=BEGAN, reason="complete", detail="")
    journal.close()
    return SearchRecord.open(folder.root)


def tables(html: str) -> list[list[list[str]]]:
    """Return the text of the cells of each table."""
    return [
        [
            [unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
            for row in re.findall(r"<tr>.*?</tr>", table)
        ]
        for table in re.findall(r"<table.*?</table>", html)
    ]


def test_a_search_after_one_number_has_nothing_to_tell(tmp_path: Path) -> None:
    record = searched(tmp_path, {1: (0.9, 0.5), 2: (0.8, 0.4)}, best=1)
    assert goals.as_html(record) == "" and view.lines(record) == []


def test_constraints_of_the_best_trial_and_of_how_many(tmp_path: Path) -> None:
    record = searched(tmp_path, {1: (0.9, 0.5), 2: (0.8, 0.4), 3: (0.94, 0.9)}, best=1, constraints=CONSTRAINTS)
    html = goals.as_html(record)
    (table,) = tables(html)
    assert [row[1:] for row in table] == [["trial 1", ""], ["0.5", "kept"], ["0.9", "kept"]]
    assert [row[0].split()[0] for row in table] == ["constraint", "flops", "accuracy"]
    assert "1 of 3 finished trials keep to all of them." in html
    assert html in page.render(record)
    assert [line for line in "\n".join(view.lines(record)).splitlines() if "kept" in line and " 0.5 " in line]


def test_a_broken_constraint_says_by_how_much(tmp_path: Path) -> None:
    record = searched(tmp_path, {1: (0.9, 0.6)}, best=1, constraints={"flops": {"max_ratio": 0.5}})
    ((name, value, kept),) = goals.constraint_rows(record, 1)
    assert name.startswith("flops") and value == "0.6" and kept == "broken by 10.0%"
    assert "0 of 1 finished trials" in goals.as_html(record) and "broken by 10.0%" in "\n".join(view.lines(record))


def test_a_value_that_is_no_share_is_shown_as_it_is() -> None:
    """Of a negative one, and of one that was not measured, as the trial has broken another constraint."""

    def rows(constraints: dict[str, dict[str, float]], dense: dict[str, float]) -> list[tuple[str, str, str]]:
        ranking = Ranking(Objective.from_keys("max", {"accuracy": "max"}, constraints))
        ranking.add_dense(dense)
        ranking.add(1, {"accuracy": 0.5, "likelihood": -8.0}, {"latency_ms": 3.0}, {})
        record = SimpleNamespace(ranking=ranking, objective=ranking.objective)
        return goals.constraint_rows(cast("SearchRecord", record), 1)

    ((_, *found),) = rows({"likelihood": {"max_ratio": 0.9}}, {"accuracy": 0.9, "likelihood": -10.0})
    assert found == ["-8", "broken by 10.0%"]
    _, (_, *found) = rows({"accuracy": {"min": 0.95}, "latency_ms": {"max_ratio": 0.5}}, {"accuracy": 0.9})
    assert found == ["-", "not measured"]


def test_the_front_has_its_knee_and_no_trial_that_is_beaten(tmp_path: Path) -> None:
    trials = {1: (0.9, 0.9), 2: (0.88, 0.4), 3: (0.5, 0.3), 4: (0.6, 0.8)}
    record = searched(tmp_path, trials, best=2, objectives={"accuracy": "max", "flops": "min"})
    (table,) = tables(goals.as_html(record))
    assert [row[0] for row in table[1:]] == ["1", "2", "3"], "the best accuracy first, and 4 is beaten by 2"
    assert table[2] == ["2", "0.88", "400", "the knee, and the best"] and table[1][3] == table[3][3] == "kept"
    assert "more are in the table" not in goals.as_html(record)
    lines = view.lines(record)
    assert lines[1] == "front: 3 trials that no other beats in accuracy and flops"
    assert lines[-1].startswith("the knee gives up least")


def test_of_a_long_front_the_first_are_shown(tmp_path: Path) -> None:
    trials = {number: (0.9 - 0.01 * number, 0.9 - 0.02 * number) for number in range(1, 31)}
    record = searched(tmp_path, trials, best=15, objectives={"accuracy": "max", "flops": "min"})
    (table,) = tables(goals.as_html(record))
    assert len(table) == 1 + 24 and "6 more are in the table of all trials." in goals.as_html(record)
    assert "  ... and 18 more: raycompress report" in view.lines(record)


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_finalists_that_were_trained_again(tmp_path: Path, spread: float) -> None:
    finalists = [
        {"trial": 1, "runs": [1, 4, 5], "means": {"accuracy": 0.9}, "spreads": {"accuracy": spread}},
        {"trial": 2, "runs": [2, 6], "means": {"accuracy": 0.89}, "spreads": {"accuracy": spread}},
        {"trial": 3, "runs": [3], "means": {"accuracy": 0.7}, "spreads": {"accuracy": 0.0}},
    ]
    ties = [2, 1] if spread else [1]
    chosen = ties[0]
    repeated = {"finalists": finalists, "chosen": chosen, "run": chosen, "ties": ties, "spread": spread}
    trials = {1: (0.9, 0.6), 2: (0.89, 0.5), 3: (0.7, 0.5)}
    record = searched(tmp_path, trials, best=chosen, repeated=repeated)
    (table,) = tables(goals.as_html(record))
    remarks = {1: "as good", 2: "chosen"} if spread else {1: "chosen", 2: ""}
    assert table[0][2] == "accuracy, mean and standard deviation"
    assert table[1] == ["1", "1, 4, 5", f"0.9 ± {goals.number(spread)}", remarks[1]]
    assert (table[2][3], table[3][3]) == (remarks[2], "")
    text = "\n".join(view.lines(record))
    assert "trained again with other seeds, accuracy:" in text and "3 runs" in text
    assert ("is no difference: the smallest is chosen" in text) == bool(spread)
    assert ("all runs gave the same" in text) == (not spread)


@pytest.mark.parametrize(("evaluated", "goal", "correlation"), [("max", "max", 0.8), ("min", "max", -0.8)])
def test_the_ranks_before_training_are_held_against_those_after_it(
    tmp_path: Path, evaluated: str, goal: str, correlation: float
) -> None:
    scores = {1: 0.6, 2: 0.5, 3: 0.7, 4: 0.4}  # of four trials two neighbours have changed places
    trials = {1: (0.7, 0.5), 2: (0.8, 0.5), 3: (0.9, 0.5), 4: (0.6, 0.5), 5: (0.5, 0.5)}
    record = searched(tmp_path, trials, rung0=scores, best=3, goal=goal, rung0_of=evaluated)
    assert goals.rung_zero_pairs(record) == [(number, scores[number], trials[number][0]) for number in scores]
    assert goals.rung_zero_correlation(record) == pytest.approx(correlation)
    for text in (goals.rung_zero_summary(record), page.render(record), " ".join(view.lines(record))):
        assert f"correlation of {correlation:.2f}" in " ".join(text.split())
    assert "4 trials were scored before they trained. Of the 4 that" in goals.rung_zero_summary(record)
