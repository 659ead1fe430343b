"""What stays of a layer is a multiple of round_to, whichever of NNI's pruners chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.catalog.rounding import removable
from raycompress.compressors.interface import Compressor
from raycompress.errors import CompressionError, ExperimentError
from tests.support.models.networks import DUMMY, train, trained

SPARSITY = 0.4
CONVOLUTIONS = [{"sparsity": SPARSITY, "op_types": ["Conv2d"]}]
AWARE = {"dependency_aware": True, "dummy_input": DUMMY}
GATHERED = {"statistics_batch_num": 2}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
    train(model, 2, epoch, optimizer)


def pruned(
    name: str, model: nn.Module, config_list: Any = CONVOLUTIONS, **arguments: Any
) -> tuple[nn.Module, Compressor]:
    """Do what a training script does, up to the small model."""
    optimizer = sgd(model)
    config = {"compressor": name, "config_list": config_list}
    pruner: Compressor = create_compressor(model, config, optimizer=optimizer, **arguments)
    pruner.compress()
    for epoch in range(3):
        pruner.update_epoch(epoch)
        train(model, 2, epoch, optimizer)
    return pruner.apply_speedup(DUMMY), pruner


def widths(model: nn.Module) -> dict[str, int]:
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def expected(name: str, round_to: int) -> dict[str, int]:
    before = widths(trained(name))
    return {layer: of - removable(of, SPARSITY, round_to) for layer, of in before.items()}


METHODS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in ("l1_filter", "l2_filter", "fpgm")],
    *[(name, GATHERED) for name in ("activation_apoz_rank_filter", "activation_mean_rank_filter")],
    ("taylor_fo_weight_filter", GATHERED),
    ("taylor_fo_weight_filter", {**GATHERED, "trainer": trainer}),
    *[("agp", {"pruning_algorithm": algorithm}) for algorithm in ("l1", "apoz")],
    ("agp", {"pruning_algorithm": "l2", "trainer": trainer, "num_iterations": 3}),
    ("admm", {"trainer": trainer, "num_iterations": 2, "epochs_per_iteration": 1}),
]


@pytest.mark.parametrize("round_to", [1, 4, 5])
@pytest.mark.parametrize(("name", "arguments"), METHODS)
def test_every_layer_keeps_what_the_rule_says(name: str, arguments: dict[str, Any], round_to: int) -> None:
    model, _ = pruned(name, trained("cnn"), round_to=round_to, **arguments)
    assert widths(model) == expected("cnn", round_to)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[(name, {}) for name in ("l1_filter", "fpgm")],
        ("taylor_fo_weight_filter", GATHERED),
        ("agp", {"pruning_algorithm": "l1"}),
        ("admm", {"trainer": trainer, "num_iterations": 2, "epochs_per_iteration": 1}),
    ],
)
def test_tied_layers_stay_tied(name: str, arguments: dict[str, Any]) -> None:
    model, _ = pruned(name, trained("resnet"), round_to=8, **AWARE, **arguments)
    assert widths(model) == expected("resnet", 8)
    assert set(widths(model).values()) == {8, 24}  # of 16 and 32, where 10 and 20 would be left unrounded


def test_depthwise_layers_follow() -> None:
    model, _ = pruned("l2_filter", trained("mobilenet"), [{**CONVOLUTIONS[0], "op_names": ["expand"]}], round_to=8)
    assert widths(model) == {"stem": 12, "expand": 16, "depthwise": 16, "project": 16}


def test_a_layer_that_rounding_leaves_whole_is_left_out() -> None:
    model, pruner = pruned("l1_filter", trained("cnn"), round_to=8)
    assert widths(model) == {"conv1": 8, "conv2": 8}
    model, pruner = pruned(
        "l1_filter", trained("cnn"), [{"sparsity": 0.2, "op_types": ["Conv2d"]}], round_to=10, dummy_input=DUMMY
    )
    assert widths(model) == {"conv1": 10, "conv2": 16}
    assert pruner._decision.asked == {"conv1": 2, "conv2": 0}  # type: ignore[attr-defined]


def test_on_the_way_the_masks_of_agp_grow_as_before() -> None:
    entry = {"final_sparsity": 0.5, "initial_sparsity": 0.45, "end_epoch": 3, "op_types": ["Conv2d"]}
    optimizer = sgd(model := trained("cnn"))
    config = {"compressor": "agp", "config_list": [entry], "arguments": {"pruning_algorithm": "l1", "round_to": 5}}
    pruner = create_compressor(model, config, optimizer=optimizer, dummy_input=DUMMY)
    pruner.compress()
    gone: list[dict[str, int]] = []
    for epoch in range(3):
        pruner.update_epoch(epoch)
        gone.append({name: len(channels) for name, channels in pruner._decision.channels.items()})
    assert gone[0] == {"conv1": 5, "conv2": 6}  # the share at the start is not above the rounded one at the end
    assert gone[-1] == {"conv1": 7, "conv2": 6}
    assert widths(pruner.apply_speedup(DUMMY)) == {"conv1": 5, "conv2": 10}


def test_tied_layers_that_choose_by_themselves_are_told_how_to_agree() -> None:
    with pytest.raises(CompressionError, match="no multiple of round_to, 8: layers that are tied") as caught:
        pruned("l1_filter", trained("resnet"), [{"sparsity": 0.5, "op_types": ["Conv2d"]}], round_to=8)
    assert "dependency_aware=True" in caught.value.problems[0].fix


def make(name: str, **arguments: Any) -> Callable[[], object]:
    model = trained("cnn")
    config = {"compressor": name, "config_list": CONVOLUTIONS, "arguments": arguments}
    return lambda: create_compressor(model, config, optimizer=sgd(model), trainer=trainer).compress()


@pytest.mark.parametrize("value", [0, -8, 2.5, True, "8"])
def test_what_is_no_number_of_channels_is_refused(value: object) -> None:
    with pytest.raises(ExperimentError, match='"round_to" is a whole number from 1 on'):
        make("l1_filter", round_to=value)()


@pytest.mark.parametrize(
    ("name", "arguments"), [("agp", {}), ("agp", {"pruning_algorithm": "slim"}), ("admm", {"base_algo": "level"})]
)
def test_methods_that_remove_no_filters_layer_by_layer_do_not_round(name: str, arguments: dict[str, Any]) -> None:
    kind = "BatchNorm2d" if arguments.get("pruning_algorithm") == "slim" else "Conv2d"
    model = trained("vgg")
    config = {"compressor": name, "config_list": [{"sparsity": 0.5, "op_types": [kind]}], "arguments": arguments}
    pruner = create_compressor(model, config, optimizer=sgd(model), trainer=trainer, round_to=8)
    with pytest.raises(ExperimentError, match="takes round_to with methods that remove filters layer by layer alone"):
        pruner.compress()
