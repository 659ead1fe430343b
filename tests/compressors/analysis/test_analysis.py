"""What layers bear and cost; each claim is checked against what pruning does by another way."""

from __future__ import annotations

import copy
import csv
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import analysis, create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.analysis import Agreement
from raycompress.compressors.analysis.calls import Calls
from raycompress.compressors.analysis.statistics import recompute_statistics
from raycompress.compressors.analysis.targets import channels
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.errors import CompressionError, StorageError, UsageError
from raycompress.results.analysis.data import Analysis, Dependency
from raycompress.script.context import EndOfInspection
from tests.support.models.networks import DUMMY, NETWORKS, digits, trained

EXAMPLE = Example.from_dummy(DUMMY)
HALF = (0.25, 0.5, 0.75)


def accuracy(model: nn.Module) -> float:
    images, labels = digits()
    model.eval()
    with torch.no_grad():
        return (model(images[1000:]).argmax(1) == labels[1000:]).float().mean().item()


def pruned_accuracy(model: nn.Module, layers: list[str], sparsity: float, **arguments: Any) -> float:
    """Prune and slice by NNI's l1_filter, as a user would, and measure the small model."""
    config = {"compressor": "l1_filter", "config_list": [{"sparsity": sparsity, "op_names": layers}]}
    compressor = create_compressor(model, config, dummy_input=DUMMY, **arguments)
    compressor.compress()
    return accuracy(compressor.apply_speedup())


@pytest.mark.parametrize(
    ("name", "layers"), [("cnn", ["conv2"]), ("resnet", ["conv1", "layer1.0.conv2", "layer1.1.conv2"])]
)
def test_a_curve_is_the_accuracy_of_the_sliced_model(name: str, layers: list[str]) -> None:
    model = trained(name, 150)
    found = analysis.layer_sensitivity(model, accuracy, sparsities=HALF, layers=layers[:1])
    (curve,) = found.curves
    assert found.dense == accuracy(model)
    assert curve.layers == tuple(layers)
    assert curve.removed == tuple(int(curve.size * sparsity) for sparsity in HALF)
    tied = {"dependency_aware": True} if len(layers) > 1 else {}
    sliced = [pruned_accuracy(copy.deepcopy(model), layers, sparsity, **tied) for sparsity in HALF]
    assert list(curve.values) == pytest.approx(sliced, abs=0.002)
    assert min(curve.values) < found.dense  # on so much, something is lost


