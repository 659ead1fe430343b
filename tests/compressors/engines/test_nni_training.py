"""NNI's pruners that act while the script trains, or that train the model: both conventions, and what goes wrong."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.engines.nni.library import load_nni
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.errors import CompressionError, ExperimentError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, MODELS, Cnn, digits, train, trained

EXAMPLE = Example.from_dummy(DUMMY)
APOZ, MEAN, TAYLOR = "activation_apoz_rank_filter", "activation_mean_rank_filter", "taylor_fo_weight_filter"
STATISTICS = (APOZ, MEAN, TAYLOR)
EPOCHS = [{"final_sparsity": 0.5, "start_epoch": 0, "end_epoch": 3, "frequency": 1, "op_types": ["Conv2d"]}]
AWARE = {"dependency_aware": True, "dummy_input": DUMMY}
CELLS = [
    *[(name, {"compressor": compressor}, trains) for name in MODELS for compressor in STATISTICS for trains in (0, 1)],
    *[(name, {"compressor": "agp", "pruning_algorithm": "fpgm"}, trains) for name in MODELS for trains in (0, 1)],
    ("mobilenet", {"compressor": "agp", "pruning_algorithm": "apoz"}, 0),
    ("mobilenet", {"compressor": "agp", "pruning_algorithm": "taylorfo"}, 1),
    *[(name, {"compressor": "admm", "num_iterations": 2, "training_epochs": 1}, 1) for name in MODELS],
]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def trainer_of(steps: int = 3) -> Callable[..., None]:
    def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
        train(model, steps, epoch, optimizer)

    return trainer


def compressor_of(model: nn.Module, name: str, config_list: Any = CONVOLUTIONS, **more: Any) -> Compressor:
    return create_compressor(model, {"compressor": name, "config_list": config_list}, **more)


def channels(compressor: Compressor) -> dict[str, tuple[int, ...]]:
    return dict(compressor._decision.channels)  # type: ignore[attr-defined]


def is_plain(model: nn.Module) -> bool:
    """Whether no module of NNI's is in the model, and no hook but those of the masks."""
    own = {type(module).__module__.split(".")[0] for module in model.modules()} <= {"torch", "tests"}
    return own and not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize(("name", "asked", "trains"), CELLS)
