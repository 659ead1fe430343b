"""The metric is the saved model's: an average, a copy or a checkpoint that was evaluated in its place is an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from raycompress import create_compressor, report
from raycompress.compressors.interface import Compressor
from raycompress.compressors.saving import evaluations
from raycompress.errors import CompressionError

X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


def evaluate(model: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    model.eval()
    with torch.no_grad():
        found = float((model(X.to(dtype)).argmax(1) == Y).float().mean())
    model.train()
    return found


def step(
    model: nn.Module, *, before: Callable[[], Any] = lambda: None, after: Callable[[], Any] = lambda: None
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before()
    loss = nn.functional.cross_entropy(model(X), Y)
    after()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def looked(model: nn.Module) -> None:
    with torch.no_grad():
        model(X)


def averaged(model: nn.Module, compressor: Compressor) -> float:
    ema = AveragedModel(model)
    for _ in range(3):
        step(model)
        ema.update_parameters(model)
    compressor.apply_speedup()
    return evaluate(ema.module)


def averaged_as_a_wrapper(model: nn.Module, compressor: Compressor) -> float:
    ema = AveragedModel(model)
    for _ in range(3):
        step(model)
        ema.update_parameters(model)
    return evaluate(ema)


def best_epoch_as_a_copy(model: nn.Module, compressor: Compressor) -> float:
    for epoch in range(3):
        step(model)
        evaluate(model)
        if epoch == 1:
            best = copy.deepcopy(model)
    return evaluate(best)


def best_epoch_of_the_small_model(model: nn.Module, compressor: Compressor) -> float:
    compressor.apply_speedup()
    return best_epoch_as_a_copy(model, compressor)


def a_checkpoint_in_another_instance(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    state = copy.deepcopy(model.state_dict())
    step(model)
    best = Net()
    best.load_state_dict(state)
    return evaluate(best)


class Swapped:
    """An average of weights that is put into the model and taken out again."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [one.detach() * 0.9 for one in model.parameters()]

    def swap(self, model: nn.Module) -> None:
        with torch.no_grad():
            for kept, one in zip(self.kept, model.parameters(), strict=True):
                held = one.clone()
                one.copy_(kept)
                kept.copy_(held)


