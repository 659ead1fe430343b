"""Models that need more of a batch than one, and what inspection asks of the compressor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.create import create_compressor
from raycompress.compressors.masking.masks import FirstCall
from raycompress.compressors.measure import sizes
from raycompress.compressors.rehearsal import rehearse
from raycompress.script import context
from tests.support.models.networks import Attention, TorchAttention


class Clips(nn.Module):
    """Views its batch as clips of four frames."""

    def __init__(self, frames: int = 4) -> None:
        super().__init__()
        self.frames = frames
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3))
        clips = self.fc(x).view(len(x) // self.frames, self.frames, 4)
        return torch.cat([clips[:, 1:], clips[:, :1]], 1).reshape(len(x), 4)


class Pairs(nn.Module):
    """Compares the first half of its batch with the second."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.fc(x).chunk(2)
        return (one * other).sum(1)


@pytest.mark.parametrize(("model", "shape", "least"), [(Clips(), (32, 1, 8, 8), 4), (Pairs(), (12, 6), 2)])
def test_as_few_are_kept_as_the_model_runs_on(model: nn.Module, shape: tuple[int, ...], least: int) -> None:
    seen: list[Example] = []
    FirstCall(seen.append).watch(model)
    model(torch.randn(shape))
    assert (seen[0].batch, seen[0].least) == (least, least)
    assert sizes.first_of_batch(Example.from_dummy(torch.randn(shape)).with_least(model)).batch == least


@pytest.mark.parametrize("attention", [Attention, TorchAttention])
def test_the_products_of_attention_count(attention: Callable[[int, int], nn.Module]) -> None:
    linear, products = 7 * 16 * (48 + 16), 2 * 7 * 7 * 16
    assert sizes.flops(attention(16, 4), Example.from_dummy(torch.randn(2, 7, 16)))[""] == linear + products


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        return torch._grouped_mm(x.flatten(0, 1), self.weights, offs=torch.tensor([3, 7], dtype=torch.int32))


def test_the_products_of_experts_count() -> None:
    assert sizes.flops(Experts(), Example.from_dummy(torch.randn(1, 7, 16)))[""] == 7 * 16 * 24


def test_the_products_of_an_lstm_count() -> None:
    assert sizes.flops(nn.LSTM(12, 8, batch_first=True), Example.from_dummy(torch.randn(2, 7, 12)))[""] == 7 * 32 * 20


def test_flops_are_those_of_one_sample() -> None:
    model, x = Clips(), torch.randn(32, 1, 8, 8)
    one = 36 * 8 * 9 + 16 * 8 * 8 * 9 + 8 * 4
    for example in (Example.from_dummy(x), Example.from_dummy(x[:8]).with_least(model)):
        assert sizes.flops(model, example)[""] == one
    assert sizes.flops(Clips(1), Example.from_dummy(x))[""] == one


def test_a_model_that_runs_on_nothing_raises_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sizes.flops(Pairs(), Example.from_dummy(torch.randn(4, 5)))


def test_a_model_for_a_batch_of_one_is_given_one() -> None:
    class One(Pairs):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 1
            return self.fc(x)

    assert Example.of_first_call(One(), (torch.randn(1, 6),), {}).batch == 1
    assert Example.from_dummy(torch.randn(3, 6)).with_least(One()).least == 1


# ---- inspection makes the compressor as a trial does


def inspected(model: nn.Module, x: Tensor, folder: Path, *, dummy: bool = False, **config: Any) -> list[dict[str, Any]]:
    """Return what inspection sends of a script that makes a compressor and calls its model."""
    sent: list[Any] = []
    trial = context.Trial(mode="inspect", candidate=folder, send=sent.append, analysis={"rehearse": config})
    context.enter(trial)
    try:
        with pytest.raises(context.EndOfInspection):
            more = {"dummy_input": x} if dummy else {}
            create_compressor(model, {"compressor": "l1_filter", **config}, **more).compress()(x)
        assert context.current() is trial
    finally:
        context.enter(None)
    return [message for message in sent if message["type"] != "given"]


ENTRY = {"sparsity": 0.5, "op_names": ["conv1"]}


@pytest.mark.parametrize("dummy", [True, False])
def test_what_a_trial_would_refuse_is_sent(dummy: bool, tmp_path: Path) -> None:
    model = Clips()
    nn.utils.spectral_norm(model.conv2)
    entries = [ENTRY, {"sparsity": 0.5, "op_names": ["conv2"]}]
    model_sent, refused = inspected(model, torch.randn(8, 1, 8, 8), tmp_path, dummy=dummy, config_list=entries)
    assert (model_sent["type"], refused["type"], refused["error"]) == ("model", "refused", "ExperimentError")
    (problem,) = refused["problems"]
    assert problem["what"] == '"conv2" (Conv2d) has no weight to prune: it is computed'
    assert problem["where"] == "config_list[1]"
    assert problem["fix"].startswith("torch.nn.utils.remove_spectral_norm(model.conv2) before")


def test_what_a_trial_would_take_is_not_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    config_list = [{"sparsity": 0.5, "op_names": ["0"]}]
    (sent,) = inspected(model, torch.randn(8, 1, 8, 8), tmp_path, config_list=config_list)
    assert sent["type"] == "model"


def test_an_error_of_the_script_is_left_to_the_trial(tmp_path: Path) -> None:
    sent: list[Any] = []
    trial = context.Trial(mode="inspect", candidate=tmp_path, send=sent.append, analysis={"rehearse": {}})

    def make(_config: Any) -> Any:
        raise ZeroDivisionError

    rehearse(trial, make, lambda model: None)
    assert (sent, context.current()) == ([], trial)
    context.enter(None)