@pytest.mark.parametrize("name", NETWORKS)
def test_ever_larger_masks_are_those_of_slicing_at_once(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    units = [unit for unit in channels(model, EXAMPLE) if not unit.fixed]
    assert units
    for unit in units:
        for masks in unit.masks([int(unit.size * sparsity) for sparsity in HALF]):
            assert 0 < masks.size <= 0.75 * unit.size
            gone = {layer: torch.nonzero(removed_outputs(model, masks.removed, layer)) for layer in unit.layers}
            root = next(layer for layer in unit.layers if len(gone[layer]) == masks.size)
            cut = Cut(ChannelGraph(model, EXAMPLE), {root: gone[root].flatten().tolist()})
            sliced = cut.tensors()
            parameters = {key for key in sliced if isinstance(tensor(model, key), nn.Parameter)}
            assert parameters == masks.removed.keys()
            for key in parameters:
                assert torch.equal(masks.removed[key], sliced[key].removed(tensor(model, key)))
            assert cut.reductions().calls.keys() == masks.reductions.calls.keys()


def tensor(model: nn.Module, key: tuple[str, str]) -> Tensor:
    return getattr(model.get_submodule(key[0]), key[1])


def removed_outputs(model: nn.Module, removed: Any, layer: str) -> Tensor:
    """Return True for each output channel of `layer` whose weights are all gone."""
    mask = removed.get((layer, "weight"), torch.zeros_like(tensor(model, (layer, "weight")), dtype=torch.bool))
    return mask.flatten(1).all(dim=1)


def test_single_weights_go_smallest_first_from_any_layer() -> None:
    model = trained("mlp")
    found = analysis.layer_sensitivity(model, accuracy, sparsities=(0.5,), method="level")
    assert [curve.layers for curve in found.curves] == [("fc1",), ("fc2",), ("fc3",)]
    by_hand = copy.deepcopy(model)
    weight = by_hand.fc2.weight
    weight.data[weight.abs() < weight.abs().median()] = 0
    assert found.curves[1].values[0] == pytest.approx(accuracy(by_hand), abs=0.002)


def test_the_model_is_left_as_it_was_even_by_an_evaluator_that_trains_it() -> None:
    model = trained("resnet").train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    images, labels = digits()

    def spoil(victim: nn.Module) -> float:
        victim.train()
        loss = nn.functional.cross_entropy(victim(images[:64]), labels[:64])
        with torch.no_grad():
            for parameter in victim.parameters():
                parameter += 1
        return loss.item()

    state = torch.random.get_rng_state()
    for options in ({}, {"recompute_bn": True}, {"method": "level"}):
        analysis.layer_sensitivity(model, spoil, sparsities=(0.5,), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()) == hooks
    assert torch.equal(torch.random.get_rng_state(), state)


def test_recomputed_statistics_bring_back_what_pruning_alone_loses() -> None:
    model = trained("resnet", 60)
    options = {"sparsities": (0.25,), "layers": ["conv1"]}
    plain = analysis.layer_sensitivity(model, accuracy, **options).curves[0].values[0]
    mended = analysis.layer_sensitivity(model, accuracy, recompute_bn=True, **options).curves[0].values[0]
    assert mended > plain + 0.1


def test_recomputed_statistics_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    rows = torch.randn(40, 3) * torch.tensor([1.0, 2.0, 3.0]) + 5
    recompute_statistics(norm.eval(), [Example.from_dummy(part) for part in rows.split(20)])
    assert torch.allclose(norm.running_mean, rows.mean(0), atol=1e-5)
    assert norm.momentum == 0.1
    assert not norm.training
    with pytest.raises(CompressionError, match="more than 1 value"):
        recompute_statistics(norm, [Example.from_dummy(rows[:1])])


def test_progress_counts_every_measurement() -> None:
    told: list[tuple[int, int, str]] = []
    model = trained("cnn")
    analysis.layer_sensitivity(
        model, accuracy, sparsities=(0.3, 0.6), progress=lambda done, total, layer: told.append((done, total, layer))
    )
    assert told == [
        (0, 6, "conv1"), (1, 6, "conv1"), (2, 6, "conv2"), (3, 6, "conv2"), (4, 6, "fc1"), (5, 6, "fc1"), (6, 6, ""),
    ]  # fmt: skip


def test_the_output_layer_is_left_out_and_said_so() -> None:
    found = analysis.layer_sensitivity(trained("cnn"), lambda model: (accuracy(model), "loss"), sparsities=(0.5,))
    assert list(found.left_out) == ["fc2"]
    assert "output" in found.left_out["fc2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate": lambda model: "good"}, "returned no number but 'good'"),
        ({"evaluate": lambda model: math.nan}, "dense model is nan"),
        ({"evaluate": lambda model: 1.0}, "no input of the model is known"),
        ({"sparsities": (0.5, 1.0)}, "above 0 and below 1, not 1"),
        ({"sparsities": ()}, "no sparsity"),
        ({"method": "l3"}, "the methods are l1, level"),
        ({"layers": ["conv11"]}, 'did you mean "conv1"'),
        ({"layers": ["fc2"]}, "outputs"),
    ],
)
def test_what_cannot_be_is_told(options: dict[str, Any], message: str) -> None:
    model = trained("cnn")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((CompressionError, UsageError)) as caught:
        analysis.layer_sensitivity(model, options.pop("evaluate", accuracy), **options)
    assert message in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_with_nothing_to_prune_is_told() -> None:
    with pytest.raises(CompressionError, match="no layer that can be pruned: its channels are the model's outputs"):
        analysis.layer_sensitivity(nn.Linear(4, 2), lambda model: 1.0, dummy_input=torch.zeros(1, 4))