def an_average_that_is_swapped_in(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    average = Swapped(model)
    average.swap(model)
    found = evaluate(model)
    average.swap(model)
    return found


def an_average_that_is_swapped_in_each_epoch(model: nn.Module, compressor: Compressor) -> float:
    for _ in range(3):
        found = an_average_that_is_swapped_in(model, compressor)
    compressor.apply_speedup()
    return found


def an_average_that_stays(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    Swapped(model).swap(model)
    return evaluate(model)


def weights_that_are_saved_and_loaded(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    found = evaluate(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    compressor.apply_speedup()
    return found


def an_evaluation_before_the_training(model: nn.Module, compressor: Compressor) -> float:
    looked(model)
    return step(model)


def training_by_another_method(model: nn.Module, compressor: Compressor) -> float:
    looked(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.fc(model.conv2(model.conv1(X)).mean((2, 3))).sum().backward()
    optimizer.step()
    return 0.5


def the_model_itself(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    compressor.apply_speedup()
    return evaluate(model)


def a_copy_of_equal_weights(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    compressor.apply_speedup()
    return evaluate(copy.deepcopy(model))


def a_copy_that_was_made_small_since(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    found = evaluate(copy.deepcopy(model))
    report(accuracy=found)
    compressor.apply_speedup()
    return found


def a_wrapper(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    return evaluate(nn.DataParallel(model))


def another_type(model: nn.Module, compressor: Compressor) -> float:
    step(model)
    return evaluate(copy.deepcopy(model).double(), torch.float64)


def agreement_with_a_teacher(model: nn.Module, compressor: Compressor) -> float:
    teacher = Net()
    step(model, before=lambda: looked(teacher))
    found = evaluate(model)
    looked(teacher)
    return found


def the_loss_of_distillation(model: nn.Module, compressor: Compressor) -> float:
    teacher = Net()
    return step(model, after=lambda: looked(teacher))


def a_mean_teacher(model: nn.Module, compressor: Compressor) -> float:
    ema = AveragedModel(model)
    for _ in range(2):
        step(model, before=lambda: looked(ema))
        ema.update_parameters(model)
    return evaluate(model)


def what_a_compressor_scores_by_itself(model: nn.Module, compressor: Compressor) -> float:
    other = copy.deepcopy(model)
    looked(model)
    nn.init.zeros_(other.fc.weight)
    score = compile("evaluate(other)", evaluations.__file__.replace("evaluations", "rung_zero"), "eval")
    eval(score, {"evaluate": evaluate, "other": other})
    return step(model)


def an_average_that_is_loaded_back(model: nn.Module, compressor: Compressor) -> float:
    ema = AveragedModel(model)
    for _ in range(2):
        step(model)
        ema.update_parameters(model)
    found = evaluate(ema.module)
    model.load_state_dict(ema.module.state_dict())
    return found


SCORES = (0.5, 0.75, 0.25)


def scored(model: nn.Module, epoch: int) -> float:
    """Train and evaluate an epoch; which number comes of it is the test's."""
    step(model)
    evaluate(model)
    return SCORES[epoch]


def the_best_number(model: nn.Module, compressor: Compressor) -> float:
    best = 0.0
    for epoch in range(3):
        accuracy = scored(model, epoch)
        best = max(best, accuracy)
    report(accuracy=best)
    return best


def the_best_number_of_a_condition(model: nn.Module, compressor: Compressor) -> float:
    state = {"best": 0.0}
    for epoch in range(3):
        accuracy = scored(model, epoch)
        if accuracy > state["best"] and epoch >= 0:
            state["best"], _found = accuracy, epoch
    compressor.apply_speedup()
    report(accuracy=round(state["best"], 3), last=accuracy)
    return state["best"]


def the_best_number_of_a_list(model: nn.Module, compressor: Compressor) -> float:
    history = {"accuracy": [scored(model, epoch) for epoch in range(3)]}
    report(accuracy=max(history["accuracy"]))
    return 0.75


def the_best_number_of_a_choice(model: nn.Module, compressor: Compressor) -> float:
    best = 0.0
    for epoch in range(3):
        accuracy = scored(model, epoch)
        best = accuracy if accuracy > best else best
    report(accuracy=best)
    return best


def the_best_number_but_the_first(model: nn.Module, compressor: Compressor) -> float:
    best = 0.0
    for epoch in range(3):
        accuracy = scored(model, epoch)
        best = max(best, accuracy) if epoch else accuracy
    report(accuracy=best)
    return best


def trained(model: nn.Module) -> tuple[float, int]:
    best, found = torch.tensor(0.0), 0
    for epoch in range(3):
        accuracy = torch.tensor(scored(model, epoch))
        if best < accuracy:
            best = accuracy
            found = epoch
    return best.item(), found


def the_best_number_of_a_function(model: nn.Module, compressor: Compressor) -> float:
    best, _found = trained(model)
    report(accuracy=best)
    return best


def a_better_epoch_that_is_put_back(model: nn.Module, compressor: Compressor) -> float:
    best, weights = 0.0, {}
    for epoch in range(3):
        accuracy = scored(model, epoch)
        if accuracy > best:
            best, weights = accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    if compressor is not None:
        evaluate(model)
    report(accuracy=best)
    return best


def a_better_epoch_that_is_put_back_unseen(model: nn.Module, compressor: Compressor) -> float:
    return a_better_epoch_that_is_put_back(model, None)  # type: ignore[arg-type]


def the_last_number_beside_the_best(model: nn.Module, compressor: Compressor) -> float:
    best = 0.0
    for epoch in range(3):
        accuracy = scored(model, epoch)
        best = max(best, accuracy)
    report(accuracy=accuracy, best=best)
    return accuracy


def the_last_epoch_is_the_best(model: nn.Module, compressor: Compressor) -> float:
    best = 0.0
    for epoch in range(2):
        accuracy = scored(model, epoch)
        best = max(best, accuracy)
    report(accuracy=best)
    return best


def another_number_after_the_function(model: nn.Module, compressor: Compressor) -> float:
    trained(model)
    evaluate(model)
    report(accuracy=0.75)
    return 0.75


def run(enter: Callable[..., Any], tmp_path: Path, script: Callable[..., float]) -> None:
    torch.manual_seed(0)
    trial, _ = enter("trial", config_path=tmp_path / "config.json")
    model = Net()
    config_list = [{"sparsity": 0.5, "op_names": ["conv1"], "op_types": ["Conv2d"]}]
    compressor = create_compressor(model, {"compressor": "l1_filter", "config_list": config_list}, dummy_input=X[:1])
    found = script(compressor.compress(), compressor)
    if script not in REPORTING:
        report(accuracy=found)
    compressor.export_model("model.pth", "mask.pth")
    for finish in trial.on_finish:
        finish()


REMEMBERED = (
    the_best_number,
    the_best_number_of_a_condition,
    the_best_number_of_a_list,
    the_best_number_of_a_choice,
    the_best_number_but_the_first,
    the_best_number_of_a_function,
)
MEASURED = (
    a_better_epoch_that_is_put_back,
    a_better_epoch_that_is_put_back_unseen,
    the_last_number_beside_the_best,
    the_last_epoch_is_the_best,
    another_number_after_the_function,
)
REPORTING = (*REMEMBERED, *MEASURED)


@pytest.mark.parametrize("script", REMEMBERED)
def test_the_number_of_an_earlier_epoch_is_an_error(enter: Any, tmp_path: Path, script: Callable[..., float]) -> None:
    with pytest.raises(CompressionError, match=r"0\.75, the number of an earlier epoch.* is 0\.25") as caught:
        run(enter, tmp_path, script)
    assert "model.load_state_dict(best_weights)" in caught.value.problems[0].fix


@pytest.mark.parametrize("script", MEASURED)
def test_a_number_of_the_saved_weights_is_none(enter: Any, tmp_path: Path, script: Callable[..., float]) -> None:
    run(enter, tmp_path, script)


@pytest.mark.parametrize(
    "script",
    [
        averaged,
        averaged_as_a_wrapper,
        best_epoch_as_a_copy,
        best_epoch_of_the_small_model,
        a_checkpoint_in_another_instance,
    ],
)
def test_the_metric_of_another_model_is_an_error(enter: Any, tmp_path: Path, script: Callable[..., float]) -> None:
    with pytest.raises(CompressionError, match="is another model than the saved one"):
        run(enter, tmp_path, script)


@pytest.mark.parametrize("script", [an_average_that_is_swapped_in, an_average_that_is_swapped_in_each_epoch])
def test_weights_that_are_taken_out_again_are_an_error(
    enter: Any, tmp_path: Path, script: Callable[..., float]
) -> None:
    with pytest.raises(CompressionError, match="weights were changed between the script's last evaluation"):
        run(enter, tmp_path, script)


@pytest.mark.parametrize(
    "script",
    [
        an_average_that_stays,
        weights_that_are_saved_and_loaded,
        an_evaluation_before_the_training,
        training_by_another_method,
        the_model_itself,
        a_copy_of_equal_weights,
        a_copy_that_was_made_small_since,
        a_wrapper,
        another_type,
        agreement_with_a_teacher,
        the_loss_of_distillation,
        a_mean_teacher,
        what_a_compressor_scores_by_itself,
    ],
)
def test_other_models_may_be_called(enter: Any, tmp_path: Path, script: Callable[..., float]) -> None:
    run(enter, tmp_path, script)


def test_an_average_that_is_loaded_before_the_save_is_none(enter: Any, tmp_path: Path) -> None:
    run(enter, tmp_path, an_average_that_is_loaded_back)
