"""Compensation on networks that people have: one network pruned with it and without, compared on inputs of their own.

    python -m tests.zoo.compensated

runs all of them and writes that section of docs/networks.md.
"""

from __future__ import annotations

import contextlib
import resource
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import raycompress
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.statistics import recompute_statistics
from raycompress.compressors.compensation import in_pruner
from raycompress.compressors.compensation.compensate import Compensation, compensate
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.sizes import sizes
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.slicing import Slicing
from raycompress.errors import RaycompressError
from tests.zoo.attempt import ENTRY, Progress, inputs_of, train
from tests.zoo.cell import TOLERANCE, randomize
from tests.zoo.networks.network import Network
from tests.zoo.slicing import answers

ENGINE = "compensated"
COMPRESSOR = "group_l1"
SECONDS = 90
ITEMS = 4
"""Batches of calibration inputs: one of them judges."""
FRESH = 2
"""Batches of other inputs, on which the networks are compared."""
WORK = 2.5e9
"""Multiply-adds of one pass over the calibration inputs, by which a large network is given fewer."""
LEAST, MOST = 8, 32
"""Calibration inputs."""
NOISE = 1.02
"""How many times the difference without compensation the one with it may be before the network is worse off."""
_OF_THE_NETWORK = ("build", "plain pass")


@dataclass(frozen=True)
class Inputs:
    """Random inputs of one network, and how its outputs on them are compared."""

    network: Network
    fitted: Sequence[Example]
    fresh: Sequence[Example]

    def outputs(self, model: nn.Module) -> list[list[Tensor]]:
        """Return what is compared of a model's outputs on the fresh inputs."""
        return [answers(model, _called_with(self.network, one).tensors) for one in self.fresh]


def compensated(network: Network, progress: Progress) -> None:
    """Prune `network` with compensation and without; what comes of it is in the cell of `progress`."""
    try:
        _compensated(network, progress)
    except RaycompressError as error:
        first = error.problems[0]
        progress.write(result="refused", reason=first.what, where=first.where, fix=first.fix)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its cell
        result = "no network" if progress.cell["phase"] in _OF_THE_NETWORK else "traceback"
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        progress.write(result=result, reason=reason, trace=traceback.format_exc()[-3000:])


def _compensated(network: Network, progress: Progress) -> None:
    torch.manual_seed(0)
    with progress.phase("build"):
        model = network.build()
        randomize(model)
    with progress.phase("plain pass"):
        dummy = inputs_of(network, model)
        inputs = _drawn(network, model, Example.for_model(dummy, model.eval()))
        with contextlib.suppress(RaycompressError):  # a batch may be too small for any
            recompute_statistics(model, inputs.fitted)  # as training does; else some networks ignore their inputs
        dense = inputs.outputs(model)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    spread = _difference(dense[:1], dense[1:2])
    progress.write(parameters=parameters, inputs=sum(one.batch for one in inputs.fitted), spread=spread)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.RLIM_INFINITY))

    watched = _Watched(inputs, dense)
    with progress.phase("compress"), watched.watching():
        config = {"compressor": COMPRESSOR, "config_list": [ENTRY], "arguments": {"compensate": True}}
        calibration = [_item(one) for one in inputs.fitted]
        made = raycompress.create_compressor(model, config, dummy_input=dummy, calibration=calibration)
        made.compress()
    found = watched.found
    progress.write(layers=len(found.layers), unfitted=dict(found.left), note=str(found), kept=found.is_kept)
    progress.write(held_out=[found.without, found.by], without=watched.without, spent=round(watched.spent, 2))
    masked = answers(model, network.tensors)
    with progress.phase("slice"):
        made.apply_speedup()
    progress.write(proof=relative_difference(masked, answers(model, network.tensors)))
    progress.write(by=_difference(dense, inputs.outputs(model)))
    with progress.phase("small step"):
        train(network, model)
    progress.write(result=_result(found, progress.cell))


class _Watched:
    """What a pruner has compensated, and what the sliced model computes without.

    Attributes
    ----------
    found
        What was refitted.
    without
        The difference on the fresh inputs without it.
    spent
        CPU seconds of compensation alone.
    """

    def __init__(self, inputs: Inputs, dense: Sequence[list[Tensor]]) -> None:
        self.found = Compensation()
        self.without: float | None = None
        self.spent = 0.0
        self._inputs, self._dense = inputs, dense

    def watching(self) -> AbstractContextManager[Any]:
        """Watch what the pruner calls."""
        return mock.patch.object(in_pruner, "compensate", self._compensate)

    def _compensate(self, model: nn.Module, slicing: Slicing, *rest: Any) -> Compensation:
        small = clean_copy(model)
        slicing.apply(small)
        self.without = _difference(self._dense, self._inputs.outputs(small))
        del small
        started = time.process_time()
        self.found = compensate(model, slicing, *rest)
        self.spent = time.process_time() - started
        return self.found


def _result(found: Compensation, cell: Mapping[str, Any]) -> str:
    without, by = cell["without"], cell["by"]
    if cell["proof"] > TOLERANCE:
        return "differs"
    if not found.is_kept:
        return "nothing"
    if without is None or by is None:
        return "not comparable"
    return "ok" if by <= NOISE * without else "worse"


def _drawn(network: Network, model: nn.Module, example: Example) -> Inputs:
    """Return inputs: as many as the network is small."""
    one = max(1, sizes(model, example).flops)
    batch = int(min(MOST, max(LEAST, WORK / one))) // ITEMS
    wide = _widened(example, batch)
    if not wide.runs(model):  # a network whose inputs have no plain batch keeps that of the catalogue
        wide = example
    drawn = [wide.random(seed) for seed in range(1, ITEMS + FRESH + 1)]
    return Inputs(network, drawn[:ITEMS], drawn[ITEMS:])


def _widened(example: Example, batch: int) -> Example:
    """Return an example with as many samples: its own again and again."""
    size = example.batch
    times = -(-batch // size)
    if example.lists:
        repeated = replace(example, args=tuple(one * times if isinstance(one, list) else one for one in example.args))
    else:
        repeated = example.map(lambda one: torch.cat([one] * times) if one.dim() and one.size(0) == size else one)
    return repeated.part(0, batch)


def _item(example: Example) -> Any:
    """Return what a loader yields for a call: a tuple of arguments, or a mapping of named ones, before a label."""
    return (example.kwargs or example.args), 0


def _called_with(network: Network, example: Example) -> Network:
    """Return the network as it is called with `example`; of a detector's parts those alone that see whole images."""
    watched = tuple(name for name in network.watched if not name.startswith("roi_heads"))
    return replace(network, call=example.call, watched=watched)


def _difference(dense: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> float | None:
    """Return the mean relative difference; None where outputs have other shapes."""
    pairs = list(zip(dense, found, strict=True))
    if any([a.shape for a in one] != [b.shape for b in other] for one, other in pairs):
        return None
    return sum(relative_difference(*pair) for pair in pairs) / len(pairs)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