def test_ties_are_those_of_the_architecture() -> None:
    found = analysis.channel_dependency(trained("resnet"), DUMMY)
    assert found.tied == (
        ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
        ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2"),
    )
    assert sorted(sum(found.sets, ())) == sorted(
        name for name, module in trained("resnet").named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    )
    assert analysis.channel_dependency(trained("mobilenet"), DUMMY).tied == (("expand", "depthwise"),)


@pytest.mark.parametrize("name", ["resnet", "torch_vit"])
def test_costs_add_up_to_the_model(name: str) -> None:
    model = trained(name, 1)
    cost = analysis.model_cost(model, DUMMY, rounds=5)
    own = sum(parameter.numel() for parameter in model.parameters(recurse=False))  # of the root, which is no layer
    assert cost.params == measure.parameters(model) == sum(layer.params for layer in cost.layers) + own
    assert cost.flops == sum(layer.flops for layer in cost.layers) > 0
    assert 0.1 < sum(layer.share for layer in cost.layers) <= 1.001
    assert cost.cpu_ms > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_agreement_counts_equal_answers() -> None:
    model = trained("cnn")
    images, _ = digits()
    agreement = Agreement(model, [Example.from_dummy(images[:30]), Example.from_dummy(images[30:40])])
    dense = model(images[:40]).argmax(1)
    model.fc2.bias.data[3] += 100  # whatever it sees is now a three
    assert agreement.is_share
    assert agreement.samples == 40
    assert agreement(model) == pytest.approx((dense == 3).float().mean().item())


def test_agreement_of_no_classifier_is_how_near_the_outputs_are() -> None:
    model = nn.Conv2d(1, 2, 3, bias=False)
    agreement = Agreement(model, [EXAMPLE])
    assert not agreement.is_share
    assert agreement(model) == 1
    model.weight.data *= 0.75
    assert agreement(model) == pytest.approx(0.75)
    model.weight.data *= -10
    assert agreement(model) == 0


def test_calls_are_kept_up_to_the_number_and_copies_of_the_model_keep_none() -> None:
    model = nn.Linear(4, 2)
    calls = Calls(5).watch(model)
    batch = torch.ones(3, 4)
    model(batch)
    copied, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    copied(batch), thawed(batch)
    model(batch)
    model(batch)
    batch.zero_()
    assert [tuple(kept.shapes[0]) for kept in calls.batches] == [(3, 4), (2, 4)]
    assert calls.samples == 5
    assert all(bool((kept.args[0] == 1).all()) for kept in calls.batches)
    assert not model._forward_pre_hooks


def test_the_files_hold_the_numbers(tmp_path: Path) -> None:
    found = analysis.layer_sensitivity(trained("resnet"), accuracy, sparsities=(0.3, 0.6))
    found.write_csv(tmp_path / "sensitivity.csv")
    rows = list(csv.reader((tmp_path / "sensitivity.csv").open()))
    assert rows[0] == ["layer", "tied_with", "size", "0", "0.3", "0.6"]
    table = {row[0]: row for row in rows[1:]}
    assert len(table) == sum(len(curve.layers) for curve in found.curves)
    assert table["layer1.1.conv2"][1:3] == ["conv1 layer1.0.conv2", "16"]
    assert [float(cell) for cell in table["conv1"][3:]] == [found.dense, *found.curves[0].values]
    Dependency((("a",), ("b", "c"))).write_csv(tmp_path / "dependency.csv")
    assert (tmp_path / "dependency.csv").read_text() == "Dependency Set,Layers\nSet 1,a\nSet 2,b,c\n"
    with pytest.raises(StorageError):
        found.write_csv(tmp_path / "nowhere" / "sensitivity.csv")


