"""A script and no experiment file: what is written for it, on models of every kind, and a launch from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.create import create_compressor
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.inspection import inspect
from raycompress.config.checks.preflight import check_model
from raycompress.config.experiment import Experiment
from raycompress.config.recipe import Wanted, as_text, recipe
from raycompress.config.search_space import SearchSpace
from raycompress.model.costs import CostModel
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import ModelInfo
from tests.support.launching import RESNET, Launched
from tests.support.models.networks import DUMMY, NETWORKS
from tests.support.shared_ray import run_here


class OwnConv2d(nn.Conv2d):
    """A type of its own, which no compressor takes."""


class Awkward(nn.Module):
    """Channels tied to a layer of a foreign type and to the input, an aside that the forward pass does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.on_input = nn.Conv2d(1, 1, 3, padding=1)
        self.stem = nn.Conv2d(1, 40, 3, padding=1)
        self.own = OwnConv2d(40, 40, 3, padding=1)
        self.tied = nn.Conv2d(40, 40, 1)
        self.free = nn.Conv2d(40, 64, 1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.aside = nn.Linear(64, 7)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x + self.on_input(x))
        x = (self.own(x) + self.tied(x)).relu()
        return self.fc(self.depthwise(self.free(x).relu()).mean((2, 3)))


ALL: dict[str, type[nn.Module]] = {**NETWORKS, "awkward": Awkward}


def known(name: str) -> tuple[nn.Module, ModelInfo, CostModel]:
    torch.manual_seed(0)
    model = ALL[name]().eval()
    example = Example.from_dummy(DUMMY.repeat(2, 1, 1, 1))
    return model, inspect(model, example), cost_model(model, example)


def written(model: ModelInfo, costs: CostModel, wanted: Wanted, cpus: int = 2, gpus: int = 0) -> dict[str, Any]:
    return recipe("net", "train.py", model, costs, wanted, cpus=cpus, gpus=gpus)


HALF = Wanted({"flops": 0.5}, "accuracy", max_drop=0.01)


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_fits_the_model_and_prunes_it(name: str, tmp_path: Path) -> None:
    model, layers, costs = known(name)
    experiment = Experiment.from_text(as_text(written(layers, costs, HALF)), tmp_path / "exp.json")
    assert check_model(experiment, layers) == ([], [])
    space = SearchSpace.of(experiment, layers)
    built = space.build({one.name: 0.9 for one in space.dimensions})
    compressor = create_compressor(model, {**built, "compressor": "group_l1"}, dummy_input=DUMMY)
    compressor.compress()
    small = compressor.apply_speedup()
    assert small(DUMMY).shape == (1, 10)
    assert sum(one.numel() for one in small.parameters()) < 0.5 * layers.parameters


@pytest.mark.parametrize(
    ("name", "types", "excluded", "round_to"),
    [
        ("cnn", ["Conv2d", "Linear"], ["fc2"], 2),
        ("resnet", ["Conv2d"], None, 4),
        ("mobilenet", ["Conv2d"], None, 2),
        ("vit", ["Conv2d", "Linear"], ["head"], 8),
        ("torch_vit", ["Conv2d", "Linear"], ["head"], 2),
        ("awkward", ["Conv2d", "OwnConv2d"], ["on_input"], 8),
    ],
)
def test_what_can_go_is_named_and_the_rest_left_out(
    name: str, types: list[str], excluded: list[str] | None, round_to: int
) -> None:
    _, model, costs = known(name)
    compression = written(model, costs, HALF)["compression"]
    first, *rest = compression["config_list"]
    assert first["op_types"] == types
    assert rest == ([] if excluded is None else [{"op_names": excluded, "exclude": True}])
    assert compression["arguments"] == {"round_to": round_to}


def test_channels_are_rounded_as_far_as_the_narrowest_group_allows() -> None:
    _, model, _ = known("mlp")

    def round_to(*groups: ChannelGroup) -> int:
        costs = CostModel(groups, (), (), 1, 1, 1)
        return int(written(model, costs, HALF)["compression"]["arguments"]["round_to"])

    wide = ChannelGroup(("fc1",), (), 512)
    assert round_to(wide) == 8
    assert [round_to(wide, ChannelGroup(("fc2",), (), blocks)) for blocks in (32, 31, 15, 7)] == [8, 4, 2, 1]
    assert round_to(ChannelGroup(("fc2",), (), 4, parts=0)) == 8  # heads are not rounded
    assert round_to(ChannelGroup(("fc2",), (), 8, parts=4)) == 8  # 2 of each of 4 parts


def test_targets_become_constraints() -> None:
    _, model, costs = known("mlp")
    both = written(model, costs, Wanted({"flops": 0.5, "latency_ms": 0.7}, "loss", "min", 0.1, trials=3))
    assert both["objectives"] == {"loss": "min"}
    assert both["constraints"] == {
        "flops": {"max_ratio": 0.5},
        "latency_ms": {"max_ratio": 0.7},
        "loss": {"max_rise": 0.1},
    }
    assert both["n_samples"] == 3
    smallest = written(model, costs, Wanted({}, "accuracy", max_drop=0.01))
    assert smallest["objectives"] == {"flops": "min"}
    assert smallest["constraints"] == {"accuracy": {"max_drop": 0.01}}
    unnamed = written(model, costs, Wanted({"params": 0.5}))
    assert unnamed["target"] == "max"
    assert "objectives" not in unnamed


