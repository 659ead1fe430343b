"""Every compressor of the old tool's list, and every form of script, as a one-time experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import raycompress
from raycompress.bundle import bundle
from raycompress.compressors.measure.difference import relative_difference
from raycompress.states import TrialState
from tests.old.conftest import files_of_the_old_tool
from tests.old.experiments.digits_net import Net, NetBN
from tests.old.harness import Bench, Outcome, snapshot

ONE_TIME = [path.stem for path in files_of_the_old_tool("one_time_*.json")]
AUTOMATIC = [path.stem for path in files_of_the_old_tool("automatic_*.json") if path.stem != "automatic_own_values"]
QUANTIZED = ("naive", "qat", "dorefa", "bnn")


def is_keras(name: str) -> bool:
    return name.endswith("tensorflow_level")


def own_files(name: str) -> set[str]:
    """Return the files that the experiment's script asks for."""
    if is_keras(name):
        return {"digits_model.h5"}
    if name.endswith(QUANTIZED):
        return {"digits_quantized.pth"}
    if name.endswith("exports_never"):
        return {"model.pth", "mask.pth"}
    without_mask = name.endswith(
        ("dependency_aware", "decorated", "sensitivity", "automatic_hyperopt", "automatic_passive")
    )
    return {"digits_model.pth"} if without_mask else {"digits_model.pth", "digits_mask.pth"}


def network(name: str) -> nn.Module:
    return NetBN() if name.endswith("slim") else Net()


@pytest.fixture
def run(home: Path, bench: Callable[[str], Bench], tmp_path: Path) -> Callable[[str], Outcome]:
    """Run an experiment by the name of its file; nothing may be left beside the scripts."""

    def run(name: str) -> Outcome:
        before = snapshot(home)
        outcome = bench("tensorflow" if is_keras(name) else "torch").run(home / f"{name}.json", tmp_path)
        assert snapshot(home) == before
        return outcome

    return run


def test_the_old_tools_compressors_are_all_here() -> None:
    pruners = ["level", "slim", "l1_filter", "l2_filter", "fpgm", "taylor", "apoz", "mean", "agp", "admm", "amc"]
    pruners += ["auto_compress", "net_adapt", "simulated_annealing", "sensitivity", "lottery_ticket"]
    aware = [f"{name}_dependency_aware" for name in ("l1_filter", "l2_filter", "fpgm", "taylor", "apoz", "mean")]
    assert {f"one_time_{name}" for name in (*pruners, *aware, *QUANTIZED, "tensorflow_level")} <= set(ONE_TIME)


@pytest.mark.parametrize("name", [*ONE_TIME, *(pytest.param(name, marks=pytest.mark.night) for name in AUTOMATIC)])
def test_a_trial_ends_with_one_model_that_is_what_was_measured(name: str, run: Callable[[str], Outcome]) -> None:
    outcome = run(name)
    ending, candidate = outcome.ending, outcome.candidate
    assert ending.state is TrialState.FINISHED, f"{ending.cause}\n{ending.tail}"
    assert ending.values is not None
    assert next(iter(ending.values.values())) <= 0
    assert {path.name for path in candidate.iterdir()} - set(bundle.RESERVED) == own_files(name)
    bundle.check_hashes(candidate)
    assert outcome.verified is not None
    assert outcome.verified["relative_difference"] <= bundle.TOLERANCE
    if is_keras(name):
        return
    loaded = raycompress.load(candidate, network(name)).eval()
    example, outputs = bundle.reference(candidate)
    assert relative_difference(outputs, example.outputs(loaded)) <= bundle.TOLERANCE
    check_model_file(name, candidate, loaded)


def test_a_schedule_that_the_script_never_tells_an_epoch_is_an_error(run: Callable[[str], Outcome]) -> None:
    # the old tool then saved the dense model, as if it were compressed
    ending = run("wrong_agp").ending
    assert ending.state is TrialState.FAILED
    assert "the script never calls update_epoch" in ending.cause


def check_model_file(name: str, candidate: Path, loaded: nn.Module) -> None:
    """The file of the script's own holds the plain class's names, and the function that was measured."""
    (file,) = candidate.glob("*model*.pth") if not name.endswith(QUANTIZED) else candidate.glob("*quantized.pth")
    state: dict[str, Any] = torch.load(file, weights_only=True)
    assert list(state) == list(network(name).state_dict())
    if name.endswith(QUANTIZED):
        return
    example, outputs = bundle.reference(candidate)
    manifest = bundle.read(candidate)
    plain = loaded if manifest.after.params < manifest.before.params else network(name).eval()
    plain.load_state_dict(state)
    assert relative_difference(outputs, example.outputs(plain)) <= bundle.TOLERANCE
    for file in candidate.glob("*mask.pth"):
        masks = torch.load(file, weights_only=True)
        assert set(masks) <= set(state)
        assert any((mask == 0).any() for mask in masks.values())