def test_the_plots_are_whole_files_with_every_layer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    found = analysis.layer_sensitivity(trained("cnn"), accuracy, sparsities=(0.3, 0.6), metric="accuracy on digits")
    analysis.write_png(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    analysis.write_html(found, tmp_path / "curves.html")
    page = (tmp_path / "curves.html").read_text()
    assert all(f'"name":"{name}"' in page for name in ("conv1", "conv2", "fc1"))
    assert "accuracy on digits" in page
    assert not re.search(r"<script[^>]*\bsrc=", page)  # nothing is fetched
    with pytest.raises(StorageError):
        analysis.write_html(found, tmp_path / "nowhere" / "curves.html")


# in a trial of mode "analyze"

WANTED = {"sparsities": [0.5], "method": "l1", "samples": 100, "recompute_bn": False}
CONFIG = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}


def told(sent: list[dict[str, Any]]) -> Analysis:
    (message,) = [message for message in sent if message["type"] == "analysis"]
    return Analysis.from_json(message["analysis"])


def test_an_evaluator_is_the_metric_and_nothing_is_trained(enter: Any) -> None:
    _, sent = enter("analyze", analysis=WANTED)
    model = trained("cnn")
    with pytest.raises(EndOfInspection):
        create_compressor(model, CONFIG, evaluator=accuracy)
    found = told(sent)
    assert found.sensitivity.metric == "the script's evaluator"
    assert found.sensitivity.dense == accuracy(model)
    assert [message["done"] for message in sent if message["type"] == "progress"] == [0, 1, 2, 3]
    assert found.cost.params == measure.parameters(model)
    assert found.dependency is not None


def test_without_an_evaluator_the_first_calls_are_taken_and_training_changes_nothing(enter: Any) -> None:
    _, sent = enter("analyze", analysis=WANTED)
    model = trained("cnn")
    images, _ = digits()
    batches = [Example.from_dummy(images[:64]), Example.from_dummy(images[64:100])]
    expected = analysis.layer_sensitivity(copy.deepcopy(model), Agreement(model, batches), sparsities=(0.5,))
    compressor = create_compressor(model, CONFIG)
    model = compressor.compress()
    compressor.count_flops_params((1, 1, 8, 8))  # its random input is no sample
    model(images[:64])
    for parameter in model.parameters():
        parameter.data.zero_()  # whatever the script does to its model meanwhile
    with pytest.raises(EndOfInspection):
        model(images[64:128])
    found = told(sent)
    assert found.sensitivity.metric == "agreement with the dense model, 100 samples"
    assert found.sensitivity.dense == 1
    assert found.sensitivity.curves == expected.curves


def test_a_script_that_shows_little_is_analysed_at_its_report(enter: Any) -> None:
    trial, sent = enter("analyze", analysis=WANTED)
    model = trained("cnn")
    create_compressor(model, CONFIG).compress()(digits()[0][:7])
    with pytest.raises(EndOfInspection):
        for hook in trial.on_report:
            hook({"accuracy": 1.0})
    assert "7 samples" in told(sent).sensitivity.metric
    sent.clear()
    with pytest.raises(EndOfInspection):
        for hook in trial.on_finish:
            hook()
    assert not sent  # told once


def test_a_model_that_is_never_called_is_told(enter: Any) -> None:
    trial, sent = enter("analyze", analysis=WANTED)
    create_compressor(trained("cnn"), CONFIG)
    with pytest.raises(EndOfInspection):
        trial.on_finish[0]()
    (message,) = sent
    assert message["type"] == "refused"
    assert "never called its model" in message["problems"][0]["what"]


def test_an_analysis_survives_json(enter: Any) -> None:
    _, sent = enter("analyze", analysis={**WANTED, "sparsities": [0.3, 0.5]})
    answers = iter([0.5, math.nan, *[0.25] * 5])

    def evaluate(model: nn.Module) -> float:
        model(DUMMY)
        return next(answers)

    with pytest.raises(EndOfInspection):
        create_compressor(trained("cnn"), CONFIG, evaluator=evaluate)
    found = told(sent)
    assert math.isnan(found.sensitivity.curves[0].values[0])
    assert found.to_json() == sent[-1]["analysis"]
    assert found.to_json()["sensitivity"]["curves"][0]["values"] == [None, 0.25]
