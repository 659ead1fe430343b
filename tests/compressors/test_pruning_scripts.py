"""What scripts do around pruning: mixed precision, several compressors in a row, padding masks, wrong inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import raycompress
from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import relative_difference
from raycompress.errors import CompressionError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, digits, train, trained


def convolutions(model: nn.Module, names: list[str], sparsity: float = 0.5, **more: Any) -> Compressor:
    entry = {"sparsity": sparsity, "op_types": ["Conv2d"], "op_names": names}
    return create_compressor(model, {"compressor": "l1_filter", "config_list": [entry]}, **more)


def linears(model: nn.Module, name: str, dummy: Any, **arguments: Any) -> Compressor:
    config_list = [{"sparsity": 0.5, "op_types": ["Linear"]}, {"op_names": ["head"], "exclude": True}]
    config = {"compressor": name, "config_list": config_list, "arguments": arguments}
    return create_compressor(model, config, dummy_input=dummy)


@pytest.mark.parametrize("early", [True, False])
def test_an_evaluation_in_autocast_sees_the_masks(early: bool) -> None:
    model, images = trained("cnn"), digits()[0][:64]
    pruner = create_compressor(
        model, {"compressor": "l1_filter", "config_list": CONVOLUTIONS}, **({"dummy_input": DUMMY} if early else {})
    )
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        if early:
            model(images)  # torch keeps the casts of these weights until the block ends
        pruner.compress()
        first = model(images)
        second = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        masked = model(images)
    assert torch.equal(first, masked)
    assert torch.equal(second, masked)


def test_a_model_that_was_sliced_twice_loads_into_a_fresh_instance(tmp_path: Path) -> None:
    model = trained("cnn")
    pruner = convolutions(model, ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    pruner.apply_speedup()
    pruner.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "first"))
    loaded = raycompress.load(tmp_path / "first", Cnn())
    for one in (model, loaded):  # in the same process, and as another would go on
        pruner = convolutions(one, ["conv2"], dummy_input=DUMMY)
        pruner.compress()
        train(one, 2)
        pruner.apply_speedup()
        pruner.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "second"))
        again = raycompress.load(tmp_path / "second", Cnn())
        assert (again.conv1.out_channels, again.conv2.out_channels) == (6, 8)
        assert torch.equal(again.eval()(DUMMY), one.eval()(DUMMY))


def test_masks_on_a_model_that_was_sliced_load_into_a_fresh_instance(tmp_path: Path) -> None:
    model = trained("cnn")
    pruner = convolutions(model, ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    pruner.apply_speedup()
    level = create_compressor(
        model, {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}, dummy_input=DUMMY
    )
    level.compress()
    level.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    loaded = raycompress.load(tmp_path / "bundle", Cnn())
    assert torch.equal(loaded.eval()(DUMMY), model.eval()(DUMMY))


def test_the_dense_model_is_what_was_there_before_the_first_slicing(tmp_path: Path) -> None:
    model = trained("cnn")
    dense = measure.parameters(model)
    for name in ("conv1", "conv2"):
        pruner = convolutions(model, [name], dummy_input=DUMMY)
        pruner.compress()
        pruner.apply_speedup()
        pruner.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
        assert bundle.read(tmp_path / "bundle").before.params == dense


def test_a_trial_takes_one_compressor_after_the_other_for_an_error(enter: Callable[..., Any]) -> None:
    enter("trial")
    model = trained("cnn")
    pruner = convolutions(model, ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    pruner.apply_speedup()
    second = convolutions(model, ["conv2"], dummy_input=DUMMY)
    with pytest.raises(CompressionError, match="was made small by another compressor before"):
        second.compress()


@pytest.mark.parametrize("copied", [True, False])
def test_a_second_compressor_on_a_masked_model_is_an_error(copied: bool) -> None:
    model = trained("cnn")
    convolutions(model, ["conv1"], dummy_input=DUMMY).compress()
    second = convolutions(copy.deepcopy(model) if copied else model, ["conv2"], dummy_input=DUMMY)
    with pytest.raises(CompressionError, match="is masked already, by another compressor"):
        second.compress()


class Padded(nn.Module):
    """Torch's encoder, which packs padded inputs in eval mode."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, dim)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(dim, 4, 64, batch_first=True), 2)
        self.head = nn.Linear(dim, 10)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens), src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize(("name", "arguments"), [("group_l2", {"round_to": 2}), ("level", {})])
