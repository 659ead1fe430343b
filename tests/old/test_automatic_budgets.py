"""Searches of the old kind whose proposers give a trial a budget, hyperband and bohb; and passive, which is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycompress.states import TrialState
from tests.old.harness import snapshot
from tests.support.launching import raycompress
from tests.support.shared_ray import run_here


@pytest.mark.parametrize("proposer", ["hyperband", pytest.param("bohb", marks=pytest.mark.night)])
def test_a_search_with_budgets_keeps_to_the_number_of_samples(proposer: str, home: Path, tmp_path: Path) -> None:
    before = snapshot(home)
    done = run_here(tmp_path, "launch", home / f"automatic_{proposer}.json")
    assert done.code == 0, done.out + done.err
    assert snapshot(home) == before
    record = done.record
    assert len(record.searched) == 5
    assert {trial.state for trial in record.searched} <= {TrialState.FINISHED, TrialState.ENDED_EARLY}
    assert all(trial.config["n_iterations"] >= 1 for trial in record.searched)
    if proposer == "hyperband":  # the other's script reports once, and knows of no budget
        assert any(len(trial.intermediate) > 1 for trial in record.searched)
    assert record.best is not None
    assert record.folder.candidates() == [record.best.number]
    assert record.verified is not None


def test_passive_runs_one_trial_in_the_commands_own_process(home: Path, tmp_path: Path) -> None:
    before = snapshot(home)
    done = raycompress(tmp_path, "launch", home / "automatic_passive.json")
    assert done.code == 0, done.out + done.err
    assert snapshot(home) == before
    assert "Test accuracy" in done.out + done.err  # what the script prints, in the terminal
    record = done.record
    assert [list(trial.sample.values()) for trial in record.searched] == [[0.5]]
    assert record.folder.candidates() == [1]
    assert record.verified is not None
