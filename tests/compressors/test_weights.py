"""Weights as they are: laid out in another order, shared, computed by a hook, of few bits, of TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from raycompress import create_compressor
from raycompress.compressors.interface import Compressor
from raycompress.errors import CompressionError

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))


def channels_last() -> nn.Module:
    return Net().to(memory_format=torch.channels_last)


def permuted() -> nn.Module:
    model = Net()
    model.b.weight = nn.Parameter(model.b.weight.data.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    model.fc.weight = nn.Parameter(model.fc.weight.data.t().contiguous().t())
    return model


def shared() -> nn.Module:
    model = Net()
    model.c.weight = model.b.weight
    return model


def parametrized_reader() -> nn.Module:
    model = Net()
    parametrizations.weight_norm(model.c)
    return model


def weight_norm() -> nn.Module:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(model.c)
    return model


def pruned_by_torch() -> nn.Module:
    model = Net()
    prune.l1_unstructured(model.c, "weight", 0.3)
    return model


def trainer(
    model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any = F.cross_entropy, epoch: int = 0
) -> None:
    for _ in range(12):
        optimizer.zero_grad()
        criterion(model(X), Y).backward()
        optimizer.step()


def made(model: nn.Module, compressor: str, *names: str, given: Any = None, **keys: Any) -> Compressor:
    model(X)  # what a hook computes is there then
    config_list = [{"op_names": list(names), **keys}]
    arguments = {"num_iterations": 2, "epochs_per_iteration": 1} if given and "trainer" in given else {}
    config = {"compressor": compressor, "config_list": config_list, "arguments": arguments}
    return create_compressor(model, config, dummy_input=X[:2], **(given or {}))


@pytest.mark.parametrize("model", [channels_last, permuted])
@pytest.mark.parametrize("compressor", ["level", "l1_filter", "fpgm", "agp", "lottery_ticket", "admm", "sensitivity"])
def test_weights_in_any_order_are_ranked(model: Callable[[], nn.Module], compressor: str) -> None:
    torch.manual_seed(0)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    more = {
        "lottery_ticket": {"optimizer": optimizer},
        "admm": {"trainer": trainer, "optimizer": optimizer, "criterion": F.cross_entropy},
        "sensitivity": {"evaluator": lambda other: float((other(X).argmax(1) == Y).float().mean())},
    }.get(compressor)
    keys = {"sparsity": 0.5, **({"prune_iterations": 1} if compressor == "lottery_ticket" else {})}
    pruner = made(net, compressor, "b", given=more, **keys)
    small = pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        trainer(small, optimizer)
    if compressor not in ("level", "agp", "lottery_ticket"):
        pruner.apply_speedup()
    pruner.export_model("model.pth", "mask.pth")


@pytest.mark.parametrize("model", [shared, parametrized_reader])
def test_gradients_are_those_of_what_a_layer_trains(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = model()
    names = ("a",) if model is parametrized_reader else ("a", "b", "c")
    pruner = made(net, "group_taylor", *names, sparsity=0.5)
    trainer(pruner.compress(), torch.optim.SGD(net.parameters(), 0.01))
    pruner.apply_speedup()
    assert sum(removed for removed, _ in pruner._slicing.removal.counts().values()) > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", [weight_norm, pruned_by_torch])
@pytest.mark.parametrize("compressor", ["int8_weight_only", "ptq_dynamic"])
def test_a_model_with_a_weight_that_a_hook_computes_is_copied(model: Callable[[], nn.Module], compressor: str) -> None:
    net = model()
    quantizer = made(net, compressor, "fc")
    small = quantizer.compress()
    assert small(X).shape == (8, 4)
    quantizer.export_model("model.pth", "mask.pth")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_int8_weights_of_few_bits_are_as_exact_as_those(dtype: torch.dtype) -> None:
    net = Net().to(dtype)
    config = {"compressor": "int8_weight_only", "config_list": [{"op_names": ["fc"]}]}
    quantizer = create_compressor(net, config, dummy_input=X[:2].to(dtype))
    quantizer.compress()
    quantizer.export_model("model.pth", "mask.pth")


def test_torchscript_is_told_at_once() -> None:
    config = {"compressor": "group_l1", "config_list": [{"op_names": ["b"], "sparsity": 0.5}]}
    scripted = torch.jit.script(Net())
    traced = torch.jit.trace(Net().eval(), X[:1])
    for model in (scripted, traced):
        with pytest.raises(CompressionError, match="is TorchScript") as caught:
            create_compressor(model, config)
        assert "torch.jit.trace on the result" in caught.value.problems[0].fix


def of_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Net()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(16, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


def without_values() -> nn.Module:
    return Net().to("meta")


def with_nan() -> nn.Module:
    model = Net()
    nn.init.constant_(model.b.weight[0], float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (of_inference_mode, r'"a\.weight" of Net was made inside torch\.inference_mode'),
        (lazy, '"0.weight" of Sequential has no values yet'),
        (without_values, "is on the device meta"),
        (with_nan, r'"b\.weight" of Net holds NaN'),
    ],
)
@pytest.mark.parametrize("compressor", ["group_l1", "qat"])
def test_weights_that_are_none_are_told_at_once(model: Callable[[], nn.Module], what: str, compressor: str) -> None:
    with pytest.raises(CompressionError, match=what):
        create_compressor(
            model(), {"compressor": compressor, "config_list": [{"op_types": ["Conv2d"], "sparsity": 0.5}]}
        )


def test_a_sequential_becomes_int8() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    config = {"compressor": "ptq_static", "config_list": [{"op_types": ["default"]}]}
    quantizer = create_compressor(net, config, dummy_input=X[:2], calibration_data=X)
    assert quantizer.compress()(X).shape == (8, 4)
    quantizer.export_model("model.pth", "mask.pth")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(16, affine=False), nn.BatchNorm2d(16, track_running_stats=False)])
def test_a_norm_that_cannot_be_folded_is_left_alone(norm: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    quantizer = made(net, "qat", "0", quant_types=["weight"], quant_bits=8)
    trainer(quantizer.compress(), torch.optim.SGD(net.parameters(), 0.01))
    quantizer.export_model("model.pth", "mask.pth")


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
