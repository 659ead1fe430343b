""" "slice": "before" and "after": when a pruner cuts by itself, and what follows the model then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.sizes import parameters
from raycompress.errors import CompressionError, ExperimentError, UsageError
from raycompress.script.config import SLICE_KEY
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, digits, train, trained

Enter = Callable[..., Any]


def pruner_of(model: nn.Module, when: str | None, name: str = "l1_filter", **given: Any) -> Compressor:
    config = {"compressor": name, "config_list": CONVOLUTIONS, **({} if when is None else {SLICE_KEY: when})}
    return create_compressor(model, config, **given)


def loss(model: nn.Module, seed: int = 0) -> Tensor:
    images, labels = digits()
    batch = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:32]
    return F.cross_entropy(model(images[batch]), labels[batch])


def masked_outputs(model: nn.Module) -> Tensor:
    """Return what a masked copy of the same weights computes."""
    twin = Cnn()
    twin.load_state_dict(model.state_dict())
    pruner_of(twin.eval(), None, dummy_input=DUMMY).compress()
    return twin(digits()[0][:64])


def test_before_slices_in_compress_and_the_small_model_is_the_masked_one() -> None:
    model = trained("cnn").eval()
    dense, expected = parameters(model), masked_outputs(model)
    small = pruner_of(model, "before", dummy_input=DUMMY).compress()
    assert small is model and parameters(model) < 0.5 * dense
    assert relative_difference([expected], [model(digits()[0][:64])]) < 1e-5


def test_before_without_an_input_slices_at_the_first_call() -> None:
    model = trained("cnn").eval()
    expected = masked_outputs(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner_of(model, "before").compress()
    assert model.conv1.out_channels == 12, "nothing is known of its inputs yet"
    got = model(digits()[0][:64])
    assert model.conv1.out_channels == 6
    assert relative_difference([expected], [got]) < 1e-5, "the very call that slices computes with the small model"
    F.cross_entropy(got, digits()[1][:64]).backward()
    before = model.conv1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.conv1.weight), "the optimizer, which nobody was given, trains the small model"


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "factored": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_before_compress_goes_on_with_its_state_sliced(name: str) -> None:
    model = trained("cnn")
    head = list(model.fc2.parameters())
    body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
    optimizer = OPTIMIZERS[name]([{"params": body}, {"params": head, "lr": 0.001}])
    for seed in range(3):
        optimizer.zero_grad()
        loss(model, seed).backward()
        optimizer.step()
    dense = {key: dict(optimizer.state[parameter]) for key, parameter in model.named_parameters()}
    pruner_of(model, "before", dummy_input=DUMMY).compress()
    named = dict(model.named_parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in named.values()}
    assert [group["lr"] for group in optimizer.param_groups][1] == 0.001
    assert set(optimizer.state) == set(named.values())
    for key, parameter in named.items():
        for part, value in optimizer.state[parameter].items():
            whole = dense[key][part]
            if isinstance(value, Tensor) and value.dim() == parameter.dim() and value.numel() > 1:
                assert all(own in (1, size) for own, size in zip(value.shape, parameter.shape, strict=True)), part
                assert set(value.flatten().tolist()) <= set(whole.flatten().tolist()), "a part of what was there"
            else:
                assert value is whole or value == whole, part
    kept = model.conv1.out_channels
    assert optimizer.state[model.fc2.bias], "what is not cut keeps its state"
    for seed in range(3, 6):
        optimizer.zero_grad()
        loss(model, seed).backward()
        optimizer.step()
    assert (model.conv1.out_channels, len(optimizer.state[model.conv1.weight])) == (kept, len(dense["conv1.weight"]))


def test_momentum_goes_on_as_that_of_the_masked_model_does() -> None:
    """Masked and sliced, the same steps from the same momentum give the same function."""
    outputs = []
    for when in (None, "before"):
        model = trained("cnn")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        train(model, 3, optimizer=optimizer)
        pruner = pruner_of(model, when, dummy_input=DUMMY)
        pruner.compress()
        train(model, 5, seed=1, optimizer=optimizer)
        pruner.apply_speedup()
        outputs.append(model.eval()(digits()[0][:64]))
    assert relative_difference(outputs[:1], outputs[1:]) < 1e-3


def test_state_that_is_not_cut_by_parameters_starts_afresh() -> None:
    model = trained("cnn")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, history_size=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss(model)
        found.backward()
        return found

    optimizer.step(closure)
    pruner_of(model, "before", dummy_input=DUMMY).compress()
    before = model.conv1.weight.detach().clone()
    optimizer.step(closure)
    assert not torch.equal(before, model.conv1.weight)


def test_apply_speedup_after_that_does_nothing_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("cnn")
    pruner = pruner_of(model, "before", dummy_input=DUMMY)
    pruner.compress()
    count = parameters(model)
    assert pruner.apply_speedup(dummy_input=DUMMY) is model and pruner.apply_speedup() is model
    assert parameters(model) == count
    assert capsys.readouterr().err.count("apply_speedup() changes nothing") == 1


@pytest.mark.parametrize("calls", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trial_saves_the_small_model_whether_the_script_slices_or_not(enter: Enter, when: str, calls: bool) -> None:
    trial, sent = enter("trial", config={"compressor": "l1_filter", "config_list": CONVOLUTIONS, SLICE_KEY: when})
    model = trained("cnn")
    dense = parameters(model)
    config = {"compressor": "l1_filter", "config_list": CONVOLUTIONS}  # a script that passes on a part only
    pruner = create_compressor(model, config)
    pruner.compress()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, 2, optimizer=optimizer)
    assert (parameters(model) < dense) is (when == "before"), "after: what trains is masked"
    if calls:
        pruner.apply_speedup()
        train(model, 1, optimizer=optimizer)
    with torch.no_grad():
        model.eval()(digits()[0])
    for hook in trial.on_report:
        hook({"accuracy": 0.5})
    for finish in trial.on_finish:  # it saves nothing itself
        finish()
    (saved,) = [message for message in sent if message["type"] == "candidate"]
    assert saved["after"]["params"] == parameters(model) < dense
    loaded = bundle.load(trial.candidate, Cnn()).eval()
    assert torch.equal(loaded(digits()[0][:64]), model.eval()(digits()[0][:64]))


def test_after_goes_on_training_when_the_model_was_saved(enter: Enter) -> None:
    trial, sent = enter("trial", config={SLICE_KEY: "after"})
    model = trained("cnn")
    pruner = pruner_of(model, None, dummy_input=DUMMY)
    pruner.compress()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(2):
        train(model, 2, seed=epoch, optimizer=optimizer)
        pruner.export_model("model.pth")
    for hook in trial.on_report:
        hook({"accuracy": 0.5})
    for finish in trial.on_finish:
        finish()
    assert [message["after"]["params"] for message in sent if message["type"] == "candidate"] == [parameters(model)] * 2


def test_rung_zero_and_budgets_are_judged_before_it_is_cut(enter: Enter) -> None:
    _, sent = enter("trial", config={SLICE_KEY: "before"}, rung0=True, budget=(("params", "max_ratio", 0.9),))
    model = trained("cnn")

    def evaluator(tried: nn.Module) -> float:
        with torch.no_grad():
            return (tried.eval()(digits()[0][:64]).argmax(1) == digits()[1][:64]).float().mean().item()

    pruner_of(model, None, dummy_input=DUMMY, evaluator=evaluator).compress()
    assert [message["type"] for message in sent] == ["rung0"]
    assert model.conv1.out_channels == 6


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_model_in_a_wrapper_is_cut_inside_at_its_first_call(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = trained("cnn")
    wrapped = wrap(model)
    wrapped(digits()[0][:4])  # a compiled model has seen its large weights
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    pruner_of(wrapped, "before").compress()
    F.cross_entropy(wrapped(digits()[0][:64]), digits()[1][:64]).backward()
    before = model.conv1.weight.detach().clone()
    assert len(before) == 6
    optimizer.step()
    assert not torch.equal(before, model.conv1.weight)


def test_a_method_that_decides_while_the_script_trains_is_refused_in_compress() -> None:
    pruner = pruner_of(trained("cnn"), "before", "activation_mean_rank_filter", dummy_input=DUMMY)
    with pytest.raises(CompressionError, match="nothing can be sliced before"):
        pruner.compress()


def test_single_weights_are_not_sliced_and_other_words_are_refused(tmp_path: Path) -> None:
    model = trained("cnn")
    pruner_of(model, "before", "level", dummy_input=DUMMY).compress()  # a trial whose base is level, of several
    assert model.conv1.out_channels == 12
    with pytest.raises(ExperimentError, match='must be "before" or "after"'):
        pruner_of(trained("cnn"), "first", dummy_input=DUMMY)


def test_rc_compress_slices_when_it_is_told_to(tmp_path: Path) -> None:
    seen: list[int] = []

    def finetune(model: nn.Module) -> None:
        seen.append(parameters(model))

    found = {
        when: rc.compress(trained("cnn"), DUMMY, folder=tmp_path / when, finetune=finetune, slice=when).after["params"]
        for when in ("before", "after")
    }
    assert found["before"] == found["after"] == seen[0] < seen[1] == parameters(Cnn())
    with pytest.raises(UsageError, match="admm trains the model"):
        rc.compress(trained("cnn"), DUMMY, "admm", slice="before", trainer=print)
    with pytest.raises(UsageError, match="neither"):
        rc.compress(trained("cnn"), DUMMY, slice="first")  # type: ignore[arg-type]
