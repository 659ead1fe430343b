"""Torch-Pruning's methods on all networks: masked equals sliced equals reloaded, or one error before any training."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raycompress
from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.catalog import find
from raycompress.catalog.rounding import removable
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.pruning.refusals import about_whole_layers
from raycompress.errors import CompressionError, ExperimentError
from tests.support.models.networks import DUMMY, NETWORKS, Mlp, ResNet, digits, train, trained

EXAMPLE = Example.from_dummy(DUMMY)
METHODS = ["group_l1", "group_l2", "group_taylor", "group_fpgm", "group_lamp", "group_hessian", "bn_scale", "random"]
GRADIENTS = ("group_taylor", "group_hessian")
HEADS = {
    "cnn": "fc2",
    "resnet": "fc",
    "mobilenet": "fc",
    "vgg": "classifier.3",
    "vit": "head",
    "torch_vit": "head",
    "mlp": "fc3",
    "sequences": "fc2",
}
WITHOUT_BATCH_NORM = ("cnn", "vit", "torch_vit", "mlp")


def pruner_of(
    model: nn.Module,
    method: str,
    entries: list[dict[str, Any]],
    *,
    dummy: bool = True,
    more: Any = None,
    **arguments: Any,
) -> Compressor:
    config = {"compressor": method, "config_list": entries, "arguments": arguments}
    return create_compressor(model, config, **({"dummy_input": DUMMY} if dummy else {}), **(more or {}))


def everything(name: str, method: str = "group_l2", sparsity: float = 0.5) -> list[dict[str, Any]]:
    """All layers that the method takes, but for the one that makes the outputs."""
    entry = find(method)
    assert entry is not None
    present = {type(module).__name__ for module in NETWORKS[name]().modules()}
    types = [kind for kind in entry.layer_types if kind in present] or ["default"]
    return [{"sparsity": sparsity, "op_types": types}, {"op_names": [HEADS[name]], "exclude": True}]


def removed(pruner: Compressor) -> dict[str, tuple[int, ...]]:
    return pruner._slicing.removal.channels  # type: ignore[attr-defined, no-any-return]


def differs(one: nn.Module, other: nn.Module) -> float:
    inputs = [EXAMPLE, EXAMPLE.random(7), EXAMPLE.random(8)]
    return max(relative_difference(example.outputs(one), example.outputs(other)) for example in inputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_on_every_network(name: str, method: str, tmp_path: Path) -> None:
    model = trained(name, 10)
    entries = everything(name, method)
    if method == "bn_scale" and name in WITHOUT_BATCH_NORM:
        with pytest.raises(ExperimentError, match="the entry matches no layer"):
            pruner_of(model, method, entries)
        return
    arguments: dict[str, Any] = {"round_to": 2} if name == "torch_vit" else {}  # heads of 8 channels
    if method in GRADIENTS:
        arguments["statistics_batch_num"] = 2
    names, before = list(model.state_dict()), measure.sizes(model, EXAMPLE)
    pruner = pruner_of(model, method, entries, **arguments)
    assert pruner.compress() is model
    train(model, 3)
    masked = copy.deepcopy(model)
    assert pruner.apply_speedup() is model
    assert differs(masked, model) <= TOLERANCE
    after = measure.sizes(model, EXAMPLE)
    assert after.params < 0.6 * before.params
    assert after.flops < 0.6 * before.flops
    assert list(model.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    train(model, 1)  # the small model trains on
    pruner.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    torch.manual_seed(5)
    reloaded = raycompress.load(str(tmp_path / "bundle"), NETWORKS[name]())
    assert differs(model, reloaded) == 0


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("method", ["group_l2", "group_taylor"])
def test_without_dummy_input_the_first_call_makes_the_choice(name: str, method: str) -> None:
    model = trained(name, 5)
    twin = copy.deepcopy(model)
    arguments = {"statistics_batch_num": 2} if method == "group_taylor" else {}
    pruners = []
    for one, dummy in ((model, False), (twin, True)):
        pruner = pruner_of(one, method, everything(name), dummy=dummy, **arguments)
        pruner.compress()
        train(one, 3)
        pruners.append(pruner)
    assert removed(pruners[0]) == removed(pruners[1])
    masked = copy.deepcopy(model)
    pruners[0].apply_speedup()
    assert differs(masked, model) <= TOLERANCE


# ---- which channels, and how many


@pytest.mark.parametrize(
    ("channels", "sparsity", "round_to", "gone"),
    [
        (12, 0.5, 1, 6),
        (10, 0.9, 1, 9),
        (16, 0.5, 8, 8),
        (12, 0.5, 8, 4),  # 6 would stay, and 8 is nearer than 0 and 12
        (24, 0.5, 8, 8),  # of 8 and 16, which are as near, the more stay
        (16, 0.99, 8, 8),  # none at all never stay
        (20, 0.05, 8, 0),
        (20, 0.2, 8, 4),
        (8, 0.9, 8, 0),
        (6, 0.5, 8, 0),
        (16, 0.01, 1, 0),
    ],
)
def test_rounding(channels: int, sparsity: float, round_to: int, gone: int) -> None:
    assert removable(channels, sparsity, round_to) == gone


DEAD = (1, 2, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 42, 43, 47)


def with_dead_channels() -> Mlp:
    """Channels of large weights whose outputs nobody reads: only the loss can tell that they are useless."""
    torch.manual_seed(3)
    model = Mlp()
    train(model, 10)
    with torch.no_grad():
        model.fc1.weight[list(DEAD)] *= 20
        model.zero_grad()
        model.fc1.bias.fill_(2)  # so that all are active
        model.fc2.weight[:, list(DEAD)] = 0
    return model


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any, epoch: int) -> None:
    images, labels = digits()
    for start in range(0, 192, 64):
        optimizer.zero_grad()
        criterion(model(images[start : start + 64]), labels[start : start + 64]).backward()
        optimizer.step()


FIRST = [{"sparsity": 1 / 3, "op_names": ["fc1"]}]


@pytest.mark.parametrize("method", [*GRADIENTS, "group_l2", "random"])
def test_the_gradients_tell_which_channels_nobody_needs(method: str) -> None:
    model = with_dead_channels()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    more = {"trainer": trainer, "criterion": nn.CrossEntropyLoss()} if method in GRADIENTS else {}
    pruner = pruner_of(model, method, FIRST, more=more)
    pruner.compress()
    assert (removed(pruner)["fc1"] == DEAD) is (method in GRADIENTS)
    if method in GRADIENTS:
        assert all(parameter.grad is None for parameter in model.parameters())
        kept = [channel for channel in range(48) if channel not in DEAD]
        assert torch.equal(model.fc1.weight[kept], before["fc1.weight"][kept])
        assert differs(with_dead_channels(), model) < 1e-6  # nothing that counts was lost


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients_gathered_while_the_script_trains(method: str) -> None:
    model = with_dead_channels()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    pruner = pruner_of(model, method, FIRST, dummy=False, statistics_batch_num=4)
    pruner.compress()
    train(model, 3, optimizer=optimizer)
    with pytest.raises(CompressionError, match="gradients of 3 of 4 batches were seen"):
        pruner.apply_speedup()
    assert float(model.fc1.weight[list(DEAD)].abs().min()) > 0
    train(model, 1, optimizer=optimizer)
    assert removed(pruner)["fc1"] == DEAD
    assert not model.fc1.weight[list(DEAD)].any()
    train(model, 2)
    pruner.apply_speedup()
    assert model.fc1.out_features == 32


def test_a_trainer_that_does_not_train_and_layers_without_gradients_are_errors() -> None:
    more = {"trainer": lambda *_: None, "criterion": F.cross_entropy}
    with pytest.raises(CompressionError, match="trainer called no step of the optimizer"):
        pruner_of(Mlp(), "group_taylor", FIRST, more=more).compress()
    model = Mlp()
    model.fc1.requires_grad_(False)
    with pytest.raises(CompressionError, match='no gradient reached "fc1" in 10 batches'):
        pruner_of(model, "group_hessian", FIRST, more={"trainer": trainer, "criterion": F.cross_entropy}).compress()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_remove_the_same_channels_where_nothing_changes_between_them(steps: int) -> None:
    torch.manual_seed(1)
    model = Mlp()
    pruner = pruner_of(model, "group_l1", [{"sparsity": 0.75, "op_names": ["fc1"]}], steps=steps, round_to=4)
    pruner.compress()
    weights = Mlp()
    torch.manual_seed(1)
    weights = Mlp()
    importance = weights.fc1.weight.abs().sum(1) + weights.fc2.weight.abs().sum(0)
    assert removed(pruner)["fc1"] == tuple(sorted(importance.argsort()[:36].tolist()))


FAINT = range(0, 64, 2)
LAYERS = ("blocks.0.attn.qkv", "blocks.0.fc1", "blocks.1.attn.qkv", "blocks.1.fc1")


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        ({}, (24, 16, 24, 16)),  # int(0.25 * 4) heads of 24 channels, int(0.25 * 64)
        ({"isomorphic": True}, (None, 32, None, 0)),  # attention with attention, Linear with Linear
        ({"isomorphic": True, "steps": 4}, (None, 32, None, 0)),
        ({"global": True}, (None, None, None, None)),
        ({"global": True, "steps": 3}, (None, None, None, None)),
    ],
)
def test_what_is_compared_with_what(arguments: dict[str, Any], counts: tuple[int | None, ...]) -> None:
    model = trained("vit", 0)
    with torch.no_grad():
        model.blocks[0].fc1.weight[FAINT] *= 1e-3  # type: ignore[index, union-attr, operator]
        model.blocks[0].fc2.weight[:, FAINT] *= 1e-3  # type: ignore[index, union-attr, operator]
    pruner = pruner_of(model, "group_l2", [{"sparsity": 0.25, "op_names": list(LAYERS)}], round_to=1, **arguments)
    pruner.compress()
    found = [len(removed(pruner)[name]) for name in LAYERS]
    assert all(count in (None, number) for count, number in zip(counts, found, strict=True)), found
    if arguments:
        assert set(FAINT) <= set(removed(pruner)["blocks.0.fc1"])
        assert 80 - 24 < sum(found) <= 80  # a quarter of 320 channels, and heads go as a whole
    if "isomorphic" in arguments:
        assert found[0] + found[2] == 48


def test_repeated_blocks_stay_alike_where_that_is_asked_for() -> None:
    for arguments in ({"global": True}, {"isomorphic": True, "steps": 2}):
        model = trained("vit", 0)
        with torch.no_grad():
            model.blocks[0].fc1.weight[FAINT] *= 1e-3  # type: ignore[index, union-attr, operator]
        entries = [{"sparsity": 0.25, "op_names": list(LAYERS)}]
        pruner = pruner_of(model, "group_l2", entries, round_to=1, uniform=True, **arguments)
        pruner.compress()
        attention, fc1, *others = (len(removed(pruner)[name]) for name in LAYERS)
        assert [attention, fc1] == others
        assert 0 < attention + fc1 <= 40


@pytest.mark.parametrize(
    ("config_list", "why"),
    [
        ([{"sparsity": 0.25, "op_names": [LAYERS[1]]}], "blocks.1.fc1 would keep all channels"),
        (
            [{"sparsity": 0.25, "op_names": [LAYERS[1]]}, {"sparsity": 0.5, "op_names": [LAYERS[3]]}],
            "asks for 0.25 of blocks.0.fc1, 0.5 of blocks.1.fc1",
        ),
    ],
)
def test_blocks_that_are_asked_to_differ_cannot_stay_alike(config_list: list[dict[str, Any]], why: str) -> None:
    pruner = pruner_of(trained("vit", 0), "group_l2", config_list, round_to=1, uniform=True)
    with pytest.raises(CompressionError, match=re.escape(why)) as caught:
        pruner.compress()
    (problem,) = caught.value.problems
    assert problem.where == "config_list[0]"
    assert problem.fix == "one sparsity for blocks.0.fc1, blocks.1.fc1, or leave uniform out"


def test_what_stays_is_a_multiple_of_round_to() -> None:
    for arguments in ({}, {"global": True}, {"global": True, "steps": 3}, {"isomorphic": True}, {"steps": 3}):
        pruner = pruner_of(
            trained("resnet", 3), "group_l1", everything("resnet", sparsity=0.4), round_to=4, **arguments
        )
        pruner.compress()
        counts = pruner._slicing.removal.counts()  # type: ignore[attr-defined]
        assert all((of - gone) % 4 == 0 and of - gone >= 4 for gone, of in counts.values())
        assert any(gone for gone, _ in counts.values())


def test_chance_is_repeatable_and_leaves_the_scripts_own_alone() -> None:
    chosen = []
    for seed in (0, 0, 1):
        torch.manual_seed(9)
        pruner = pruner_of(trained("mlp", 0), "random", FIRST, seed=seed)
        state = torch.get_rng_state()
        pruner.compress()
        assert torch.equal(state, torch.get_rng_state())
        chosen.append(removed(pruner)["fc1"])
    assert chosen[0] == chosen[1] != chosen[2]


def test_one_that_rounds_to_nothing_is_recorded() -> None:
    entries = [{"sparsity": 0.5, "op_names": ["fc1"]}, {"sparsity": 0.1, "op_names": ["fc2"]}]
    pruner = pruner_of(Mlp(), "group_l2", entries)
    pruner.compress()
    pruner.apply_speedup()
    assert pruner._slicing.removal.counts() == {"fc1": (24, 48), "fc2": (0, 32)}  # type: ignore[attr-defined]


# ---- what cannot be pruned


@pytest.mark.parametrize("how", ["left out", "excluded"])
@pytest.mark.parametrize(("name", "member"), [("resnet", "layer1.0.conv2"), ("vit", "blocks.0.fc2"), ("vit", "patch")])
def test_a_part_of_a_tied_group_is_an_error_whose_fix_works(name: str, member: str, how: str) -> None:
    model = trained(name, 0)
    entries = [{"sparsity": 0.5, "op_names": [member]}]
    if how == "excluded":
        entries = [*everything(name), {"op_names": [member], "exclude": True}]  # type: ignore[list-item]
    with pytest.raises(CompressionError, match="are tied to those of") as caught:
        pruner_of(model, "group_l2", entries).compress()
    found = re.search(r"add (\{.*?\})", caught.value.problems[0].fix)
    assert found is not None
    fixed = json.loads(found[1])
    assert (fixed["op_names"] == [member]) is (how == "excluded")
    pruner = pruner_of(model, "group_l2", [*entries, fixed])
    pruner.compress()
    assert len({len(removed(pruner)[one]) for one in (member, *fixed["op_names"])}) == 1
    assert removed(pruner)[member]


def test_a_layer_that_only_passes_channels_on_follows_the_one_before_it() -> None:
    entries = [{"sparsity": 0.5, "op_names": ["depthwise"]}]
    with pytest.raises(CompressionError, match='of "depthwise" are tied to those of "expand", which keep theirs'):
        pruner_of(trained("mobilenet", 0), "group_l2", entries).compress()
    for named in (["expand"], ["expand", "depthwise"]):
        pruner = pruner_of(trained("mobilenet", 0), "group_l2", [{"sparsity": 0.5, "op_names": named}])
        pruner.compress()
        assert all(len(removed(pruner)[name]) == 8 for name in named)
        pruner.apply_speedup()
        assert pruner.model.depthwise.groups == 16


def test_the_least_of_tied_layers_rules() -> None:
    entries = [*everything("resnet", sparsity=0.75), {"sparsity": 0.5, "op_names": ["layer1.0.conv2"]}]
    pruner = pruner_of(trained("resnet", 0), "group_l2", entries, round_to=1)
    pruner.compress()
    gone = {name: len(channels) for name, channels in removed(pruner).items()}
    assert (gone["conv1"], gone["layer1.0.conv2"], gone["layer1.0.conv1"]) == (8, 8, 12)


def test_default_leaves_out_layers_too_narrow_for_round_to() -> None:
    torch.manual_seed(0)
    squeeze = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.ReLU()]
    model = nn.Sequential(*squeeze, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    pruner = pruner_of(copy.deepcopy(model), "group_l1", [{"sparsity": 0.5, "op_types": ["default"]}])
    pruner.compress()
    assert {name: len(gone) for name, gone in removed(pruner).items()} == {"0": 8, "2": 0, "4": 8}
    notes = about_whole_layers(pruner._slicing)  # type: ignore[attr-defined]
    assert '"default" left out 2: it has 4 channels, and what stays is a multiple of round_to, 8' in notes
    assert pruner.apply_speedup()[2].out_channels == 4
    with pytest.raises(CompressionError, match='"2" can lose nothing: it has 4 channels'):
        pruner_of(model, "group_l1", [{"sparsity": 0.5, "op_types": ["Conv2d"]}]).compress()


class Split(nn.Module):
    """Two halves of a layer go to different layers; all weights of the first half are small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(1, 32, 3), nn.Linear(16, 10), nn.Linear(16, 10)
        self.first_width, self.second_width = 16, 16
        self.conv.weight.data[:16] *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.conv(x).mean([2, 3]).split([self.first_width, self.second_width], dim=1)
        return self.one(one) + self.two(two)  # type: ignore[no-any-return]


