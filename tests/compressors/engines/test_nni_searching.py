"""The pruners that search: what they find is what the small model is, they end, and they say what is wrong at once."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raycompress
from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.searching.amc import inner
from raycompress.compressors.engines.nni.searching.amc_environment import Environment, Limits
from raycompress.compressors.engines.nni.searching.prunable import TiedChannels
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure import slicing
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.errors import CompressionError, ExperimentError, SpeedupError, UsageError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Mlp, ResNet, digits, train, trained

EXAMPLE = Example.from_dummy(DUMMY)
NETWORKS = ("cnn", "resnet", "mobilenet", "vgg")
ALL = [{"op_types": ["Conv2d", "Linear"]}]


def accuracy(model: nn.Module) -> float:
    images, labels = digits()
    training = model.training
    model.eval()
    with torch.no_grad():
        right = float((model(images[:600]).argmax(1) == labels[:600]).float().mean())
    model.train(training)
    return right


def fine_tune(model: nn.Module) -> None:
    train(model, 2)


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any, epoch: int) -> None:
    train(model, 3, seed=epoch, optimizer=optimizer)


def loader() -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return [(images[start : start + 50], labels[start : start + 50]) for start in range(0, 200, 50)]


def short(name: str) -> dict[str, Any]:
    """Return arguments that make a search short."""
    return {
        "sensitivity": {"evaluator": accuracy, "finetuner": fine_tune, "sparsity_per_iter": 0.3},
        "net_adapt": {"evaluator": accuracy, "short_term_fine_tuner": fine_tune, "sparsity_per_iteration": 0.2},
        "simulated_annealing": {"evaluator": accuracy, "stop_temperature": 60},
        "auto_compress": {
            "evaluator": accuracy,
            "trainer": trainer,
            "dummy_input": DUMMY,
            "num_iterations": 2,
            "stop_temperature": 70,
            "admm_num_iterations": 2,
            "admm_epochs_per_iteration": 1,
        },
        "amc": {
            "evaluator": lambda val_loader, model: 100 * accuracy(model),
            "val_loader": loader(),
            "train_episode": 6,
            "warmup": 3,
            "hidden1": 16,
            "hidden2": 16,
            "bsize": 8,
            "channel_round": 1,
            "seed": 0,
        },
    }[name]


def pruner_of(name: str, model: nn.Module, **more: Any) -> Compressor:
    np.random.seed(0)
    config_list = more.pop("config_list", ALL if name == "amc" else CONVOLUTIONS)
    arguments = {**short(name), **more}
    return create_compressor(model, {"compressor": name, "config_list": config_list}, **arguments)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "amc"])
def test_masked_equals_sliced(name: str, network: str, tmp_path: Path) -> None:
    model = trained(network, 60)
    before = measure.sizes(model, EXAMPLE)
    pruner = pruner_of(name, model)
    assert pruner.compress() is model
    assert {type(module).__module__.partition(".")[0] for module in model.modules()} == {"torch", "tests"}
    train(model, 3)
    masked = copy.deepcopy(model)
    pruner.apply_speedup()
    for inputs in (EXAMPLE, EXAMPLE.random(3)):
        assert relative_difference(inputs.outputs(masked), inputs.outputs(model)) <= TOLERANCE
    after = measure.sizes(model, EXAMPLE)
    assert after.params < 0.75 * before.params
    if name == "amc":
        assert after.flops <= 0.5 * before.flops
    reloaded(pruner, model, network, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("network", NETWORKS)
def test_amc_counts_the_flops_of_the_small_model(network: str, share: float) -> None:
    model = trained(network, 0)
    before = measure.sizes(model, EXAMPLE)
    pruner = pruner_of("amc", model)
    request = Request(pruner._entry, model, pruner._targets, pruner._arguments, EXAMPLE)  # type: ignore[attr-defined]
    targets = inner(request, ChannelGraph(model, EXAMPLE))
    prunable = TiedChannels(model, EXAMPLE, targets, request.compressor, "l1")
    limits = Limits(flops_ratio=0.6, lbound=0.2, rbound=1.0, channel_round=2)
    environment = Environment(model, EXAMPLE, prunable, limits, accuracy, lambda *_: 0.0, [DUMMY], 4)
    for _ in environment.groups:
        _, _, done, info = environment.step(share)
    assert done
    assert info is not None
    assert 0.5 < info["compress_ratio"] <= 0.6 or share < 0.5
    cut = slicing.make(model, EXAMPLE, environment.best_choice, request.targets, request.compressor)
    cut.apply(model)
    counted = info["compress_ratio"] * before.flops
    assert measure.sizes(model, EXAMPLE).flops == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_auto_compress_comes_back_small_and_trained(network: str, tmp_path: Path) -> None:
    model = trained(network, 60)
    before = measure.sizes(model, EXAMPLE)
    answers: list[float] = []
    pruner = pruner_of("auto_compress", model, evaluator=recorded(answers))
    assert pruner.compress() is model
    after = measure.sizes(model, EXAMPLE)
    assert after.params < 0.75 * before.params
    assert accuracy(model) == pytest.approx(answers[-1], abs=1e-6)  # the small model of the last round, to the digit
    reloaded(pruner, model, network, tmp_path)


def reloaded(pruner: Compressor, model: nn.Module, network: str, folder: Path) -> None:
    """Export, load into a fresh network, and compare."""
    bundle = folder / "bundle"
    pruner.export_model(str(folder / "model.pth"), bundle_path=str(bundle))
    fresh = raycompress.load(bundle, trained(network, 0))
    assert relative_difference(EXAMPLE.outputs(model), EXAMPLE.outputs(fresh)) <= 1e-6


def recorded(answers: list[float]) -> Callable[[nn.Module], float]:
    def evaluator(model: nn.Module) -> float:
        answers.append(accuracy(model))
        return answers[-1]

    return evaluator


def test_the_best_that_the_annealing_saw_is_the_small_model() -> None:
    for network in ("resnet", "mobilenet"):  # tied layers, and BatchNorm behind what goes
        answers: list[float] = []
        model = trained(network, 60)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        pruner = pruner_of("simulated_annealing", model, evaluator=recorded(answers))
        pruner.compress()
        assert len(answers) > 3
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
        assert accuracy(pruner.apply_speedup(DUMMY)) == pytest.approx(max(answers[1:]), abs=1e-6)


def test_the_best_episode_of_amc_is_the_small_model() -> None:
    answers: list[float] = []
    model = trained("vgg", 60)
    pruner = pruner_of("amc", model, evaluator=recorded(answers))  # evaluator(model), without a val_loader
    pruner.compress()
    assert len(answers) == 7
    assert accuracy(pruner.apply_speedup(DUMMY)) == pytest.approx(max(answers[1:]), abs=1e-6)


@pytest.mark.parametrize("name", ["net_adapt", "simulated_annealing"])
def test_minimize_is_maximize_of_the_opposite(name: str) -> None:
    removed = []
    for sign, mode in ((1, "maximize"), (-1, "minimize")):

        def evaluator(model: nn.Module, sign: int = sign) -> float:
            return sign * accuracy(model)

        pruner = pruner_of(name, trained("vgg", 60), evaluator=evaluator, optimize_mode=mode)
        pruner.compress()
        pruner.apply_speedup(DUMMY)
        removed.append(pruner._slicing.removal)  # type: ignore[attr-defined]
    assert removed[0] == removed[1]


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing"])
def test_the_sparsity_is_met_over_all_layers_together(name: str) -> None:
    model = trained("vgg", 60)
    pruner = pruner_of(name, model, config_list=[{"sparsity": 0.4, "op_types": ["Conv2d"]}])
    pruner.compress()
    pruner.apply_speedup(DUMMY)
    sizes = {"features.0": 16 * 9, "features.4": 32 * 16 * 9}
    counts = pruner._slicing.removal.counts()  # type: ignore[attr-defined]
    gone = sum(sizes[layer] * removed / of for layer, (removed, of) in counts.items())
    assert gone / sum(sizes.values()) == pytest.approx(0.4, abs=0.04)  # one of 32 channels


def test_sensitivity_takes_the_old_convention_and_leaves_out_what_is_excluded() -> None:
    model = trained("vgg", 60)
    seen: list[nn.Module] = []

    def evaluator(given: nn.Module) -> float:
        seen.append(given)
        return accuracy(given)

    config_list = [*CONVOLUTIONS, {"op_names": ["features.0"], "exclude": True}]
    pruner = pruner_of("sensitivity", model, evaluator=evaluator, finetuner=fine_tune, config_list=config_list)
    pruner.compress(eval_args=[model], finetune_args=[model])
    assert {id(one) for one in seen} == {id(model)}
    pruner.apply_speedup(DUMMY)
    assert pruner._slicing.removal.counts() == {"features.4": (16, 32)}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="takes no argument finetune_arg"):
        pruner_of("sensitivity", trained("vgg", 0)).compress(finetune_arg=[model])


def test_without_a_finetuner_sensitivity_gives_the_weights_back() -> None:
    model = trained("cnn")
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    pruner_of("sensitivity", model, finetuner=None).compress()
    for key, value in model.state_dict().items():
        assert torch.equal(torch.where(value != 0, weights[key], 0.0), value), key  # masked, and otherwise as it was


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing"])
def test_level_masks_single_weights_of_any_layer(name: str) -> None:
    model = trained("cnn", 60)
    config_list = [{"sparsity": 0.5, "op_types": ["default"]}]
    pruner = pruner_of(name, model, base_algo="level", config_list=config_list)
    pruner.compress()
    EXAMPLE.outputs(model)
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(weight.numel() for weight in weights) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(SpeedupError, match="masks single weights"):
        pruner.apply_speedup(DUMMY)


def test_net_adapt_ends_where_nnis_never_does(caplog: pytest.LogCaptureFixture) -> None:
    # steps larger than any layer: NNI's loop halves its step for ever, and logs it
    caplog.set_level(logging.DEBUG)
    pruner = pruner_of("net_adapt", trained("mobilenet"), sparsity_per_iteration=0.9)
    pruner.compress()
    assert not caplog.records
    with pytest.raises(CompressionError, match=r"sparsity 0\.99 is out of reach: at 0\.9"):
        pruner_of("net_adapt", trained("vgg"), config_list=[{"sparsity": 0.99, "op_types": ["Conv2d"]}]).compress()


def test_annealing_says_that_no_spread_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycompress.compressors.engines.nni.searching.annealing._DRAWS", 2000)
    config_list = [{"sparsity": 0.999, "op_types": ["Conv2d"]}]
    with pytest.raises(CompressionError, match=r"sparsity 0\.999 is out of reach"):
        pruner_of("simulated_annealing", trained("resnet"), config_list=config_list).compress()


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress", "amc"])
@pytest.mark.parametrize("answer", [None, float("nan"), (0.9, 0.1), "0.9"])
def test_an_evaluator_that_answers_no_number_is_an_error(name: str, answer: object) -> None:
    def evaluator(model: nn.Module) -> object:
        accuracy(model)
        return answer

    with pytest.raises(CompressionError, match=r"the evaluator answered .*, which is not one finite number"):
        pruner_of(name, trained("cnn", 0), evaluator=evaluator).compress()


@pytest.mark.parametrize("kind", [np.array, np.float32, lambda answer: np.array([answer]), torch.tensor])
def test_an_evaluator_may_answer_an_array_of_one_number(kind: Callable[[float], object]) -> None:
    model = trained("cnn", 0)
    pruner_of("simulated_annealing", model, evaluator=lambda model: kind(accuracy(model))).compress()
    train(model, 1)


def test_an_evaluator_that_is_no_function_is_an_error() -> None:
    with pytest.raises(CompressionError, match="calls functions of the script, and was given 'accuracy'"):
        pruner_of("simulated_annealing", trained("cnn", 0), evaluator="accuracy").compress()


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress", "amc"])
def test_what_the_script_raises_comes_out_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("cnn", 0)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    cause, calls = KeyError("cause"), [0]

    def evaluator(given: nn.Module) -> float:
        calls[0] += 1
        print("evaluating")
        if calls[0] == 2:
            raise ZeroDivisionError("mine") from cause
        return accuracy(given)

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        pruner_of(name, model, evaluator=evaluator).compress()
    assert caught.value.__cause__ is cause
    assert any(frame.name == "evaluator" for frame in caught.traceback)
    assert capsys.readouterr().out == "evaluating\n" * 2
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress", "amc"])
def test_a_search_without_an_end_is_ended(name: str, threaded: bool) -> None:
    def evaluator(model: nn.Module) -> float:
        with contextlib.suppress(Exception):  # a script that holds on to everything
            time.sleep(0.2)
        return accuracy(model)

    raised: list[BaseException] = []

    def compress() -> None:
        with pytest.raises(CompressionError, match=r"had not ended after 0\.5 s and \d+ evaluations") as caught:
            pruner_of(name, trained("vgg", 0), evaluator=evaluator, search_timeout_s=0.5).compress()
        raised.append(caught.value)

    if threaded:
        thread = threading.Thread(target=compress)
        thread.start()
        thread.join()
    else:
        handler = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        signal.setitimer(signal.ITIMER_REAL, 100, 7)
        try:
            compress()
            left, interval = signal.getitimer(signal.ITIMER_REAL)
            assert 0 < left < 100
            assert interval == 7
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
    assert "search_timeout_s" in str(raised[0])


def test_one_call_that_never_returns_is_ended() -> None:
    def evaluator(model: nn.Module) -> float:
        accuracy(model)
        while True:
            time.sleep(0.01)

    with pytest.raises(CompressionError, match="and 0 evaluations"):
        pruner_of("simulated_annealing", trained("cnn", 0), evaluator=evaluator, search_timeout_s=0.3).compress()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("net_adapt", {"optimize_mode": "best"}, "knows no optimize_mode 'best'"),
        ("simulated_annealing", {"base_algo": "taylor"}, "knows no base_algo 'taylor'"),
        ("auto_compress", {"base_algo": "level"}, "knows no base_algo 'level'"),
        ("simulated_annealing", {"stop_temperature": 100}, "nothing would be searched"),
        ("simulated_annealing", {"cool_down_rate": 1.0}, "cool_down_rate is a number above 0 and below 1"),
        ("net_adapt", {"sparsity_per_iteration": 0}, "sparsity_per_iteration is a number above 0"),
        ("sensitivity", {"search_timeout_s": 0}, "search_timeout_s is a number of seconds above 0"),
        ("auto_compress", {"num_iterations": 0}, "num_iterations is a whole number above 0"),
        ("amc", {"reward": "speed"}, "amc knows no reward 'speed'"),
        ("amc", {"rbound": 0.1}, "rbound is a number above lbound"),
        ("net_adapt", {"evaluator": None}, "net_adapt needs evaluator="),
        ("amc", {"config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}, 'unknown key "sparsity"'),
        (
            "sensitivity",
            {"config_list": [{"sparsity": s, "op_names": [n]} for s, n in ((0.3, "conv1"), (0.5, "conv2"))]},
            "several sparsities, 0.3, 0.5",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_search(name: str, more: dict[str, Any], message: str) -> None:
    evaluated: list[float] = []
    with pytest.raises(ExperimentError, match=message):
        pruner_of(name, trained("cnn", 0), **{"evaluator": recorded(evaluated), **more}).compress()
    assert not evaluated


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress"])
def test_a_model_without_convolutions_is_refused(name: str) -> None:
    config_list = [{"sparsity": 0.5, "op_types": ["Linear"]}]
    with pytest.raises(ExperimentError, match="takes Conv2d only"):
        pruner_of(name, Mlp(), config_list=config_list)


@pytest.mark.parametrize("name", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress", "amc"])
def test_one_member_of_a_tied_group_is_an_error_before_the_search(name: str) -> None:
    evaluated: list[float] = []
    config_list: list[dict[str, Any]] = [{"op_names": ["layer1.0.conv2"]}]
    if name != "amc":
        config_list[0]["sparsity"] = 0.5
    with pytest.raises(CompressionError, match=r'none.*: they are tied to "conv1", "layer1.1.conv2"'):
        pruner_of(name, ResNet(), config_list=config_list, evaluator=recorded(evaluated)).compress()
    assert len(evaluated) <= 1


def test_amc_says_that_the_flops_are_out_of_reach() -> None:
    config_list = [{"op_names": ["conv1"]}]
    with pytest.raises(CompressionError, match=r"flops_ratio 0\.1 is out of reach: with lbound 0\.05"):
        pruner_of("amc", trained("cnn"), config_list=config_list, flops_ratio=0.1, lbound=0.05).compress()
    with pytest.raises(CompressionError, match="no layer of the config_list has channels that can go"):
        pruner_of("amc", trained("cnn"), config_list=[{"op_names": ["fc2"]}]).compress()
    with pytest.raises(CompressionError, match="val_loader is empty"):
        pruner_of("amc", trained("cnn"), val_loader=[]).compress()


def test_auto_compress_without_an_input_is_an_error_before_the_search() -> None:
    evaluated: list[float] = []
    with pytest.raises(CompressionError, match="auto_compress needs to know an input"):
        pruner_of("auto_compress", trained("cnn"), dummy_input=None, evaluator=recorded(evaluated)).compress()
    assert not evaluated


def test_an_evaluator_that_looks_at_another_model_is_an_error() -> None:
    model = trained("cnn")
    with pytest.raises(CompressionError, match="did not call the model that it was given"):
        pruner_of("simulated_annealing", model, evaluator=lambda _given: accuracy(model)).compress()


def test_an_old_trainer_gets_its_callback_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    callbacks = []

    def old(model: nn.Module, optimizer: Any, criterion: Any, epoch: int, callback: Callable[[], None]) -> None:
        callbacks.append(callback())
        trainer(model, optimizer, criterion, epoch)

    more = {"trainer": old, "admm_training_epochs": 2, "admm_epochs_per_iteration": 5}
    pruner_of("auto_compress", trained("cnn"), **more).compress()
    assert len(callbacks) == 2 * 2 * 2
    pruner_of("amc", trained("cnn")).compress()
    pruner_of("net_adapt", trained("cnn")).compress()
    assert list(tmp_path.iterdir()) == []
    kept = {"experiment_data_dir": str(tmp_path / "kept")}
    pruner_of("simulated_annealing", trained("cnn"), **kept).compress()
    pruner_of("net_adapt", trained("cnn"), **kept).compress()
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"search_history.csv", "search_result.json"}


def test_what_a_trial_records_beside_its_model_lies_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enter: Callable[..., Any]
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.chdir(shared)
    enter("trial")
    for name in ("simulated_annealing", "net_adapt"):
        pruner_of(name, trained("cnn"), experiment_data_dir="./").compress()
    pruner_of("amc", trained("cnn"), output_dir="agent").compress()
    pruner_of("sensitivity", trained("cnn"), checkpoint_dir="rounds").compress()
    assert list(shared.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {
        "shared", "search_history.csv", "search_result.json", "agent", "rounds",
    }  # fmt: skip
    assert list((tmp_path / "agent").iterdir())
    assert list((tmp_path / "rounds").iterdir())


def test_nni_is_as_it_was_afterwards() -> None:
    from nni.algorithms.compression.pytorch.pruning.amc.lib import agent
    from nni.algorithms.compression.pytorch.pruning.constants_pruner import PRUNER_DICT

    for name in ("simulated_annealing", "amc"):
        pruner_of(name, trained("cnn")).compress()
    assert inspect.isclass(PRUNER_DICT["l1"])
    assert agent.np is np
