"""Masked and sliced are the same function, on every kind of network, and masks hold while the script trains."""

from __future__ import annotations

import copy
import gc
import json
import re

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure.axes.parting import parting
from raycompress.errors import CompressionError, SpeedupError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, MODELS, Cnn, train, trained

EXAMPLE = Example.from_dummy(DUMMY)
BATCH_NORMS = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
CELLS = [
    *[(name, compressor, False) for name in MODELS for compressor in ("l1_filter", "l2_filter", "fpgm")],
    *[(name, "l1_filter", True) for name in MODELS],
    *[(name, "slim", False) for name in ("resnet", "mobilenet", "vgg")],
]


def compressor_of(model: nn.Module, name: str, aware: bool = False, **more: object) -> Compressor:
    config_list = BATCH_NORMS if name == "slim" else CONVOLUTIONS
    options = {"dependency_aware": True, "dummy_input": DUMMY} if aware else {}
    return create_compressor(model, {"compressor": name, "config_list": config_list}, **options, **more)


@pytest.mark.parametrize(("name", "compressor", "aware"), CELLS)
def test_masked_equals_sliced(name: str, compressor: str, aware: bool, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(name)
    names, kind = list(model.state_dict()), type(model)
    before = measure.sizes(model, EXAMPLE)
    pruner = compressor_of(model, compressor, aware)
    assert pruner.compress() is model
    train(model, 5)
    masked = copy.deepcopy(model)
    assert pruner.apply_speedup(DUMMY) is model
    after = measure.sizes(model, EXAMPLE)
    inputs = [EXAMPLE, EXAMPLE.random(7), EXAMPLE.random(8)]
    difference = max(relative_difference(one.outputs(masked), one.outputs(model)) for one in inputs)
    params, flops = after.params / before.params, after.flops / before.flops
    with capsys.disabled():
        aware_mark = " (dependency-aware)" if aware else ""
        print(f"\n{name:10} {compressor}{aware_mark}: {difference:.1e} params {params:.3f} flops {flops:.3f}", end="")
    assert difference <= TOLERANCE
    assert params < 0.5
    assert flops < 0.5
    assert after.size_bytes < before.size_bytes
    assert list(model.state_dict()) == names
    assert type(model) is kind
    train(model, 2)  # the small model trains on


def test_tied_layers_agree_only_where_asked_to() -> None:
    left = {}
    for aware in (False, True):
        model = trained("resnet")
        pruner = compressor_of(model, "l1_filter", aware)
        pruner.compress()
        left[aware] = measure.parameters(pruner.apply_speedup(DUMMY))
    assert left[True] < 0.7 * left[False]


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vgg"])
def test_batch_norm_stays_masked_while_the_script_trains(name: str) -> None:
    model = trained(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    train(model, 2, optimizer=optimizer)  # momentum that moves weights on, masked or not
    pruner = compressor_of(model, "l1_filter")
    pruner.compress()
    train(model, 6, optimizer=optimizer)
    EXAMPLE.outputs(model)
    held = pruner._masks.kept()  # type: ignore[attr-defined]
    norms = [key for key in held if isinstance(model.get_submodule(key.rpartition(".")[0]), nn.BatchNorm2d)]
    assert {key.rpartition(".")[2] for key in norms} == {"weight", "bias"}
    state = model.state_dict()
    for key, kept in held.items():
        assert (state[key][kept == 0] == 0).all(), key
        assert (state[key][kept == 1] != 0).any(), key


def test_the_input_is_learnt_from_the_first_call_even_without_gradients() -> None:
    model = trained("vgg").train()
    pruner = compressor_of(model, "l1_filter")
    pruner.compress()
    statistics = model.features[1].running_mean.clone()  # type: ignore[index, union-attr, operator]
    model.features.eval()  # type: ignore[operator, union-attr]
    random = torch.get_rng_state()
    with torch.inference_mode():
        model(DUMMY.repeat(3, 1, 1, 1))
    flags = (model.training, model.features.training, model.classifier.training)  # type: ignore[union-attr]
    assert flags == (True, False, True)
    assert torch.equal(statistics, model.features[1].running_mean)  # type: ignore[index, arg-type]
    torch.set_rng_state(random)
    train(model, 2)
    assert measure.parameters(pruner.apply_speedup()) < measure.parameters(trained("vgg", 0)) / 2
    assert pruner.example is not None
    assert pruner.example.shapes == ((1, 1, 8, 8),)


def test_level_masks_single_weights_and_cannot_slice() -> None:
    model = trained("cnn")
    pruner = create_compressor(
        model, {"compressor": "level", "config_list": [{"sparsity": 0.8, "op_types": ["default"]}]}
    )
    pruner.compress()
    train(model, 4)
    EXAMPLE.outputs(model)
    for module in (model.conv1, model.conv2, model.fc1, model.fc2):
        weight = module.weight  # type: ignore[union-attr]
        assert int((weight == 0).sum()) >= int(0.8 * weight.numel())  # type: ignore[union-attr, operator, arg-type]
    with pytest.raises(SpeedupError, match="masks single weights, which cannot shrink a model"):
        pruner.apply_speedup(DUMMY)


def test_slim_trains_with_nnis_convention_and_leaves_no_trace() -> None:
    model = trained("vgg")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    epochs = []

    def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
        epochs.append(epoch)
        train(model, 3, optimizer=optimizer)

    config = {"compressor": "slim", "config_list": BATCH_NORMS, "arguments": {"sparsifying_training_epochs": 2}}
    pruner = create_compressor(model, config, trainer=trainer, criterion=nn.CrossEntropyLoss(), optimizer=optimizer)
    pruner.compress()
    assert epochs == [0, 1]
    assert "step" not in vars(optimizer)
    assert {type(module).__module__.split(".")[0] for module in model.modules()} <= {"torch", "tests"}
    pruner.apply_speedup(DUMMY)


def test_zero_is_recorded_and_alone_is_no_speedup() -> None:
    model = trained("cnn")
    config_list = [{"sparsity": 0.5, "op_names": ["conv1"]}, {"sparsity": 0.01, "op_names": ["conv2"]}]
    pruner = create_compressor(model, {"compressor": "l1_filter", "config_list": config_list})
    pruner.compress()
    pruner.apply_speedup(DUMMY)
    assert pruner._slicing.removal.counts() == {"conv1": (6, 12), "conv2": (0, 16)}  # type: ignore[attr-defined]
    nothing = create_compressor(trained("cnn"), {"compressor": "l1_filter", "config_list": config_list[1:]})
    nothing.compress()
    with pytest.raises(SpeedupError, match="no parameter would fall"):
        nothing.apply_speedup(DUMMY)


def test_one_member_of_a_tied_group_is_an_error_that_names_the_others() -> None:
    model = trained("resnet")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config_list = [{"sparsity": 0.5, "op_names": ["layer1.0.conv2"]}]
    pruner = create_compressor(model, {"compressor": "l1_filter", "config_list": config_list}, dummy_input=DUMMY)
    with pytest.raises(CompressionError) as caught:
        pruner.compress()
    assert '"layer1.0.conv2" was to lose 8 of 16 channels and loses none' in str(caught.value)
    assert '"conv1"' in str(caught.value)
    assert '"layer1.1.conv2"' in str(caught.value)
    assert "dependency_aware" in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class ConvolutionalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x))).mean([2, 3])