@pytest.mark.parametrize("steps", [1, 3])
def test_no_part_of_a_layer_is_left_empty(steps: int) -> None:
    torch.manual_seed(0)
    pruner = pruner_of(Split(), "group_l1", [{"sparsity": 0.5, "op_names": ["conv"]}], steps=steps)
    pruner.compress()
    gone = removed(pruner)["conv"]
    assert len(gone) == 16 and sum(channel < 16 for channel in gone) == 15
    small = pruner.apply_speedup()
    assert (small.one.in_features, small.first_width, small.second_width) == (1, 1, 15)


class HalfFixed(nn.Module):
    """Half of what `two` makes is added to what `one` makes, and the other half meets a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(64, 16), nn.Linear(64, 32), nn.Linear(16, 10)
        self.width = 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.two(x.flatten(1)).split([self.width, 16], dim=1)
        left = left + self.one(x.flatten(1))
        return self.head(left) * right.softmax(1).amax(1, True)  # type: ignore[no-any-return]


def test_a_layer_may_keep_some_channels_for_good_and_lose_others_with_a_layer_before_it() -> None:
    torch.manual_seed(0)
    pruner = pruner_of(HalfFixed(), "group_l1", [{"sparsity": 0.5, "op_names": ["one", "two"]}])
    pruner.compress()
    assert {name: len(gone) for name, gone in removed(pruner).items()} == {"one": 8, "two": 8}
    assert pruner.apply_speedup().two.out_features == 24


class Flat(nn.Module):
    """A norm over channels and positions at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.LayerNorm((16, 8, 8))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).mean([2, 3]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "entries", "arguments", "said"),
    [
        (Mlp, [{"sparsity": 0.5, "op_types": ["Linear"]}], {}, '"fc3" cannot be pruned: its channels are the model\'s'),
        (
            Flat,
            [{"sparsity": 0.5, "op_names": ["conv"]}],
            {},
            'meet native_layer_norm in "norm" at test_torch_pruning.py:',
        ),
        (Mlp, FIRST, {"round_to": 48}, "it has 48 channels, and what stays is a multiple of round_to, 48"),
        (Mlp, FIRST, {"steps": 0}, '"steps" is a whole number from 1 on, not 0'),
        (Mlp, FIRST, {"round_to": 2.5}, '"round_to" is a whole number from 1 on, not 2.5'),
        (ResNet, [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}], {}, "group_l2 takes Conv1d, Conv2d"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_changes(
    kind: type[nn.Module], entries: list[Any], arguments: dict[str, Any], said: str
) -> None:
    model = kind()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises((CompressionError, ExperimentError)) as caught:
        pruner_of(model, "group_l2", entries, **arguments).compress()
    assert said in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_filter_pruner_may_not_prune_layers_of_other_types_on_its_own() -> None:
    pruner = create_compressor(
        trained("vit", 0),
        {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]},
        dummy_input=DUMMY,
    )
    with pytest.raises(CompressionError, match=r'tied to "blocks\.0\.attn\.proj"') as caught:
        pruner.compress()
    assert '"group_l1" does so for layers of all types' in str(caught.value)
