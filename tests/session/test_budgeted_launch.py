"""Searches with objectives, constraints and budgets, from the command line to the files that are left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.bundle import bundle
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import Launched, digits_experiment
from tests.support.shared_ray import run_here

pytestmark = pytest.mark.timeout(600)

Launch = Callable[..., Launched]
Write = Callable[..., Path]
LAYERS = ["stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1", "stage2.1.conv1"]
SEARCHED = {"type": "float", "range": [0.0, 0.9]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def experiment(small_resnet: Path) -> Write:
    """Write the shipped experiment with a budget, changed, and without its own constraints."""

    def write(folder: Path, *, compression: Any = None, **changes: Any) -> Path:
        path = digits_experiment(folder, "budget.json", small_resnet, **{"n_samples": 2, "constraints": {}, **changes})
        data = json.loads(path.read_text())
        data["compression"].update(compression or {})
        path.write_text(json.dumps(data, indent=1))
        return path

    return write


def sizes_are_foretold(record: SearchRecord) -> None:
    for trial in record.searched:
        assert trial.predicted is not None
        assert trial.after is not None
        assert trial.after["flops"] == pytest.approx(trial.predicted["flops"], rel=0.01)
        assert trial.after["params"] == pytest.approx(trial.predicted["params"], rel=0.01)
        assert trial.after["size_bytes"] == pytest.approx(trial.predicted["size_bytes"], rel=0.01)


def test_guided_keeps_to_its_budget_goes_on_and_knows_the_model_the_next_time(
    tmp_path: Path, launch: Launch, experiment: Write
) -> None:
    constraints = {"flops": {"max_ratio": 0.25}, "params": {"max_ratio": 0.5}}
    done = launch(experiment(tmp_path, constraints=constraints, n_samples=1))
    assert done.code == 0, done.err
    before = done.record.searched
    more = run_here(tmp_path, "resume", "--n-samples", "3")
    assert more.code == 0, more.err
    record = more.record
    assert [trial.number for trial in record.searched] == [1, 2, 3]
    assert [trial.state for trial in record.searched] == [TrialState.FINISHED] * 3
    assert [trial.sample for trial in record.searched[:1]] == [trial.sample for trial in before]
    assert len({json.dumps(trial.removed) for trial in record.searched}) == 3
    assert all(record.is_feasible(trial) for trial in record.searched)
    sizes_are_foretold(record)
    assert record.verified is not None
    prior = json.loads(record.folder.prior.read_text())
    assert len(prior["curves"]) == 6
    assert len(prior["candidates"]) > 8
    again = launch(experiment(tmp_path, constraints=constraints, n_samples=1, baseline=False))
    assert again.code == 0, again.err
    assert "measured by an earlier search" in again.err
    assert "scoring candidates" not in again.err
    other = launch(experiment(tmp_path, constraints={"flops": {"max_ratio": 0.5}}, n_samples=1, baseline=False))
    assert other.code == 0, other.err
    assert "measured by an earlier search" in other.err
    assert "scoring candidates" in other.err
    last = SearchRecord.open(sorted(other.folder.glob("raycompress_results/*/"))[-1])
    found = json.loads(last.folder.prior.read_text())
    assert found["curves"] == prior["curves"]
    assert not {json.dumps(one) for one in found["candidates"]} & {json.dumps(one) for one in prior["candidates"]}


@pytest.mark.parametrize("on_budget", ["project", "reject"])
def test_other_proposers_keep_to_it_as_well(on_budget: str, tmp_path: Path, launch: Launch, experiment: Write) -> None:
    constraints = {"size_bytes": {"max_ratio": 0.3}}
    path = experiment(
        tmp_path, proposer="optuna", on_budget=on_budget, constraints=constraints, n_samples=2, baseline=False
    )
    done = launch(path)
    assert done.code == 0, done.err
    assert all(done.record.is_feasible(trial) for trial in done.record.searched)
    sizes_are_foretold(done.record)


def test_what_the_script_rounds_channels_to_counts_in_the_forecast(
    tmp_path: Path, launch: Launch, small_resnet: Path
) -> None:
    home = tmp_path / "example"
    shutil.copytree(small_resnet, home)
    script = home / "train.py"
    text = script.read_text()
    assert text.count("dummy_input=example,") == 1
    script.write_text(text.replace("dummy_input=example,", "dummy_input=example, round_to=2,"))
    bound = {"flops": {"max_ratio": 0.5}}
    path = digits_experiment(
        tmp_path, "budget.json", home, proposer="random", n_samples=1, baseline=False, constraints=bound
    )
    data = json.loads(path.read_text())
    del data["compression"]["arguments"]
    path.write_text(json.dumps(data))
    done = launch(path)
    assert done.code == 0, done.err
    sizes_are_foretold(done.record)
    (trial,) = done.record.searched
    assert any((of - removed) % 4 for removed, of in trial.removed.values())  # as one of 8 would not leave


def test_what_only_the_trial_can_tell_ends_there_before_it_trains(
    tmp_path: Path, launch: Launch, experiment: Write
) -> None:
    """With "global" the method itself decides which layers lose how much."""
    path = experiment(
        tmp_path,
        proposer="random",
        n_samples=6,
        baseline=False,
        constraints={"flops": {"max_ratio": 0.2}},
        compression={"arguments": {"global": True, "round_to": 1}},
    )
    data = json.loads(path.read_text())
    data["compression"]["config_list"][0]["expand_op_names"] = False
    path.write_text(json.dumps(data))
    done = launch(path)
    assert done.code == 0, done.err
    assert "sizes cannot be computed before training" in done.err
    states = {trial.state for trial in done.record.searched}
    assert states == {TrialState.FINISHED, TrialState.OVER_BUDGET}
    for trial in done.record.searched:
        if trial.state is TrialState.FINISHED:
            assert done.record.is_feasible(trial)
        else:
            assert trial.values is None
            assert "the budget is flops at most 0.2 of the dense model's" in trial.cause


def test_where_nothing_is_feasible_the_nearest_and_what_to_relax_are_told(
    tmp_path: Path, launch: Launch, experiment: Write
) -> None:
    constraints = {"flops": {"max_ratio": 0.05}, "accuracy": {"min": 0.999}}
    path = experiment(tmp_path, proposer="random", n_samples=2, constraints=constraints)
    done = launch(path)
    assert done.code == 1
    record = done.record
    assert record.state == "complete"
    assert "no trial of 2 keeps to all constraints" in done.err
    assert '"min": 0.' in done.err
    assert "nearest of 2 trials" in done.out
    best = record.best
    assert best is not None
    assert best.score == max(trial.score or 0 for trial in record.searched)
    bundle.check_hashes(record.folder.candidate(best.number))
    shown = run_here(tmp_path, "best", "--json")
    assert json.loads(shown.out)["best"]["feasible"] is False


def test_a_front_is_kept_with_all_its_bundles(tmp_path: Path, launch: Launch, experiment: Write) -> None:
    goals = {"accuracy": "max", "flops": "min"}
    path = experiment(tmp_path, objectives=goals, proposer="optuna", n_samples=6, pareto_size=3)
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    front = [trial.number for trial in record.pareto]
    kept = record.folder.candidates()
    assert 1 < len(kept) <= 3
    assert set(kept) <= set(front)
    assert record.best_number in kept
    assert "knee" in done.out
    assert json.loads(run_here(tmp_path, "best", "--json").out)["front"] == front
    for number in kept:
        bundle.check_hashes(record.folder.candidate(number))
        fetched = run_here(tmp_path, "fetch", "--trial", str(number), "--to", f"model-{number}", "--json")
        assert json.loads(fetched.out)["trial"] == number
        bundle.check_hashes(tmp_path / f"model-{number}")
    refused = run_here(tmp_path, "fetch", "--trial", "99")
    assert refused.code == 1
    assert "no model of trial 99 is kept" in refused.err
    assert record.bundle is not None
    (record.bundle / "weights.safetensors").write_bytes(b"rotten")
    changed = run_here(tmp_path, "fetch")
    assert changed.code == 1
    assert "weights.safetensors" in changed.err


def test_a_latency_is_measured_and_can_be_the_objective(tmp_path: Path, launch: Launch, experiment: Write) -> None:
    path = experiment(tmp_path, objectives={"latency_ms": "min"}, constraints={"accuracy": {"min": 0.05}})
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    for trial in record.searched:
        assert trial.before is not None
        assert trial.after is not None
        assert 0 < trial.after["latency_low_ms"] <= trial.after["latency_ms"] <= trial.after["latency_high_ms"]
        share = trial.after["latency_ms"] / trial.before["latency_ms"]
        assert trial.score == pytest.approx(share * record.header["dense_latency_ms"])
        assert trial.predicted is not None
        assert trial.predicted["latency_ms"] > 0
    assert record.best is not None
    feasible = [trial.score for trial in record.searched if record.is_feasible(trial)]
    assert record.best.score == min(score for score in feasible if score is not None)


def test_rung_zero_scores_before_training(tmp_path: Path, launch: Launch, experiment: Write) -> None:
    scheduler = {"type": "asha", "rung0": True}
    constraints = {"flops": {"max_ratio": 0.1}}
    path = experiment(tmp_path, proposer="random", n_samples=14, constraints=constraints, scheduler=scheduler)
    done = launch(path)
    assert done.code == 0, done.err
    trials = done.record.searched
    assert all(trial.rung0 is not None for trial in trials)
    ended = [trial for trial in trials if trial.state is TrialState.ENDED_EARLY]
    assert ended
    assert all(trial.values is None and trial.cause.startswith("before training") for trial in ended)
    assert all(trial.number > 8 for trial in ended)
    assert "rung 0:" in done.out
    if not any("rung 0 is off" in note for note in done.record.notes):
        assert len(ended) + sum(trial.state is TrialState.FINISHED for trial in trials) == 14


SCRIPT_WITHOUT = """
import sys
sys.path.insert(0, {home!r})
import torch, train
import raycompress as rc

