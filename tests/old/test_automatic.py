"""Searches of the old kind, from the command line to the model that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.compressors.measure.difference import relative_difference
from raycompress.states import TrialState
from tests.old.experiments.digits_net import Net
from tests.old.harness import snapshot
from tests.support.shared_ray import run_here

SEARCHES = {
    "automatic_random": {"digits_model.pth", "digits_mask.pth"},
    "automatic_hyperopt": {"digits_model.pth"},
    "automatic_sequence": {"digits_model.pth", "digits_mask.pth"},
    "automatic_spearmint": {"digits_model.pth", "digits_mask.pth"},
    "automatic_tensorflow_level": {"digits_model.h5"},
}
"""Experiment -> the files that its script names."""


AT_NIGHT = {"automatic_hyperopt", "automatic_sequence", "automatic_spearmint"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.night] * (name in AT_NIGHT)) for name in SEARCHES]
)
def test_a_search_keeps_the_best_model_and_leaves_nothing_else(name: str, home: Path, tmp_path: Path) -> None:
    before = snapshot(home)
    done = run_here(tmp_path, "launch", home / f"{name}.json")
    assert done.code == 0, done.out + done.err
    assert snapshot(home) == before
    record = done.record
    assert record.state == "complete"
    assert "n_parallel is 4" in done.err
    assert [trial.state for trial in record.records.values()] == [TrialState.FINISHED] * 6  # the dense model's too
    scores = [trial.score for trial in record.searched]
    assert len({tuple(trial.sample.values()) for trial in record.searched}) == 5
    assert record.best is not None
    assert record.best.score == max(score for score in scores if score is not None) < 0
    assert record.folder.candidates() == [record.best.number]
    assert record.verified is not None
    assert record.bundle is not None
    assert {path.name for path in record.bundle.iterdir()} - set(bundle.RESERVED) == SEARCHES[name]
    if name != "automatic_tensorflow_level":
        example, outputs = bundle.reference(record.bundle)
        loaded = rc.load(record.bundle, Net()).eval()
        assert relative_difference(outputs, example.outputs(loaded)) <= bundle.TOLERANCE
        assert loaded.conv1.out_channels < 16
