"""The utility classes of the old tool, on ours: tables by layer and sparsity, dependency sets, counts, NNI's masks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import analysis
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.sensitivity_analysis import SensitivityAnalysis
from raycompress.compressors.analysis.shape_dependency import ChannelDependency
from raycompress.compressors.engines.nni.mask_conflict import fix_mask_conflict
from raycompress.compressors.interface import count_flops_params
from raycompress.compressors.measure import sizes as measure
from raycompress.errors import StorageError, UsageError
from tests.support.models.networks import DUMMY, NETWORKS, digits, trained

SHARES = [0.25, 0.5, 0.75]


def accuracy(model: nn.Module) -> float:
    images, labels = digits()
    with torch.no_grad():
        return float((model.eval()(images[1000:]).argmax(1) == labels[1000:]).float().mean())


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_table_of_layers_and_sparsities(tmp_path: Path) -> None:
    model = trained("cnn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curves = analysis.layer_sensitivity(model, accuracy, sparsities=SHARES)
    analyzer = SensitivityAnalysis(
        model=model, val_func=lambda m, scale: (scale * accuracy(m), "loss"), sparsities=SHARES
    )
    found = analyzer.analysis(val_args=[model], val_kwargs={"scale": 1.0})
    assert found == {
        layer: dict(zip(SHARES, curve.values, strict=True)) for curve in curves.curves for layer in curve.layers
    }
    assert set(found) == {"conv1", "conv2", "fc1"}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    analyzer.export(tmp_path / "table.csv")
    head, *lines = rows(tmp_path / "table.csv")
    assert head == ["layername", "0.25", "0.5", "0.75"]
    assert {line[0]: [float(value) for value in line[1:]] for line in lines} == {
        layer: list(row.values()) for layer, row in found.items()
    }
    with pytest.raises(StorageError):
        analyzer.export(tmp_path / "none" / "table.csv")


def test_only_some_layers_in_several_calls_and_single_weights() -> None:
    model = trained("cnn")
    analyzer = SensitivityAnalysis(model, lambda: accuracy(model), SHARES, "fine-grained")
    assert set(analyzer.analysis(specified_layers=["conv1"])) == {"conv1"}
    assert set(analyzer.analysis(specified_layers=["conv2"])) == {"conv1", "conv2"}
    assert list(analyzer.sensitivities["conv1"]) == SHARES
    level = analysis.layer_sensitivity(model, accuracy, sparsities=SHARES, method="level", layers=["conv1"])
    assert list(analyzer.sensitivities["conv1"].values()) == list(level.curves[0].values)


@pytest.mark.parametrize(("mode", "limit"), [("minimize", 0.5), ("dropped", 0.1)])
def test_a_layer_is_measured_no_further_than_asked(tmp_path: Path, mode: str, limit: float) -> None:
    model = trained("cnn", 60)
    dense = accuracy(model)
    calls = []

    def evaluate() -> float:
        calls.append(accuracy(model))
        return calls[-1]

    every = SensitivityAnalysis(model, evaluate).analysis()
    whole, calls[:] = len(calls), []
    analyzer = SensitivityAnalysis(model, evaluate, early_stop_mode=mode, early_stop_value=limit)
    found = analyzer.analysis()
    enough = {"minimize": lambda value: value < limit, "dropped": lambda value: dense - value >= limit}[mode]
    for layer, row in found.items():
        values = list(row.values())
        assert values == list(every[layer].values())[: len(values)]
        assert not any(enough(value) for value in values[:-1])
        assert enough(values[-1]) or len(values) == 9
    assert len(calls) < whole
    analyzer.export(tmp_path / "table.csv")
    lengths = {line[0]: len([value for value in line[1:] if value]) for line in rows(tmp_path / "table.csv")[1:]}
    assert lengths == {layer: len(row) for layer, row in found.items()}
    assert min(lengths.values()) < 9


@pytest.mark.parametrize(("mode", "limit"), [("maximize", 1.5), ("raised", 0.5)])
def test_a_loss_stops_where_it_is_too_high(mode: str, limit: float) -> None:
    model = trained("cnn")
    losses = iter([1.0, 1.2, 1.6])
    analyzer = SensitivityAnalysis(model, lambda m: m(DUMMY) is not None and next(losses), SHARES, "l1", mode, limit)
    found = analyzer.analysis([model], specified_layers=["conv2"])
    assert found == {"conv2": {0.25: 1.2, 0.5: 1.6}}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"prune_type": "l2"}, 'prune_type "l2" is not known'),
        ({"early_stop_mode": "droped", "early_stop_value": 1}, 'did you mean "dropped"?'),
        ({"early_stop_mode": "dropped"}, "needs early_stop_value"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(more: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        SensitivityAnalysis(trained("cnn"), pytest.fail, **more)
    assert told in str(raised.value)


def test_dependency_sets_and_their_file(tmp_path: Path) -> None:
    model = trained("resnet", 0)
    found = ChannelDependency(model, DUMMY)
    assert {"conv1", "layer1.0.conv2", "layer1.1.conv2"} in found.dependency_sets
    assert {"layer1.0.conv1"} in found.dependency_sets
    found.export(tmp_path / "sets.csv")
    head, *lines = rows(tmp_path / "sets.csv")
    assert head == ["Dependency Set", "Layers"]
    assert [set(line[1:]) for line in lines] == found.dependency_sets
    assert (
        ChannelDependency(model=model, dummy_input=DUMMY, prune_type="Filter").dependency_sets == found.dependency_sets
    )


@pytest.mark.parametrize("x", [(1, 1, 8, 8), [4, 1, 8, 8], DUMMY], ids=["tuple", "list", "tensor"])
def test_counts_of_a_shape_and_of_an_input(x: Any) -> None:
    model = trained("cnn", 0)
    flops, params, table = count_flops_params(model, x, verbose=False, mode="full")
    assert params == measure.parameters(model)
    assert flops == measure.flops(model, Example.from_dummy(DUMMY))[""]
    assert [row["name"] for row in table] == ["conv1", "conv2", "fc1", "fc2"]


def test_masks_of_tied_layers_are_made_alike_by_nni(capsys: pytest.CaptureFixture[str]) -> None:
    model = NETWORKS["resnet"]()
    masks = {}
    for name, gone in (("layer1.0.conv2", [0, 1]), ("layer1.1.conv2", [1, 2]), ("conv1", [1, 5])):
        weight = model.get_submodule(name).weight
        mask = torch.ones_like(weight)
        mask[gone] = 0
        masks[name] = {"weight": mask}
    fixed = fix_mask_conflict(masks, model, DUMMY)
    gone = {name: (mask["weight"].flatten(1).sum(1) == 0).nonzero().flatten().tolist() for name, mask in fixed.items()}
    assert gone == {name: [1] for name in masks}
    assert capsys.readouterr().out == ""
