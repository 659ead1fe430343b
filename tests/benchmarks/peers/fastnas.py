"""NVIDIA ModelOpt's FastNAS, in the environment of ``make peers``: ``python -m tests.benchmarks.peers.fastnas FILE``.

FILE holds what `Asked` says, and is replaced by what was found: budget -> `Found`, or why there is nothing.
"""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from tests.benchmarks import ROOT
from tests.benchmarks.compression.networks import NETWORKS
from tests.benchmarks.compression.tasks import TASKS
from tests.support.outside.environments import PEERS

BATCHES, BATCH = 50, 16
"""Unlabelled inputs by which BatchNorm's statistics are computed anew: with fewer batches FastNAS does not do it."""
SHARES = tuple(number / 20 for number in range(2, 21))
"""Of the channels, in the steps that are its default; as many may go as all others may remove."""
_LIMIT = 1800.0


class Asked(TypedDict):
    """A dense network, and the shares of its multiply-adds that may be left."""

    network: str
    seed: int
    state: Mapping[str, Tensor]
    budgets: Sequence[float]


class Found(TypedDict):
    """A small network, or why there is none; and the CPU seconds, those for all budgets together in each."""

    state: Mapping[str, Tensor]
    cpu_s: float
    why_not: str


def search(asked: Asked) -> dict[float, Found]:
    """Let FastNAS search, in a process of its environment.

    Raises
    ------
    FileNotFoundError
        There is no such environment.
    """
    if not PEERS.is_there:
        raise FileNotFoundError(f"not installed: {PEERS.made_by}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fastnas.pt")
        torch.save(asked, path)
        command = [PEERS.python, "-m", "tests.benchmarks.peers.fastnas", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["ended without a message"])[-1]
            return {budget: Found(state={}, cpu_s=0.0, why_not=why) for budget in asked["budgets"]}
        found: dict[float, Found] = torch.load(path)
        return found


def fitted(dense: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `dense` with the weights, and the sizes, of a small one."""
    small = copy.deepcopy(dense)
    for name, module in small.named_modules():
        for key in module._parameters | module._buffers:
            value = state.get(f"{name}.{key}".lstrip("."))
            if value is None:
                continue
            old = getattr(module, key)
            setattr(module, key, nn.Parameter(value.clone()) if isinstance(old, nn.Parameter) else value.clone())
        if isinstance(module, nn.Conv2d):
            outputs, inputs = module.weight.shape[:2]
            module.groups = outputs if module.groups > 1 else 1
            module.in_channels, module.out_channels = inputs * module.groups, outputs
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(module.weight)
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
    return small


def _found(asked: Asked) -> dict[float, Found]:
    torch.set_num_threads(1)
    task, dense = TASKS[asked["network"]](asked["seed"]), NETWORKS[asked["network"]]()
    dense.load_state_dict(asked["state"])
    dense.eval()
    found, seconds = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:  # of the sensitivities, which hang on no budget
        for budget in asked["budgets"]:
            started = time.process_time()
            state, why_not = {}, ""
            try:
                state = _pruned(copy.deepcopy(dense), task, budget, Path(folder, "sensitivities.pt"))
            except Exception as error:  # noqa: BLE001 - whatever a network that it does not know makes it raise
                why_not = (str(error).strip().splitlines() or [type(error).__name__])[0]
            seconds += time.process_time() - started
            found[budget] = Found(state=state, cpu_s=seconds, why_not=why_not)
    return {budget: {**one, "cpu_s": seconds} for budget, one in found.items()}


def _pruned(model: nn.Module, task: Any, budget: float, checkpoint: Path) -> dict[str, Tensor]:
    import modelopt.torch.prune as mtp

    channels = {"channels_ratio": SHARES, "channel_divisor": 1}
    features = {"features_ratio": SHARES, "feature_divisor": 1}
    kinds = {"nn.Conv2d": channels, "nn.BatchNorm2d": features, "nn.Linear": features, "nn.LayerNorm": features}
    small, _ = mtp.prune(
        model,
        mode=[("fastnas", {kind: {"*": rules} for kind, rules in kinds.items()})],
        constraints={"flops": f"{100 * budget:g}%"},
        dummy_input=task.dummy,
        config={
            "data_loader": list(task.sample(BATCHES * BATCH).split(BATCH)),
            "collect_func": lambda batch: batch,
            "score_func": lambda candidate: task.accuracy(candidate, task.validation),
            "checkpoint": str(checkpoint),
        },
    )
    return dict(small.state_dict())


if __name__ == "__main__":
    file = Path(sys.argv[1])
    with contextlib.redirect_stdout(io.StringIO()):
        answer = _found(torch.load(file))
    torch.save(answer, file)