def test_the_machine_says_how_many_trials_run_at_a_time() -> None:
    _, model, costs = known("mlp")
    parallel = [written(model, costs, HALF, cpus, gpus)["n_parallel"] for cpus, gpus in ((1, 0), (3, 0), (64, 0))]
    assert parallel == [1, 3, 4]
    on_gpus = written(model, costs, HALF, 64, 2)
    assert (on_gpus["n_parallel"], on_gpus["resource"]) == (2, "gpu")


# ---- the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(RESNET, tmp_path / "home")
    return tmp_path / "home"


def launch(folder: Path, *words: str | Path) -> Launched:
    return run_here(folder, "launch", *words)


def test_a_script_that_never_slices_is_launched_from_end_to_end(folder: Path) -> None:
    script = folder / "train.py"
    lines = script.read_text().splitlines(keepends=True)
    script.write_text("".join(line for line in lines if "apply_speedup" not in line))
    done = launch(
        folder, "--target-flops", "0.5", "--max-drop", "0.05", "--metric", "accuracy", "--trials", "3", "train.py"
    )
    assert done.code == 0, done.err
    file = folder / "train.compress.json"
    assert f"written to {file.name}:\n{file.read_text()}" in done.err
    assert json.loads(file.read_text())["compression"]["slice"] == "before"
    assert "constraints:" in done.out
    record = done.record
    assert record.best is not None
    assert record.is_feasible(record.best)
    assert record.best.after["flops"] <= 0.5 * record.best.before["flops"]
    assert len(record.searched) == 3
    assert all(trial.after["params"] < trial.before["params"] for trial in record.searched)
    assert record.verified is not None and record.verified["relative_difference"] < 1e-4


def test_a_dry_run_writes_and_runs_nothing_and_another_content_is_kept(folder: Path) -> None:
    asked = ["--target-flops", "0.5", "train.py", "--dry-run"]
    first = launch(folder, *asked)
    assert first.code == 0, first.err
    assert 'the metric is "score", which the script reports first; others (--metric): accuracy, flops' in first.err
    assert not (folder / "raycompress_results").exists()
    again = launch(folder, *asked)
    assert again.code == 0, again.err
    assert "train.compress.json says the same already:" in again.err
    text = (folder / "train.compress.json").read_text()
    other = launch(folder, "--target-params", "0.5", "train.py", "--dry-run")
    assert other.code == 2
    assert "not overwritten" in other.err
    assert "--write" in other.err
    assert (folder / "train.compress.json").read_text() == text
    (folder / "deep").mkdir()
    elsewhere = launch(folder, "--target-params", "0.5", "train.py", "--dry-run", "--write", "deep/small.json")
    assert elsewhere.code == 0, elsewhere.err
    assert json.loads((folder / "deep" / "small.json").read_text())["script"] == "../train.py"


def test_a_target_that_cannot_be_met_is_told_before_there_is_a_file(folder: Path) -> None:
    done = launch(folder, "--target-flops", "0.01", "--metric", "accuracy", "train.py")
    assert done.code == 2
    assert "flops at most 0.01 of the dense model's cannot be reached" in done.err
    assert "fix: --target-flops 0.0" in done.err
    assert not (folder / "train.compress.json").exists()


TORCH = "import torch\nimport raycompress as rc\n"
MAKES = "rc.create_compressor(model, config)\n"


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (TORCH + MAKES, ["--target-flops", "1.5"], ["above 0 and below 1, not 1.5", "--target-flops 0.5"]),
        (TORCH + MAKES, ["--target-size", "nan"], ["not nan", "--target-size 0.5"]),
        (TORCH + MAKES, ["--max-drop", "-1"], ["by 0 or more", "where: --max-drop"]),
        (TORCH + MAKES, [], ["what the model is to become is not said", "--target-flops 0.5", "--max-drop 0.01"]),
        (TORCH + MAKES + "rc.print_result(1)", ["--max-drop", "0.1"], ["cannot be read off", "rc.report(accuracy"]),
        (
            TORCH + MAKES + "rc.report(accuracy=1)",
            ["--max-drop", "0.1", "--metric", "acuracy"],
            ['reports no "acuracy"', 'did you mean "accuracy"?'],
        ),
        (TORCH, ["--target-flops", "0.5"], ["never calls create_compressor", "model = compressor.compress()"]),
        ("import keras\n" + MAKES, ["--target-flops", "0.5"], ["need a model of torch", "raycompress compressors"]),
        ("if x\n", ["--target-flops", "0.5"], ["the script is no Python", "net.py:1"]),
        (None, ["--target-flops", "0.5"], ["there is no such script", 'did you mean "other.py"?']),
        (TORCH + MAKES, ["--target-flops", "0.5", "--write", "no/x.json"], ["no folder for the experiment file"]),
    ],
)
def test_mistakes_are_told_at_once(script: str | None, words: list[str], said: list[str], tmp_path: Path) -> None:
    (tmp_path / ("other.py" if script is None else "net.py")).write_text(script or "")
    file = "othr.py" if script is None else "net.py"
    done = launch(tmp_path, *words, file)
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    for words_of_it in said:
        assert words_of_it in done.err
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("name", ["budget.json", "budget.jsonc"])
def test_an_experiment_file_takes_no_targets(name: str, folder: Path) -> None:
    done = launch(folder, "--target-flops", "0.5", name)
    assert done.code == 2
    assert f"{name} is an experiment file" in done.err
    assert '"constraints"' in done.err
