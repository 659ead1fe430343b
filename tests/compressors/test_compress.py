"""`rc.compress`: one call, a small model, a bundle, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.errors import CompressionError, ExperimentError, RaycompressError, SpeedupError, UsageError
from raycompress.script import context
from tests.support.models.networks import Cnn, ResNet


def images(count: int = 1) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def agreement(model: nn.Module) -> float:
    """A metric that any model has: the share of inputs that it puts into an even class."""
    with torch.no_grad():
        return (model.eval()(images(32)).argmax(1) % 2 == 0).float().mean().item()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def test_a_network_with_residual_additions_becomes_small_and_its_bundle_is_it(tmp_path: Path) -> None:
    model = ResNet()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[int] = []

    def finetune(small: nn.Module) -> None:
        seen.append(sum(parameter.numel() for parameter in small.parameters()))
        optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
        F.cross_entropy(small.train()(images(8)), torch.arange(8) % 10).backward()
        optimizer.step()

    done = rc.compress(model, images(), sparsity=0.5, evaluator=agreement, finetune=finetune)

    assert seen == [done.after["params"]] and done.after["params"] < 0.5 * done.before["params"], "sliced first"
    assert done.after["flops"] < 0.5 * done.before["flops"] and done.after["size_bytes"] < done.before["size_bytes"]
    assert done.after["latency_ms"] > 0 < done.before["latency_ms"]
    assert type(done.model) is ResNet and all(0 < gone < of for gone, of in done.removed.values())
    assert done.relative_difference < 1e-4
    assert done.metric_before == agreement(model) and done.metric_after == agreement(done.model)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items()), "left as it was"
    loaded = rc.load(done.bundle, ResNet()).eval()
    torch.testing.assert_close(loaded(images(4)), done.model.eval()(images(4)))
    assert done.bundle.parent == tmp_path / "raycompress_results" / "compressed"
    assert "channels removed" in str(done) and "<table>" in done._repr_html_()
    assert context.current() is None


def test_each_layer_its_own_sparsity_into_a_folder_of_the_callers(tmp_path: Path) -> None:
    done = rc.compress(Cnn(), torch.rand(1, 1, 8, 8), "l1_filter", {"conv1": 0.5}, folder=tmp_path / "here")
    assert list(done.removed) == ["conv1"] and done.bundle == tmp_path / "here"
    assert json.loads((done.bundle / "manifest.json").read_text())["compressor"]["name"] == "l1_filter"
    again = rc.compress(done.model, torch.rand(1, 1, 8, 8), "group_l1", 0.5, op_names=["conv2"], exclude=["conv1"])
    assert again.before["params"] == done.after["params"] and list(again.removed) == ["conv2"]


def test_a_compressor_that_chooses_while_it_trains_is_given_to_the_training() -> None:
    entry = {"initial_sparsity": 0.0, "final_sparsity": 0.5, "start_epoch": 0, "end_epoch": 3, "frequency": 1}
    arguments = {"pruning_algorithm": "l1", "config_list": [{**entry, "op_types": ["Conv2d"]}]}

    def finetune(model: nn.Module, compressor: Any) -> None:
        for epoch in range(4):
            model(images(2))
            compressor.update_epoch(epoch)

    done = rc.compress(Cnn(), torch.rand(1, 1, 8, 8), "agp", finetune=finetune, **arguments)
    assert done.after["params"] < done.before["params"]
    with pytest.raises(CompressionError, match="update_epoch"):
        rc.compress(Cnn(), torch.rand(1, 1, 8, 8), "agp", **arguments)


@pytest.mark.parametrize(
    ("name", "more"),
    [("ptq_dynamic", {}), ("ptq_static", {"calibration_data": torch.rand(16, 1, 8, 8)}), ("int8_weight_only", {})],
)
def test_quantizers_that_need_no_training(name: str, more: dict[str, Any]) -> None:
    model = Cnn().eval()
    done = rc.compress(model, torch.rand(1, 1, 8, 8), name, evaluator=lambda model: 1.0, **more)
    assert done.after["size_bytes"] < done.before["size_bytes"] and any("bytes" in note for note in done.notes)
    loaded = rc.load(done.bundle, Cnn())
    batch = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(batch), done.model.eval()(batch))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ptq_dynamic", {}),
        ("int8_weight_only", {}),
        ("naive", {}),
        ("group_l2", {"round_to": 1, "sparsity": 0.25}),
    ],
    ids=["dynamic", "weights", "rounded", "pruned"],
)
def test_a_model_that_was_pruned_before_is_loaded_into_a_fresh_one(name: str, more: dict[str, Any]) -> None:
    small = rc.compress(Cnn().eval(), images(), "group_l1", sparsity=0.5, round_to=1)
    done = rc.compress(rc.load(small.bundle, Cnn()), images(), name, **more)
    loaded = rc.load(done.bundle, Cnn()).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(4)), done.model.eval()(images(4)))
    assert sum(map(Tensor.numel, loaded.parameters())) < sum(map(Tensor.numel, Cnn().parameters()))


@pytest.mark.parametrize(
    ("more", "kind", "what"),
    [
        ({"compressor": "group_l3"}, ExperimentError, "did you mean .group_l2."),
        ({"sparsity": (0.1, 0.5)}, ExperimentError, "rc.launch, which searches"),
        ({"sparsity": 0.001}, SpeedupError, "raise the sparsities"),
        ({"sparsity": {"conv9": 0.5}}, ExperimentError, "conv9"),
        ({"roundto": 8}, ExperimentError, "round_to"),
        ({"evaluator": lambda model: "good"}, UsageError, "no number"),
        ({"compressor": "ptq_static"}, UsageError, "calibration_data="),
        ({"compressor": "ptq_dynamic", "finetune": print}, UsageError, "train first"),
        ({"compressor": "int8_weight_only", "sparsity": 0.5}, ExperimentError, "takes no sparsity"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)}, UsageError, "lambda model"),
        ({"example_inputs": torch.rand(2)}, CompressionError, "example_inputs"),
    ],
)
def test_mistakes_are_errors_of_ours_and_leave_nothing(
    more: dict[str, Any], kind: type[RaycompressError], what: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=what):
        rc.compress(**{"model": Cnn(), "example_inputs": torch.rand(1, 1, 8, 8), **more})
    assert not list(tmp_path.glob("raycompress_results/compressed/*")) and context.current() is None


def test_what_the_callers_own_function_raises_passes() -> None:
    def finetune(model: nn.Module) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        rc.compress(Cnn(), torch.rand(1, 1, 8, 8), finetune=finetune)
    assert context.current() is None


def test_no_model_no_compression() -> None:
    with pytest.raises(UsageError, match=r"torch\.nn\.Module"):
        rc.compress([1, 2], torch.rand(1))  # type: ignore[arg-type]