def test_the_output_layer_is_never_pruned() -> None:
    pruner = create_compressor(
        ConvolutionalHead(), {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, dummy_input=DUMMY
    )
    with pytest.raises(CompressionError, match='"head" cannot be pruned: its channels are the model\'s outputs'):
        pruner.compress()


class Softmaxed(nn.Module):
    """A softmax over channels: removing a channel changes all the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.softmax(self.conv1(x), dim=1)
        return self.fc(torch.relu(self.conv2(x)).mean([2, 3]))


def test_a_softmax_over_channels_is_named_before_anything_is_pruned() -> None:
    config_list = [{"sparsity": 0.5, "op_names": ["conv1"]}]
    pruner = create_compressor(Softmaxed(), {"compressor": "l1_filter", "config_list": config_list})
    model = pruner.compress()
    with pytest.raises(CompressionError, match='"conv1" cannot be pruned: its channels meet _softmax'):
        model(DUMMY)


class Noisy(Softmaxed):
    """It draws as many random numbers as there are channels, in eval mode as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.fc(torch.relu(self.conv2(x + torch.rand_like(x))).mean([2, 3]))


def test_a_mismatch_is_an_error_that_names_where_it_begins() -> None:
    torch.manual_seed(0)
    config_list = [{"sparsity": 0.5, "op_names": ["conv1"]}]
    pruner = create_compressor(Noisy(), {"compressor": "l1_filter", "config_list": config_list})
    model = pruner.compress()
    with pytest.raises(SpeedupError, match="the sliced model is not the masked one") as caught:
        model(DUMMY)
    assert re.search(r"from rand_like at test_pruning\.py:\d+ on", caught.value.problems[0].where)


class Shifted(nn.Module):
    """Its channels are scaled by how many they are, behind a sigmoid of which nothing is left either way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3)
        self.conv2 = nn.Conv2d(12, 12, 3)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(torch.sigmoid(self.conv1(x)))
        return self.fc(x.mean([2, 3]) * len(x[0]))


def test_where_models_part_is_found_behind_a_sparse_tensor() -> None:
    class Sparse(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to_sparse().to_dense() * self.by

    found = parting(Sparse(1.0), Sparse(2.0), Example((torch.ones(2, 4),), {}))
    assert re.fullmatch(r"from mul at test_pruning\.py:\d+ on", found)


def test_a_mismatch_is_where_the_outputs_begin_to_differ() -> None:
    torch.manual_seed(0)
    config_list = [{"sparsity": 0.5, "op_names": ["conv1", "conv2"]}]
    pruner = create_compressor(Shifted(), {"compressor": "l1_filter", "config_list": config_list}, dummy_input=DUMMY)
    with pytest.raises(SpeedupError, match=r"from mul at test_pruning\.py:\d+ on"):
        pruner.compress()


class FixedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).view(-1, 8, 64).flatten(1))


def test_a_size_in_the_source_is_named_with_its_line() -> None:
    pruner = create_compressor(FixedView(), {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, dummy_input=DUMMY)
    with pytest.raises(CompressionError, match=r"the size 8 in view at test_pruning\.py:\d+, which cannot follow"):
        pruner.compress()


class Counting(FixedView):
    """It counts the channels in a way that no operation shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if len(x[0]) != 8:
            raise ValueError("eight channels are wanted")
        return self.fc(x.flatten(1))


def test_a_model_that_cannot_run_sliced_is_an_error() -> None:
    pruner = create_compressor(Counting(), {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, dummy_input=DUMMY)
    with pytest.raises(SpeedupError, match="the sliced model cannot run: eight channels are wanted") as caught:
        pruner.compress()
    assert re.fullmatch(r"in forward at test_pruning\.py:\d+", caught.value.problems[0].where)


@pytest.mark.parametrize("is_given", [True, False])
def test_an_optimizer_goes_on_with_the_small_model_whether_it_was_given_or_not(is_given: bool) -> None:
    model = trained("cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pruner = compressor_of(model, "l1_filter", **({"optimizer": optimizer} if is_given else {}))
    pruner.compress()
    train(model, 3, optimizer=optimizer)
    pruner.apply_speedup()
    weight = model.conv1.weight.clone()  # type: ignore[union-attr, operator]
    train(model, 2, optimizer=optimizer)
    assert not torch.equal(weight, model.conv1.weight)  # type: ignore[union-attr, arg-type]


def test_an_optimizer_that_cannot_be_found_is_refused() -> None:
    model = trained("cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = compressor_of(model, "l1_filter", dummy_input=DUMMY)
    pruner.compress()
    gc.freeze()
    try:
        pruner.apply_speedup()
    finally:
        gc.unfreeze()
    with pytest.raises(CompressionError, match="made before apply_speedup"):
        train(model, 1, optimizer=optimizer)


def test_copies_of_a_masked_model_are_the_users_own() -> None:
    model = Cnn()
    pruner = compressor_of(model, "l1_filter")
    pruner.compress()
    early = copy.deepcopy(model)
    assert early(DUMMY).shape == (1, 10)  # the copy's hook does nothing
    assert pruner.example is None
    model(DUMMY)
    late = copy.deepcopy(model)
    train(late, 2)
    EXAMPLE.outputs(late)
    for key, kept in pruner._masks.kept().items():  # type: ignore[attr-defined]
        assert (late.state_dict()[key][kept == 0] == 0).all()


def test_flops_and_parameters_are_counted_before_and_after() -> None:
    model = trained("cnn")
    pruner = compressor_of(model, "l1_filter")
    flops, params, table = pruner.count_flops_params((1, 1, 8, 8))
    # 3x3 convolutions on 8x8 and 4x4, two linear layers
    assert flops == 64 * 12 * 9 + 16 * 16 * 12 * 9 + 64 * 32 + 32 * 10
    assert params == sum(parameter.numel() for parameter in model.parameters())
    assert {row["name"]: row["weight_shape"] for row in table}["conv2"] == (16, 12, 3, 3)
    pruner.compress()
    pruner.apply_speedup(DUMMY)
    flops, params, table = pruner.count_flops_params((1, 1, 8, 8))
    assert flops == 64 * 6 * 9 + 16 * 8 * 6 * 9 + 32 * 32 + 32 * 10
    assert sum(row["params"] for row in table) == params


class TwoHeads(nn.Module):
    """A network with two heads, and a layer that no input reaches."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.inner, self.head, self.map = nn.Linear(16, 32), nn.Linear(32, 4), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.inner(x.mean((2, 3))))), self.map(x)


@pytest.mark.parametrize("name", ["group_l1", "l1_filter"])
def test_default_leaves_out_what_can_lose_no_channel(name, tmp_path):
    model, example = TwoHeads(), torch.randn(2, 3, 8, 8)
    config = {"compressor": name, "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    compressor = create_compressor(model, config, dummy_input=example)
    compressor.compress()
    small = compressor.apply_speedup()
    assert [small.first.out_channels, small.map.out_channels, small.head.out_features] == [8, 2, 4]
    assert small.unused.out_channels == 16
    assert small.inner.out_features == (16 if name == "group_l1" else 32)
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    notes = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["notes"]
    assert notes == [
        '"default" left out unused: it takes no part in the forward pass',
        f'"default" left out {"head, map" if name == "group_l1" else "map"}: its channels are the model\'s outputs',
    ]


@pytest.mark.parametrize("name", ["unused", "map"])
def test_what_can_lose_no_channel_is_refused_by_name(name):
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": [name]}]}
    with pytest.raises(CompressionError, match=f'"{name}"'):
        create_compressor(TwoHeads(), config, dummy_input=torch.randn(2, 3, 8, 8)).compress()