@rc.experiment
def main(config):
    (images, labels), held_out = train.load_data()
    model = train.ResNet()
    model.load_state_dict(torch.load(train.WEIGHTS, weights_only=True))
    compressor = rc.create_compressor(model, config)
    model = compressor.compress()
    accuracy = train.evaluate(model, *held_out)
    compressor.apply_speedup()
    rc.report(accuracy=accuracy)
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")

main()
"""


def test_without_an_evaluator_agreement_with_the_dense_model_guides(
    tmp_path: Path, launch: Launch, experiment: Write, small_resnet: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT_WITHOUT.format(home=str(small_resnet)))
    path = experiment(tmp_path, workingdir=".", script="script.py", constraints={"flops": {"max_ratio": 0.5}})
    done = launch(path)
    assert done.code == 0, done.err
    assert "passes no evaluator=" in " ".join(done.err.split())
    assert "agreement" in json.loads(done.record.folder.prior.read_text()).get("metric", "agreement")
    assert all(done.record.is_feasible(trial) for trial in done.record.searched)
    refused = launch(
        experiment(tmp_path, workingdir=".", script="script.py", scheduler={"type": "asha", "rung0": True})
    )
    assert refused.code == 2
    assert "scheduler.rung0" in refused.err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"constraints": {"flops": {"max_ratio": 0.001}}}, "no sample can keep to it"),
        ({"constraints": {"acuracy": {"min": 0.9}}}, 'did you mean "accuracy"?'),
        ({"constraints": {"flops": {"min_ratio": 0.5, "max_ratio": 0.4}}}, 'is above its "max_ratio"'),
        ({"objectives": {"FLOPs": "min"}}, 'did you mean "flops"?'),
        ({"compression": {"arguments": {"global": True}}}, "guided has to know what a proposal costs"),
        ({"objectives": {"flops": "min"}, "scheduler": {"type": "asha"}}, "known at a trial's end only"),
        ({"repeats": 2, "objectives": {"flops": "min", "accuracy": "max"}}, "there is a front of them"),
    ],
)
def test_mistakes_are_told_before_the_first_trial(
    changes: dict[str, Any], told: str, tmp_path: Path, launch: Launch, experiment: Write
) -> None:
    done = launch(experiment(tmp_path, **changes))
    assert done.code == 2
    assert told in " ".join(done.err.split())
    assert not list(tmp_path.glob("raycompress_results/*/journal.jsonl"))
