"""A few steps towards the dense model's answers bring a pruned one nearer to it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.agreement import Agreement
from raycompress.compressors.analysis.imitation import RATES, Imitation
from raycompress.compressors.analysis.statistics import recompute_statistics
from tests.support.models.networks import DUMMY, digits, trained

BATCHES = [Example((images,), {}) for images in digits()[0][:512].split(64)]
OTHERS = [Example((images,), {}) for images in digits()[0][512:1024].split(64)]


def halved(model: nn.Module) -> nn.Module:
    small = copy.deepcopy(model)
    outputs = "head" if hasattr(model, "head") else "fc" if hasattr(model, "fc") else "fc2"
    config_list = [{"sparsity": 0.5, "op_types": ["Conv2d", "Linear"]}, {"op_names": [outputs], "exclude": True}]
    pruner = create_compressor(
        small, {"compressor": "group_l1", "config_list": config_list}, dummy_input=DUMMY, round_to=1
    )
    pruner.compress()
    pruner.apply_speedup()
    return small


@pytest.mark.parametrize("network", ["cnn", "resnet", "mobilenet", "vit"])
def test_it_comes_nearer_on_what_it_has_not_seen(network: str) -> None:
    dense = trained(network, 150)
    small, agreement = halved(dense), Agreement(dense, OTHERS)
    recomputed = copy.deepcopy(small)
    recompute_statistics(recomputed, BATCHES)
    Imitation(dense, BATCHES)(small, steps=16)
    assert agreement(small) > agreement(recomputed)
    assert not any(module.training for module in small.modules())


def test_without_steps_only_the_statistics_change() -> None:
    dense = trained("resnet", 20)
    small = halved(dense)
    recomputed = copy.deepcopy(small)
    recompute_statistics(recomputed.eval(), BATCHES)
    Imitation(dense, BATCHES)(small, steps=0)
    expected = recomputed.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in small.state_dict().items())


def test_outputs_that_are_no_classes_are_followed() -> None:
    torch.manual_seed(0)
    dense, other = (nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 1, 1)) for _ in range(2))
    batches = [Example((torch.randn(32, 1, 16),), {}) for _ in range(4)]
    agreement = Agreement(dense, batches)
    before = agreement(other)
    imitation = Imitation(dense, batches)
    imitation.learning_rate = 1e-2
    imitation(other, steps=40)
    assert agreement(other) > before


def test_weights_that_large_steps_would_ruin_are_trained_by_small_ones() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    with torch.no_grad():
        dense[0].weight *= 0.01
    batches = [Example((100 * torch.randn(32, 16),), {}) for _ in range(16)]
    slowly, fast = Imitation(dense, batches), Imitation(dense, batches)
    fast.learning_rate = RATES[0]
    found = []
    for imitation in (slowly, fast):
        other = copy.deepcopy(dense)
        with torch.no_grad():
            other[2].weight *= 1.1
        imitation(other)
        found.append(Agreement(dense, batches)(other))
    assert slowly.learning_rate is not None
    assert slowly.learning_rate < RATES[0]
    assert found[0] > found[1] + 0.1


def test_the_dense_model_stays() -> None:
    dense = trained("cnn", 20)
    state = copy.deepcopy(dense.state_dict())
    Imitation(dense, BATCHES)(halved(dense))
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())
