"""Importance that sees data: scores by hand, on all kinds of networks, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.engines.torch_pruning import fisher, input_moments
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.errors import CompressionError, ExperimentError
from raycompress.script import context
from tests.support.models.networks import DUMMY, Mlp, digits, trained

METHODS = ("group_wanda", "group_flap", "group_fisher", "group_obs")
HEADS = {"resnet": "fc", "mobilenet": "fc", "vit": "head", "cnn": "fc2"}


def seen(number: int = 48) -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return [(images[start : start + 16], labels[start : start + 16]) for start in range(0, number, 16)]


def pruner_of(model: nn.Module, method: str, head: str, given: Any = None, **arguments: Any) -> Compressor:
    config_list = [{"sparsity": 0.5, "op_types": ["default"]}, {"op_names": [head], "exclude": True}]
    config = {
        "compressor": method,
        "config_list": config_list,
        "arguments": {"round_to": 2, "compensate": False, **arguments},
    }
    return create_compressor(
        model, config, **({"dummy_input": DUMMY, "calibration": seen()} if given is None else given)
    )


def removed(pruner: Compressor) -> dict[str, tuple[int, ...]]:
    return pruner._slicing.removal.channels  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", HEADS)
def test_every_method_makes_every_network_small(name: str, method: str) -> None:
    model = trained(name)
    before, dense = measure.sizes(model, Example.from_dummy(DUMMY)), copy.deepcopy(model.state_dict())
    pruner = pruner_of(model, method, HEADS[name], samples=24)
    pruner.compress()
    masked = Example.from_dummy(digits()[0][:4]).outputs(model)
    pruner.apply_speedup()
    assert not any(module._forward_pre_hooks for module in model.modules())
    small = Example.from_dummy(digits()[0][:4]).outputs(model)
    assert relative_difference(masked, small) <= TOLERANCE
    assert measure.sizes(model, Example.from_dummy(DUMMY)).params < 0.6 * before.params
    assert torch.equal(model.get_parameter(f"{HEADS[name]}.bias"), dense[f"{HEADS[name]}.bias"])


def test_wanda_is_the_weights_that_read_a_channel_times_the_size_of_what_they_read() -> None:
    model, images = trained("mlp"), torch.cat([one for one, _ in seen()])
    pruner = pruner_of(model, "group_wanda", "fc3")
    hidden = F.relu(model.fc1(images.flatten(1)))
    score = model.fc2.weight.abs().sum(0) * hidden.square().mean(0).sqrt()
    pruner.compress()
    assert removed(pruner)["fc1"] == tuple(score.argsort()[:24].sort().values.tolist())


def test_flap_is_how_far_what_a_channel_brings_is_from_constant() -> None:
    model, images = trained("mlp"), torch.cat([one for one, _ in seen()])
    with torch.no_grad():
        model.fc1.bias[3] = 50.0  # always on, and large: a bias could stand for it
        model.fc1.weight[3] *= 0.01
    other = copy.deepcopy(model)
    hidden = F.relu(model.fc1(images.flatten(1)))
    score = hidden.var(0, correction=0) * model.fc2.weight.square().sum(0)
    gone = {}
    for one, method in ((model, "group_flap"), (other, "group_wanda")):
        pruner = pruner_of(one, method, "fc3")
        pruner.compress()
        gone[method] = removed(pruner)["fc1"]
    assert gone["group_flap"] == tuple(score.argsort()[:24].sort().values.tolist())
    assert 3 in gone["group_flap"] and 3 not in gone["group_wanda"]


def test_fisher_is_the_squared_gradient_of_each_samples_loss_by_a_factor_on_the_channel() -> None:
    model, samples = trained("mlp"), seen()
    pruner = pruner_of(
        model, "group_fisher", "fc3", {"dummy_input": DUMMY, "calibration": samples, "criterion": F.cross_entropy}
    )
    factors = torch.ones(48, 48, requires_grad=True)  # a row for each sample
    images, labels = (torch.cat([pair[place] for pair in samples]) for place in (0, 1))
    outputs = model.fc3(F.relu(model.fc2(F.relu(model.fc1(images.flatten(1))) * factors)))
    (by_factor,) = torch.autograd.grad(F.cross_entropy(outputs, labels, reduction="sum"), factors)
    score = by_factor.square().mean(0)
    pruner.compress()
    assert removed(pruner)["fc1"] == tuple(score.argsort()[:24].sort().values.tolist())


def test_layers_that_read_the_same_channel_share_its_mask() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(64, 4), nn.Linear(4, 10), nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x.flatten(1))
            return self.left(x) + self.right(x)

    torch.manual_seed(0)
    model = Branches()
    with torch.no_grad():
        model.right.weight.copy_(-model.left.weight)  # together they take nothing from any channel
        model.right.weight[:, 2] *= 0.5
        model.stem.weight[:, :] += 0.5
    found = fisher.mask_gradients(model, [(Example((seen()[0][0][:1],), {}), None)], None)
    assert float(found["left"].abs().min()) > 0
    pruner = pruner_of(model, "group_fisher", "left", {"dummy_input": DUMMY, "calibration": seen()}, round_to=1)
    del pruner
    config = {"compressor": "group_fisher", "config_list": [{"sparsity": 0.75, "op_names": ["stem"]}]}
    one = create_compressor(model, {**config, "arguments": {"round_to": 1}}, dummy_input=DUMMY, calibration=seen())
    one.compress()
    assert removed(one)["stem"] == (0, 1, 3)


def test_moments_are_those_of_all_positions() -> None:
    torch.manual_seed(0)
    conv, images = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(2), nn.Linear(16, 2)), torch.randn(5, 3, 4, 4)
    found = input_moments.moments_of(conv, [Example((images[:2],), {}), Example((images[2:],), {})])
    positions = images.movedim(1, -1).reshape(-1, 3)
    assert torch.allclose(found["0"].variance.float(), positions.var(0, correction=0), atol=1e-6)
    assert torch.allclose(found["0"].size.float(), positions.square().mean(0).sqrt(), atol=1e-6)
    assert found["2"].count == 10


@pytest.mark.parametrize("method", METHODS)
def test_in_steps_what_is_left_is_measured_again_and_equal_calls_choose_alike(method: str) -> None:
    network = "mobilenet" if method == "group_obs" else "cnn"  # whose order allows for what went before
    chosen = []
    for steps in (1, 8, 8):
        pruner = pruner_of(trained(network), method, HEADS[network], steps=steps)
        pruner.compress()
        chosen.append(removed(pruner))
    assert chosen[1] == chosen[2] and {name: len(one) for name, one in chosen[0].items()} == {
        name: len(one) for name, one in chosen[1].items()
    }
    assert chosen[0] != chosen[1], "the inputs of the layers behind have changed"


def test_without_dummy_input_the_first_call_makes_the_choice() -> None:
    chosen = []
    for given in ({"dummy_input": DUMMY, "calibration": seen()}, {"calibration": seen()}):
        model = trained("mlp")
        pruner = pruner_of(model, "group_wanda", "fc3", given)
        pruner.compress()
        model(DUMMY)
        chosen.append(removed(pruner))
    assert chosen[0] == chosen[1]


def test_what_they_need_is_asked_for_at_once() -> None:
    for method in METHODS:
        with pytest.raises(ExperimentError, match="needs calibration=") as caught:
            pruner_of(Mlp(), method, "fc3", {"dummy_input": DUMMY})
        assert caught.value.problems[0].fix.startswith("calibration: a loader of inputs")
    unlabelled = {"dummy_input": DUMMY, "calibration": [seen()[0][0]], "criterion": F.cross_entropy}
    with pytest.raises(CompressionError, match="needs labels"):
        pruner_of(Mlp(), "group_fisher", "fc3", unlabelled).compress()
    with pytest.raises(CompressionError, match="yields no inputs"):
        pruner_of(Mlp(), "group_flap", "fc3", {"dummy_input": DUMMY, "calibration": []}).compress()
    with pytest.raises(CompressionError, match="cannot be called with one sample"):  # rows of which each is no batch
        pruner_of(Mlp(), "group_fisher", "fc3", {"dummy_input": DUMMY, "calibration": DUMMY.flatten(1)}).compress()
    indices = {"dummy_input": DUMMY, "calibration": seen(), "criterion": lambda outputs, _: outputs.argmax(1)}
    with pytest.raises(CompressionError, match="no gradient of the loss"):
        pruner_of(Mlp(), "group_fisher", "fc3", indices).compress()
    with pytest.raises(ExperimentError, match='"samples" is a whole number'):
        pruner_of(Mlp(), "group_flap", "fc3", samples=0).compress()


def test_inspection_tells_that_calibration_is_missing(tmp_path: Path) -> None:
    config = {"compressor": "group_flap", "config_list": [{"sparsity": 0.5, "op_names": ["fc1"]}], "arguments": {}}
    sent: list[Any] = []
    given = {**config, "arguments": {"round_to": 2}}
    context.enter(context.Trial("inspect", tmp_path, sent.append, analysis={"rehearse": given}))
    try:
        with pytest.raises(context.EndOfInspection):
            create_compressor(Mlp(), config, dummy_input=DUMMY)
    finally:
        context.enter(None)
    (refused,) = [message for message in sent if message["type"] == "refused"]
    assert refused["problems"][0]["what"] == "group_flap needs calibration="