def test_a_padding_mask_and_masks_of_ours_go_together(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    tokens, padding = torch.randint(0, 17, (4, 12)), torch.zeros(4, 12, dtype=torch.bool)
    padding[:, 9:] = True
    pruner = linears(model, name, {"tokens": tokens, "padding": padding}, **arguments)
    pruner.compress()
    with torch.no_grad():
        masked = model(tokens, padding)
        if name != "level":
            pruner.apply_speedup()
            assert model.encoder.use_nested_tensor
        pruner.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
        loaded = raycompress.load(tmp_path / "bundle", Padded()).eval()
        assert relative_difference([masked], [model(tokens, padding)]) < 1e-5
        assert relative_difference([masked], [loaded(tokens, padding)]) < 1e-5


class Norms(nn.Module):
    """A LayerNorm that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(input=self.fc1(x.flatten(1)))))


def test_a_norm_that_is_called_by_keyword() -> None:
    model = Norms().eval()
    pruner = linears(model, "group_l1", DUMMY)
    pruner.compress()
    masked = model(DUMMY)
    assert relative_difference([masked], [pruner.apply_speedup()(DUMMY)]) < 1e-5


class InGroups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.conv(x))).mean([2, 3]))


def test_each_group_of_a_norm_loses_as_many_channels_as_the_others() -> None:
    pruner = convolutions(InGroups(), ["conv"], 0.35, dummy_input=DUMMY)
    pruner.compress()
    model = pruner.apply_speedup()  # 5 of 16 were asked for, which are enough for one of each of the 4 groups
    assert (model.conv.out_channels, model.norm.num_channels, model.norm.num_groups) == (12, 12, 4)


def test_a_group_norm_whose_groups_stay_even_is_no_error_before_the_training() -> None:
    config = {"compressor": "activation_mean_rank_filter", "config_list": CONVOLUTIONS}
    model = InGroups()
    pruner = create_compressor(model, config, dummy_input=DUMMY)
    pruner.compress()
    train(model, 2)
    assert pruner.apply_speedup().conv.out_channels == 8


class Normalized(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = parametrizations.weight_norm(self.conv2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(F.relu(self.fc1(x.squeeze(1))))[0][:, -1])


class WithState(nn.Module):
    """What it starts from comes with the call: (layers, batch, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(self.lstm(F.relu(self.fc1(x)), state)[0][:, -1])


@pytest.mark.parametrize("early", [True, False])
def test_an_input_whose_batch_does_not_come_first(early: bool) -> None:
    model = WithState()
    call = (torch.randn(4, 8, 8), (torch.zeros(1, 4, 16), torch.zeros(1, 4, 16)))
    pruner = linears(model, "group_l1", call if early else None)
    pruner.compress()
    model(*call)
    assert pruner.apply_speedup().fc1.out_features == 8


def test_the_flops_of_torchs_encoder_are_counted_in_eval_mode() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    assert measure.flops(layer, Example.from_dummy(torch.randn(1, 5, 32)))[""] >= 5 * (3 + 1 + 2 + 2) * 32 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_weights_that_are_computed_are_sliced_with_what_they_are_computed_from() -> None:
    pruner = convolutions(Normalized(), ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    model = pruner.apply_speedup()
    assert (model.conv2.in_channels, model.conv2.out_channels) == (6, 16)
    train(model, 1)


def test_a_layer_is_followed_into_a_recurrent_one() -> None:
    pruner = linears(Recurrent(), "group_l1", DUMMY)
    pruner.compress()
    model = pruner.apply_speedup()
    assert (model.fc1.out_features, model.gru.input_size, model.gru.hidden_size) == (16, 16, 32)
    train(model, 1)


@pytest.mark.parametrize("dummy", [torch.zeros(1, 3, 8, 8), (1, 1, 8, 8), DUMMY.numpy(), {"images": DUMMY}])
def test_a_dummy_input_that_the_model_does_not_take_is_an_error(dummy: Any) -> None:
    wrong = "Cnn cannot be called with this dummy_input: "
    with pytest.raises(CompressionError, match=wrong):
        convolutions(Cnn(), ["conv1"], dummy_input=dummy).compress()
    pruner = convolutions(Cnn(), ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    with pytest.raises(CompressionError, match=wrong):
        pruner.apply_speedup(dummy)
    pruner.apply_speedup()  # with the input that it knew


class Forbidding(Cnn):
    """The last of its answers is ruled out, whatever the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), torch.full((x.size(0), 1), -torch.inf)], 1)


def test_infinities_that_both_models_answer_are_no_difference() -> None:
    pruner = convolutions(Forbidding(), ["conv1"], dummy_input=DUMMY)
    pruner.compress()
    assert pruner.apply_speedup().conv1.out_channels == 6
    one = torch.tensor([1.0, torch.inf])
    assert relative_difference([one], [torch.tensor([1.0, torch.inf])]) == 0
    for other in (torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])):
        assert not relative_difference([one], [other]) <= 1e6
        assert not relative_difference([other], [one]) <= 1e6
