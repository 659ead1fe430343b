"""agp and lottery_ticket: what goes epoch by epoch, and round by round."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.engines.nni.training.schedules import Schedule
from raycompress.compressors.interface import Compressor
from raycompress.errors import CompressionError, ExperimentError, SpeedupError
from tests.support.models.networks import DUMMY, train, trained

EXAMPLE = Example.from_dummy(DUMMY)
EPOCHS = [{"final_sparsity": 0.5, "start_epoch": 0, "end_epoch": 3, "frequency": 1, "op_types": ["Conv2d"]}]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def compressor_of(model: nn.Module, name: str, config_list: Any, **more: Any) -> Compressor:
    return create_compressor(model, {"compressor": name, "config_list": config_list}, **more)


def test_the_schedule_is_the_papers() -> None:
    schedule = Schedule(0.1, 0.9, start=2, end=11, frequency=2)
    assert [schedule.at(epoch) for epoch in (0, 1)] == [0, 0]
    assert schedule.at(2) == schedule.at(3) == pytest.approx(0.1)
    # half of the way from epoch 2 to epoch 10: 0.9 - 0.8 * (1 - 1/2)**3
    assert schedule.at(6) == schedule.at(7) == pytest.approx(0.8)
    assert schedule.at(9) < schedule.at(10) == schedule.at(99) == 0.9
    assert Schedule.of({"sparsity": 0.5}, "").at(0) == 0.5
    for settings, said in (
        ({"sparsity": 0.5, "final_sparsity": 0.6}, "same thing"),
        ({"final_sparsity": 0.5, "initial_sparsity": 0.6}, "falls from 0.6 to 0.5"),
        ({"final_sparsity": 0.5, "start_epoch": 3, "end_epoch": 3}, "no schedule"),
        ({"final_sparsity": 0.5, "end_epoch": 3.0}, "no schedule"),
    ):
        with pytest.raises(ExperimentError, match=said):
            Schedule.of(settings, "config_list[0]")


@pytest.mark.parametrize("algorithm", ["level", "l1", "fpgm", "slim"])
def test_agp_masks_grow_to_the_asked_sparsity(algorithm: str) -> None:
    model = trained("vgg")
    kind = "BatchNorm2d" if algorithm == "slim" else "Conv2d"
    final = 0.5 if algorithm == "slim" else 0.75  # it compares all layers, and more would take all of one
    config_list = [{"final_sparsity": final, "initial_sparsity": 0.25, "end_epoch": 4, "op_types": [kind]}]
    optimizer = sgd(model)
    pruner = compressor_of(model, "agp", config_list, optimizer=optimizer, pruning_algorithm=algorithm)
    pruner.compress()
    shares, gone = [], {}
    for epoch in range(5):
        for key, mask in gone.items():  # a step of the optimizer may move what is masked, until the next forward
            model.get_parameter(key).data[mask == 0] = 5
        pruner.update_epoch(epoch)
        train(model, 3, epoch, optimizer)
        EXAMPLE.outputs(model)
        kept = pruner._masks.kept()  # type: ignore[attr-defined]
        for key, mask in gone.items():
            assert (kept[key][mask == 0] == 0).all(), f"{key} came back at epoch {epoch}"
        for key, mask in kept.items():
            assert (model.state_dict()[key][mask == 0] == 0).all()
        gone = kept
        counted = torch.cat([mask.flatten() for key, mask in kept.items() if key in counted_by(algorithm)])
        shares.append(float((counted == 0).float().mean()))
        if epoch < 3:
            with pytest.raises(CompressionError, match=f"the schedule is at epoch {epoch}, with a sparsity of"):
                pruner.export_model("m.pth")
    assert shares[0] == pytest.approx(0.25, abs=0.04)
    assert shares == sorted(shares)
    assert shares[1] > shares[0]
    assert shares[3] == shares[4] == pytest.approx(final, abs=0.01)
    pruner.update_epoch(0)  # nothing comes back
    assert all(torch.equal(mask, pruner._masks.kept()[key]) for key, mask in gone.items())  # type: ignore[attr-defined]


def counted_by(algorithm: str) -> tuple[str, ...]:
    """Return the parameters whose masks show how much of each layer went."""
    layers, tensor = (
        ((1, 5), "weight") if algorithm == "slim" else ((0, 4), "weight" if algorithm == "level" else "bias")
    )
    return tuple(f"features.{layer}.{tensor}" for layer in layers)


def test_agp_without_any_update_says_so() -> None:
    model = trained("cnn")
    pruner = compressor_of(model, "agp", EPOCHS, optimizer=sgd(model))
    pruner.compress()
    train(model, 3)
    said = "the script never calls update_epoch: the schedule is at epoch 0, with a sparsity of 0 of 0.5"
    with pytest.raises(CompressionError, match=said):
        pruner.export_model("m.pth")


def test_agp_with_a_trainer_and_its_mistakes() -> None:
    epochs = []

    def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
        epochs.append((epoch, criterion))
        train(model, 2, optimizer=optimizer)

    model = trained("cnn")
    more = {"optimizer": sgd(model), "trainer": trainer, "criterion": "loss", "num_iterations": 2}
    pruner = compressor_of(model, "agp", [{"sparsity": 0.5, "op_types": ["Conv2d"]}], epochs_per_iteration=2, **more)
    pruner.compress()
    assert epochs == [(epoch, "loss") for epoch in range(4)]
    for layer in (model.conv1, model.conv2):
        assert int((layer.weight == 0).sum()) == layer.weight.numel() // 2  # type: ignore[union-attr, operator, arg-type]
    with pytest.raises(SpeedupError, match="masks single weights"):
        pruner.apply_speedup(DUMMY)
    model = trained("cnn", 0)
    more["optimizer"] = sgd(model)
    with pytest.raises(ExperimentError, match="make the schedule, not start_epoch, end_epoch, frequency"):
        compressor_of(model, "agp", EPOCHS, **more).compress()
    with pytest.raises(CompressionError, match="agp takes num_iterations together with trainer= only"):
        compressor_of(model, "agp", EPOCHS, num_iterations=3).compress()
    with pytest.raises(CompressionError, match='no pruning_algorithm "l3"'):
        compressor_of(model, "agp", EPOCHS, pruning_algorithm="l3").compress()
    with pytest.raises(CompressionError, match="cannot be dependency_aware"):
        compressor_of(model, "agp", EPOCHS, dependency_aware=True, dummy_input=DUMMY).compress()


def test_lottery_ticket_goes_back_to_the_first_weights() -> None:
    model = trained("vgg")
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    first = copy.deepcopy(model.state_dict())
    config_list = [
        {"sparsity": 0.75, "prune_iterations": 2, "op_types": ["default"]},
        {"exclude": True, "prune_iterations": 2, "op_names": ["classifier.3"]},
    ]
    pruner = compressor_of(model, "lottery_ticket", config_list, optimizer=optimizer, lr_scheduler=scheduler)
    pruner.compress()
    shares = []
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        assert not optimizer.state
        assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (0, 0.05)
        weight = model.features[4].weight  # type: ignore[index, union-attr]
        assert torch.equal(weight[weight != 0], first["features.4.weight"][weight != 0])  # type: ignore[index]
        assert torch.equal(model.features[1].running_mean, first["features.1.running_mean"])  # type: ignore[index, union-attr, arg-type]
        shares.append(float((weight == 0).float().mean()))  # type: ignore[attr-defined]
        train(model, 3, optimizer=optimizer)
        scheduler.step()
        if len(shares) < 3:
            with pytest.raises(CompressionError, match=f"{len(shares)} of 3 rounds were begun"):
                pruner.export_model("m.pth")
    assert shares == [0, pytest.approx(0.5, abs=1e-3), pytest.approx(0.75, abs=1e-3)]
    assert "classifier.3.weight" not in pruner._masks.kept()  # type: ignore[attr-defined]
    with pytest.raises(SpeedupError, match="masks single weights, which cannot shrink a model"):
        pruner.apply_speedup(DUMMY)
    with pytest.raises(CompressionError, match="called more often than the 3 rounds"):
        pruner.prune_iteration_start()


def test_lottery_ticket_without_a_reset_and_its_mistakes() -> None:
    model = trained("cnn")
    config_list = [{"sparsity": 0.5, "prune_iterations": 1, "op_names": ["conv2"]}]
    pruner = compressor_of(model, "lottery_ticket", config_list, reset_weights=False)
    pruner.compress()
    pruner.prune_iteration_start()
    train(model, 2)
    trained_on = model.conv2.weight.clone()  # type: ignore[union-attr, operator]
    pruner.prune_iteration_start()
    assert int((model.conv2.weight == trained_on).sum()) == trained_on.numel() // 2  # type: ignore[union-attr]
    with pytest.raises(CompressionError, match="starts each round with the first weights") as caught:
        compressor_of(trained("cnn", 0), "lottery_ticket", config_list).compress()
    assert "optimizer=" in str(caught.value)
    two = [*config_list, {"sparsity": 0.5, "prune_iterations": 2, "op_names": ["conv1"]}]
    model = trained("cnn", 0)
    with pytest.raises(ExperimentError, match="prune_iterations is 2"):
        compressor_of(model, "lottery_ticket", two, optimizer=sgd(model)).compress()