def test_masked_equals_sliced_in_both_conventions(name: str, asked: dict[str, Any], trains: int) -> None:
    model = trained(name)
    names, before, optimizer = list(model.state_dict()), measure.parameters(model), sgd(model)
    more = {key: value for key, value in asked.items() if key != "compressor"}
    is_agp = asked["compressor"] == "agp"
    if trains:
        more["trainer"] = trainer_of()
        more |= {"num_iterations": 3} if is_agp else {}
    if name == "resnet":
        more |= AWARE  # its layers are tied: by themselves they choose other channels
    config_list = EPOCHS if is_agp and not trains else CONVOLUTIONS
    pruner = compressor_of(model, asked["compressor"], config_list, optimizer=optimizer, **more)
    assert pruner.compress() is model
    for epoch in range(3):
        pruner.update_epoch(epoch)
        train(model, 3, epoch, optimizer)
    assert is_plain(model)
    assert "step" not in vars(optimizer)
    EXAMPLE.outputs(model)
    for key, kept in pruner._masks.kept().items():  # type: ignore[attr-defined]
        assert (model.state_dict()[key][kept == 0] == 0).all(), key
    masked = copy.deepcopy(model)
    assert pruner.apply_speedup() is model  # its input was seen in the training
    inputs = [EXAMPLE, EXAMPLE.random(7), EXAMPLE.random(8)]
    assert max(relative_difference(one.outputs(masked), one.outputs(model)) for one in inputs) <= TOLERANCE
    assert measure.parameters(model) < 0.5 * before
    assert list(model.state_dict()) == names
    counts = pruner._slicing.removal.counts()  # type: ignore[attr-defined]
    assert all(removed == of // 2 for removed, of in counts.values())
    train(model, 2, optimizer=optimizer)  # the small model trains on


def uneven(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
    """Train on a batch of many, one of few, and one of a few more."""
    images, labels = digits()
    model.train()
    for batch in (slice(0, 200), slice(200, 203), slice(203, 240)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_channels_are_those_that_nni_itself_chooses(name: str, aware: bool) -> None:
    model = trained("resnet")
    others = copy.deepcopy(model)
    kind = {APOZ: "ActivationAPoZRank", MEAN: "ActivationMeanRank", TAYLOR: "TaylorFOWeight"}[name]
    options = AWARE if aware else {}
    theirs = getattr(load_nni(), f"{kind}FilterPruner")(
        others, CONVOLUTIONS, sgd(others), uneven, None, sparsifying_training_batches=3, **options
    )
    theirs.compress()
    expected = {
        wrapper.name: tuple((wrapper.weight_mask.flatten(1).sum(1) == 0).nonzero().flatten().tolist())
        for wrapper in theirs.get_modules_wrapper()
    }
    dense = copy.deepcopy(model.state_dict())
    ours = compressor_of(
        model, name, [{"sparsity": 0.5, "op_names": list(expected)}], statistics_batch_num=3, **options
    )
    ours.compress()
    assert all(torch.equal(dense[key], value) for key, value in model.state_dict().items())
    if aware:
        uneven(model, sgd(model), None, 0)
    else:
        # what activations choose for each layer by itself, tied layers cannot lose
        with pytest.raises(CompressionError, match="loses none") if name != TAYLOR else contextlib.nullcontext():
            uneven(model, sgd(model), None, 0)
    assert channels(ours) == expected


def test_statistics_are_gathered_for_so_many_batches_and_from_training_only() -> None:
    model = trained("cnn")
    pruner = compressor_of(model, MEAN, statistics_batch_num=4, activation="relu6")
    pruner.compress()
    train(model, 2)
    with torch.no_grad():
        for _ in range(5):
            model(DUMMY.repeat(8, 1, 1, 1) * 100)
    early = copy.deepcopy(model)
    train(early, 6)  # a copy is the user's own, and counts for nothing
    hooks = [hook for module in early.modules() for hook in module._forward_hooks.values()]
    assert [hook.mean() for hook in hooks] == [None, None]  # type: ignore[attr-defined]
    for act in (pruner.apply_speedup, lambda: pruner.export_model("m.pth")):
        with pytest.raises(CompressionError, match="chooses after 4 batches of training, and 2 were seen") as caught:
            act()
    assert "statistics_batch_num" in str(caught.value)
    assert not is_plain(model)
    train(model, 1)
    assert pruner._decision is None  # type: ignore[attr-defined]
    train(model, 1)
    assert is_plain(model)
    without = trained("cnn")
    other = compressor_of(without, MEAN, sparsifying_training_batches=4, activation="relu6")
    other.compress()
    for steps in (2, 1, 1):
        train(without, steps)
    assert channels(other) == channels(pruner)  # evaluation made no difference


def test_a_layer_without_statistics_is_an_error() -> None:
    model = trained("cnn")
    model.extra = nn.Conv2d(1, 8, 3)
    chosen = [{"sparsity": 0.5, "op_names": ["extra"]}]
    compressor_of(model, APOZ, chosen).compress()
    with pytest.raises(CompressionError, match='"extra" takes no part in the forward pass'):
        train(model, 1)
    frozen = trained("cnn")
    frozen.conv1.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    with pytest.raises(CompressionError, match='judges by gradients, and "conv1" is frozen'):
        compressor_of(frozen, TAYLOR).compress()


def test_what_cannot_be_sliced_is_told_before_the_training() -> None:
    class FixedView(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.fc = nn.Linear(8 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x)[:, [0, 1, 2, 3, 4, 5, 6, 7]].flatten(1))

    pruner = compressor_of(FixedView(), APOZ, dummy_input=DUMMY)
    with pytest.raises(CompressionError):
        pruner.compress()


@pytest.mark.parametrize("base", ["level", "l1", "l2", "fpgm"])
def test_admm_takes_both_signatures_and_pulls(base: str) -> None:
    calls = []

    def old(model: nn.Module, criterion: Any, optimizer: Any, epoch: int, callback: Callable[[], None]) -> None:
        calls.append(epoch)
        callback()
        train(model, 2, len(calls), optimizer)

    def new(model: nn.Module, optimizer: Any, criterion: Any, epoch: int) -> None:
        assert isinstance(criterion, nn.CrossEntropyLoss)
        train(model, 2, len(calls), optimizer)
        calls.append(epoch)

    weights, chosen = [], []
    for trainer, epochs in ((old, "training_epochs"), (new, "epochs_per_iteration")):
        calls.clear()
        model = trained("cnn")
        more = {"trainer": trainer, epochs: 2, "num_iterations": 3, "base_algo": base, "row": 0.01}
        if trainer is new:
            calls.append(-1)  # both count their batches alike
        pruner = compressor_of(model, "admm", **more)
        pruner.compress()
        assert calls[-6:] == [0, 1] * 3
        weights.append(model.conv2.weight.detach().clone())  # type: ignore[union-attr, operator]
        chosen.append(pruner._decision)  # type: ignore[attr-defined]
        assert is_plain(model)
        if base == "level":
            assert int((weights[-1] == 0).sum()) == weights[-1].numel() // 2
        else:
            pruner.apply_speedup()
            assert model.conv2.weight.shape == (8, 6, 3, 3)  # type: ignore[union-attr]
    assert torch.equal(*weights)  # callback is served, and the pull acts once a step
    assert chosen[0].channels == chosen[1].channels


def test_the_users_own_errors_and_prints_pass_through(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
        train(model, 1, optimizer=optimizer)
        print(f"epoch {epoch}")
        logging.getLogger("mine").info("so it goes")
        if epoch:
            raise KeyError("the user's own")

    model = trained("resnet").train()
    model.bn1.eval()  # type: ignore[union-attr, operator]
    for name in ("agp", "admm"):
        optimizer = sgd(model)
        pruner = compressor_of(model, name, optimizer=optimizer, trainer=trainer)
        with pytest.raises(KeyError, match="the user's own") as caught:
            pruner.compress()
        assert caught.value.__context__ is None
        assert caught.traceback[-1].name == "trainer"
        assert is_plain(model)
        assert "step" not in vars(optimizer)
        assert capsys.readouterr().out == "epoch 0\nepoch 1\n"
    assert [record.name for record in caplog.records] == ["mine"] * 4


def test_mistakes_are_told_before_anything_is_trained() -> None:
    def never(model: nn.Module, optimizer: object, criterion: object, epoch: int) -> None:
        raise AssertionError

    model, foreign = trained("cnn"), sgd(Cnn())
    before = copy.deepcopy(model.state_dict())
    good = {"optimizer": sgd(model), "trainer": never}
    for name in (*STATISTICS, "agp"):
        for more, said in (
            ({**good, "optimizer": foreign}, "holds none of the parameters of Cnn"),
            ({"optimizer": foreign}, "holds none of the parameters of Cnn"),
            ({**good, "optimizer": "sgd"}, "optimizer is a torch optimizer, not str"),
            ({"trainer": never}, "needs the optimizer"),
            ({**good, "trainer": lambda model, epoch: None}, "trainer cannot be called as"),
            ({**good, "trainer": 3}, "trainer cannot be called as"),
        ):
            with pytest.raises(CompressionError, match=said):
                compressor_of(model, name, **more).compress()
    for more, said in (
        ({"activation": "gelu"}, 'no activation "gelu"'),
        ({"statistics_batch_num": 0}, "statistics_batch_num=0"),
        ({"statistics_batch_num": 2, "sparsifying_training_batches": 3}, "is not clear"),
        ({"dependency_aware": True}, "needs to know an input"),
    ):
        with pytest.raises(CompressionError, match=said):
            compressor_of(model, APOZ, **more).compress()
    with pytest.raises(ExperimentError, match="admm needs trainer="):
        compressor_of(model, "admm")
    for more, said in (
        ({"trainer": lambda model, optimizer: None}, "trainer cannot be called as"),
        ({"trainer": never, "training_epochs": 2, "epochs_per_iteration": 3}, "same thing and differ"),
        ({"trainer": never, "num_iterations": 0}, "num_iterations is a whole number"),
        ({"trainer": never, "base_algo": "l3"}, 'no base_algo "l3"'),
        ({"trainer": never, "row": "much"}, "row is a number"),
    ):
        with pytest.raises(CompressionError, match=said):
            compressor_of(model, "admm", **more).compress()
    assert is_plain(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [*STATISTICS, "admm"])
def test_a_trainer_that_trains_something_else_is_an_error(name: str) -> None:
    model = trained("cnn")

    def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object, epoch: int) -> None:
        train(model, 2)  # by an optimizer of its own

    with pytest.raises(CompressionError, match=r"trainer (made 0 steps|never called step)"):
        compressor_of(model, name, optimizer=sgd(model), trainer=trainer).compress()
    assert is_plain(model)


JOBS: dict[str, dict[str, Any]] = {
    TAYLOR: {"config_list": CONVOLUTIONS, "more": {"statistics_batch_num": 2}},
    APOZ: {"config_list": CONVOLUTIONS, "more": {"trainer": trainer_of()}},
    "agp": {"config_list": EPOCHS, "more": {"pruning_algorithm": "l1"}},
    "admm": {"config_list": CONVOLUTIONS, "more": {"trainer": trainer_of(), "num_iterations": 1}},
    "lottery_ticket": {"config_list": [{**CONVOLUTIONS[0], "prune_iterations": 1}], "more": {}},
}


def script(model: nn.Module, name: str) -> Compressor:
    """Do what a training script does."""
    job, optimizer = JOBS[name], sgd(model)
    pruner = compressor_of(model, name, job["config_list"], optimizer=optimizer, **job["more"])
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        for epoch in range(3):
            pruner.update_epoch(epoch)
            train(model, 2, epoch, optimizer)
    if name != "lottery_ticket":
        pruner.apply_speedup()
    return pruner


@pytest.mark.parametrize("name", JOBS)
def test_a_trial_exports_a_bundle_that_reloads(enter: Any, name: str) -> None:
    trial, sent = enter("trial")
    model = trained("vgg")
    pruner = script(model, name)
    for hook in trial.on_report:
        hook({"accuracy": 0.5})
    pruner.export_model("model.pth", mask_path="mask.pth", save_best_only=True)
    for hook in trial.on_finish:
        hook()
    message = sent[-1]
    assert message["type"] == "candidate"
    small = message["after"]["params"] < message["before"]["params"]
    assert small == (name != "lottery_ticket")
    loaded = bundle.load(trial.candidate, MODELS["vgg"]())
    images = EXAMPLE.random(3).args[0].repeat(4, 1, 1, 1)
    assert torch.equal(model.eval()(images), loaded.eval()(images))


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if "trainer" not in job["more"]])
def test_a_trial_without_its_choice_fails(enter: Any, name: str) -> None:
    trial, _ = enter("trial")
    job = JOBS[name]
    model = trained("vgg")
    compressor_of(model, name, job["config_list"], optimizer=sgd(model), **job["more"]).compress()
    train(model, 1)
    with pytest.raises(CompressionError, match=f"{name}: "):
        for hook in trial.on_finish:
            hook()


@pytest.mark.parametrize("name", JOBS)
def test_the_baseline_trains_the_dense_model(enter: Any, name: str) -> None:
    enter("baseline")
    model, dense = trained("vgg"), trained("vgg")
    torch.manual_seed(1)  # for the dropout
    script(model, name)
    torch.manual_seed(1)
    optimizer = sgd(dense)
    for epoch in range(3):
        train(dense, 2, epoch, optimizer)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), dense.parameters(), strict=True))
    assert is_plain(model)
