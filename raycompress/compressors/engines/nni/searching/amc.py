"""NNI's amc: an agent (DDPG) learns how much of each layer to remove for a given share of the FLOPs.

The agent and its training are NNI's; what they act on is `amc_environment`, beside this module.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.example import device_of
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import load_nni, quiet, with_contiguous_weights
from raycompress.compressors.engines.nni.searching.amc_environment import Environment, Limits
from raycompress.compressors.engines.nni.searching.bounds import Bound, bounded, positions
from raycompress.compressors.engines.nni.searching.prunable import TiedChannels
from raycompress.compressors.engines.nni.searching.search import between, first_evaluation, own_folder, rehearse, whole
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError, ExperimentError

_AGENT = (
    *("hidden1", "hidden2", "lr_c", "lr_a", "warmup", "discount", "bsize", "rmsize", "window_length", "tau"),
    *("init_delta", "delta_decay", "max_episode_length", "debug", "epsilon"),
)
"""The options of NNI's agent."""

_PATCHING = threading.Lock()


def _accuracy(accuracy: float, _flops: float) -> float:
    return accuracy * 0.01


def _accuracy_and_flops(accuracy: float, flops: float) -> float:
    return -(100 - accuracy) * 0.01 * math.log(flops)


REWARDS: Mapping[str, Callable[[float, float], float]] = {
    "acc_reward": _accuracy,
    "acc_flops_reward": _accuracy_and_flops,
}
"""Rewards by NNI's names, of the accuracy in percent and the FLOPs that are left."""


def load_library() -> None:
    """Import the agent."""
    load_nni()
    import nni.algorithms.compression.pytorch.pruning.amc.amc_pruner  # noqa: F401


class AmcPruner:
    """amc."""

    def choose(self, request: Request) -> PruningDecision:
        """Search on a copy; what the best episode refitted goes into the user's model.

        Raises
        ------
        CompressionError
            The search did not end in time, the FLOPs are out of reach, the evaluator answers no number, or val_loader
            holds no batches of (inputs, targets).
        ExperimentError
            Arguments that the method does not accept.
        """
        with_contiguous_weights(request.model)
        limits, arguments = _limits(request.arguments), request.arguments
        if arguments["reward"] not in REWARDS:
            raise ExperimentError(
                f"amc knows no reward {arguments['reward']!r}",
                where="compression.arguments.reward",
                fix="use one of " + ", ".join(REWARDS),
            )
        for name in ("n_calibration_batches", "n_points_per_layer", "train_episode", "hidden1", "hidden2"):
            whole(arguments, name)
        copied = clean_copy(request.model)
        with bounded(arguments["search_timeout_s"], request.compressor.name) as bound:
            judge = _judge(bound, arguments)
            example = first_evaluation(copied, lambda: judge(copied), request.example)
            targets = inner(request, ChannelGraph(copied, example))
            prunable = TiedChannels(copied, example, targets, request.compressor, "l1")
            rehearse(request, copied, example, prunable, targets)
            batches = _batches(bound, copied, arguments["val_loader"], arguments["n_calibration_batches"])
            environment = Environment(
                copied, example, prunable, limits, judge, REWARDS[arguments["reward"]], batches,
                arguments["n_points_per_layer"],
            )  # fmt: skip
            load_nni()
            with quiet(request), _seeded(arguments["seed"]):
                _train_agent(environment, arguments)
        request.model.load_state_dict(environment.best_state)
        return environment.best_choice


def _limits(arguments: Mapping[str, Any]) -> Limits:
    ratio, low = between(arguments, "flops_ratio", 0, 1), between(arguments, "lbound", 0, 1)
    high = arguments["rbound"]
    if not isinstance(high, (int, float)) or not low < high <= 1:
        raise ExperimentError(
            f"rbound is a number above lbound ({low:g}) and at most 1, not {high!r}",
            where="compression.arguments.rbound",
            fix="change rbound",
        )
    return Limits(ratio, low, float(high), whole(arguments, "channel_round"))


def _judge(bound: Bound, arguments: Mapping[str, Any]) -> Callable[[nn.Module], float]:
    """Return the script's evaluator as a function of the model: of (val_loader, model) in the old convention."""
    function = arguments["evaluator"]
    evaluator = bound.evaluator(function)
    if positions(function, 2) >= 2:
        return lambda model: evaluator(arguments["val_loader"], model)
    return lambda model: evaluator(model)


def inner(request: Request, graph: ChannelGraph) -> dict[str, Target]:
    """Return the targets without those that can lose no channel at all, such as the model's outputs."""
    targets = {
        name: target
        for name, target in request.targets.items()
        if name not in graph or not graph.fixed(graph.components(name)).all()
    }
    if not targets:
        raise CompressionError(
            "no layer of the config_list has channels that can go: they are the model's outputs",
            where="config_list",
            fix='name the layers before them: {"op_types": ["Conv2d", "Linear"]} names all',
        )
    return targets


def _batches(bound: Bound, model: nn.Module, loader: Any, count: int) -> Sequence[Tensor]:
    """Return the inputs of the first batches."""
    device = device_of(model) or torch.device("cpu")
    inputs: list[Tensor] = []

    def read() -> None:
        for batch in loader:
            first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            if not isinstance(first, Tensor):
                raise CompressionError(
                    f"a batch of val_loader is a {type(batch).__name__}, not (inputs, targets)",
                    where="create_compressor(val_loader=)",
                    fix="pass a DataLoader, or a list, of pairs of tensors",
                )
            inputs.append(first.to(device))
            if len(inputs) >= count:
                return

    bound.call(read)()
    if not inputs:
        raise CompressionError("val_loader is empty", where="create_compressor(val_loader=)", fix="give it batches")
    return inputs


def _train_agent(environment: Environment, arguments: Mapping[str, Any]) -> None:
    """Let NNI train its agent; what it writes goes into the user's ``output_dir``, or nowhere."""
    from nni.algorithms.compression.pytorch.pruning.amc import amc_pruner
    from nni.algorithms.compression.pytorch.pruning.amc.lib import agent as library

    options = Namespace(**{name: arguments[name] for name in _AGENT})
    options.rmsize *= len(environment.groups)
    nothing = SimpleNamespace(write=lambda _text: None, close=lambda: None)
    trainer = SimpleNamespace(ddpg_args=options, text_writer=nothing, tfwriter=_NoBoard())
    with _folder(arguments["output_dir"]) as folder, _PATCHING, mock.patch.object(library, "np", _Numpy()):
        agent = library.DDPG(environment.width, 1, options)
        amc_pruner.AMCPruner.train(trainer, arguments["train_episode"], agent, environment, folder)


class _Numpy:
    """numpy, with the ``np.float`` that NNI's agent asks for and numpy dropped in 1.24."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _NoBoard:
    """A TensorBoard writer that writes nothing."""

    def add_scalar(self, *_values: Any) -> None:
        """Write nothing."""

    def add_text(self, *_values: Any) -> None:
        """Write nothing."""


@contextlib.contextmanager
def _folder(given: Any) -> Iterator[str]:
    if given is not None:
        folder = own_folder(given)
        folder.mkdir(parents=True, exist_ok=True)
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="raycompress-") as temporary:
        yield temporary


@contextlib.contextmanager
def _seeded(seed: Any) -> Iterator[None]:
    if seed is not None:
        np.random.seed(seed)
        torch.manual_seed(seed)
    yield
