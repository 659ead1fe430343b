"""Times whole networks of one architecture, at random widths, in the runtime that the model is made for.

A `raycompress.model.latency_model.LatencyModel` is fitted to them: in a runtime that fuses operators, what layers take
by themselves says little of what a network takes.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog.rounding import rounded
from raycompress.compressors.deploying.deploy import Deployed, Deployment
from raycompress.compressors.layer_kinds import is_weighted
from raycompress.compressors.measure.timing import Times
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import channel_groups
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError
from raycompress.model.costs import CostModel, LayerWidth
from raycompress.model.latency_fit import Sample, fitted
from raycompress.model.latency_model import Kind, LatencyModel, LayerWork
from raycompress.model.latency_table import Clock

FEWEST, MOST = 12, 40
"""Networks that are timed at least, whatever that takes, and at most."""
_AT_ONCE, _BYTES_AT_ONCE = 8, 256 << 20
"""Networks that are loaded at a time, and timed in turns, and about the most bytes of their files."""
_TURNS, _PASSES, _TURN_S = 5, 20, 0.2
"""Turns of each network, its passes in a turn beside as many of the dense one, and about the most seconds of a turn."""
_ALONE, _ALONE_S = 240, 2.0
"""Passes of the dense network by itself, and about the most seconds of them."""
_STEPS = (1, 8, 16, 32)
"""What the widths of a network are multiples of, one after another: so that it shows which multiples are faster."""
_NARROWEST, _SPREAD = 0.1, 0.25
"""The share of the channels that the narrowest network keeps, and how far groups lie from their network's."""
_VERSION = 1
"""Of what is timed and how it is fitted: a fit of another one is found again no longer."""
_PROJECTION = ".out_proj"
"""The layer inside torch's attention that is not called as a module: the attention itself is."""

Progress = Callable[[int, int, str], None]


def latency_model(
    model: nn.Module,
    example: Example,
    target: DeploymentTarget,
    *,
    costs: CostModel | None = None,
    calibration: Sequence[Example] = (),
    conversions: Conversions | None = None,
    known: Sequence[LatencyModel] = (),
    budget_s: float = 60.0,
    most: int = MOST,
    progress: Progress = lambda _done, _total, _what: None,
) -> LatencyModel:
    """Convert and time networks of `model`'s architecture at random widths, and fit their latency.

    Each is cut from `model` and timed in turn with it, so that other load on the machine affects both alike. The seeds
    are fixed. Where a fit of the same networks is known, in the same runtime on the same machine, it is returned.

    Parameters
    ----------
    model
        The dense model; it is left as it is.
    example
        One input of it.
    costs
        Its cost model, where that is known.
    calibration
        Examples to find the ranges of int8 with.
    conversions
        Where the dense model's conversion is kept, or is known from.
    known
        What was fitted before.
    budget_s
        Approximate limit of seconds; a dozen networks are timed in any case.
    most
        The number of networks that are timed where there is time.
    progress
        Called with how many are done, of how many, and what is done.

    Raises
    ------
    CompressionError
        The model cannot be followed, so that its narrow copies are not known.
    DeploymentError
        The runtime cannot convert or run the model, or most of its narrow copies.
    """
    networks = Networks(model, example, costs)
    with Deployment(target, example, calibration=calibration, conversions=conversions) as deployment:
        identity = networks.identity(deployment)
        for one in known:
            if one.identity == identity:
                return one
        found = _fitted(networks, deployment, budget_s, most, progress)
    return replace(found, identity=identity, budget_s=budget_s)


def _fitted(networks: Networks, deployment: Deployment, budget_s: float, most: int, progress: Progress) -> LatencyModel:
    end = time.monotonic() + budget_s
    target = deployment.target.name
    what = f"networks at random widths in {target}"
    samples: list[Sample] = []
    progress(0, most, what)
    dense = deployment.deploy_unproved(networks.model, "dense", keeps=True)
    for sample in networks.timed(deployment, dense, networks.draws(most), lambda: time.monotonic() > end):
        samples.append(sample)
        progress(len(samples), most, what)
    times = alone(deployment, dense)
    progress(0, 0, "")
    return fitted(networks.works(), samples, target=target, dense_ms=times)


def alone(deployment: Deployment, dense: Deployed) -> dict[Clock, float]:
    """Return the milliseconds that a pass of a model takes where nothing else runs, by each clock.

    Of one thread both are its CPU time, which other load hardly changes: in ONNX Runtime, OpenVINO and torch a pass
    that nothing interrupts takes as long by the clock, to 1 %.
    """
    (times,) = deployment.passes([dense], rounds=_ALONE, seconds=_ALONE_S)
    is_cpu_time = deployment.target.is_one_thread
    return {"latency_ms": 1e3 * undisturbed(times, cpu=is_cpu_time), "cpu_ms": 1e3 * undisturbed(times, cpu=True)}


class Networks:
    """Copies of a model at other widths.

    Parameters
    ----------
    model, example, costs
        See `latency_model`.
    """

    def __init__(self, model: nn.Module, example: Example, costs: CostModel | None = None) -> None:
        self.model, self.example = model, example
        self.costs = cost_model(model, example) if costs is None else costs
        self._graph = ChannelGraph(model, example)
        self._groups = list(channel_groups(self._graph))

    def identity(self, deployment: Deployment) -> str:
        """Return a hash of all that the times of the networks depend on: not of the weights, whatever they are."""
        shapes = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in self.model.state_dict().items()}
        called = sorted(self._graph.couplings.operations.items())
        facts = [_VERSION, str(self.model), shapes, called, self.costs.to_json(), deployment.example.shapes]
        return hashlib.sha256(repr([*facts, deployment.circumstances]).encode()).hexdigest()

    def draws(self, count: int, seed: int = 0) -> Iterator[list[int]]:
        """Yield how many blocks go of each group: of networks from narrow to dense, in a random order.

        Each group is narrower or wider than its network on the whole.
        """
        random = np.random.default_rng(seed)
        for number, level in enumerate(random.permutation(count)):
            share = _NARROWEST + (1 - _NARROWEST) * (level + random.random()) / count
            kept = np.clip(share + random.normal(0, _SPREAD, len(self._groups)), _NARROWEST / 2, 1)
            step = _STEPS[number % len(_STEPS)]
            yield [
                group.size - rounded(max(1, round(group.size * float(part))), group.size, group.multiple(step))
                for group, part in zip(self._groups, kept, strict=True)
            ]

    def narrow(self, removed: Sequence[int]) -> nn.Module:
        """Return a copy without the first blocks of each group."""
        cut = Cut(self._graph)
        for group, count in zip(self._groups, removed, strict=True):
            cut.remove(group.root, [channel for block in group.root_blocks[:count] for channel in block])
        return cut.small().eval().cpu()

    def timed(
        self,
        deployment: Deployment,
        dense: Deployed,
        draws: Iterator[list[int]],
        is_late: Callable[[], bool] = lambda: False,
    ) -> Iterator[Sample]:
        """Yield the networks that are drawn, timed, until it is late, but `FEWEST` in any case.

        Raises
        ------
        DeploymentError
            The runtime refuses more of them than `FEWEST`: what it refuses of some widths need not be what is proposed.
        """
        done = refused = 0
        while done < FEWEST or not is_late():
            loaded: list[tuple[list[int], Deployed]] = []
            for removed in itertools.islice(draws, _AT_ONCE):
                try:
                    one = deployment.deploy_unproved(self.narrow(removed), f"narrow{len(loaded)}")
                except DeploymentError:
                    refused += 1
                    if refused > FEWEST:
                        raise
                else:
                    loaded.append((removed, one))
                is_enough = done + len(loaded) >= FEWEST and is_late()
                if is_enough or sum(one.size_bytes for _, one in loaded) > _BYTES_AT_ONCE:
                    break
            if not loaded:
                return
            shares = _shares(deployment, dense, [one for _, one in loaded])
            for (removed, one), share in zip(loaded, shares, strict=True):
                yield Sample(self.widths(removed), share, self.costs.sizes(removed)["size_bytes"], one.size_bytes)
            done += len(loaded)

    def widths(self, removed: Sequence[int]) -> dict[str, tuple[int, int]]:
        """Return the widths of the layers without so many blocks of each group."""
        return {layer.name: layer.at(removed) for layer in self.costs.widths}

    def works(self) -> list[LayerWork]:
        """Call the model, and return what each layer computes that loses width."""
        outputs: dict[str, int] = {}

        def note(name: str, _layer: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                outputs[name] = outputs.get(name, 0) + first.numel()

        called = {one.name: one.name.removesuffix(_PROJECTION) for one in self.costs.widths}
        handles = [
            self.model.get_submodule(name).register_forward_hook(partial(note, name))
            for name in {*called.keys(), *called.values()}
        ]
        try:
            self.example.outputs(self.model)
        finally:
            for handle in handles:
                handle.remove()
        found = [(one, outputs.get(one.name), outputs.get(called[one.name])) for one in self.costs.widths]
        return [
            _work(self.model.get_submodule(one.name), one, own or around, is_attention=own is None)
            for one, own, around in found
            if own or around
        ]


def _work(layer: nn.Module, width: LayerWidth, outputs: int | None, *, is_attention: bool) -> LayerWork:
    inputs, channels = width.inputs[0], width.outputs[0]
    weight = layer.weight
    assert isinstance(weight, Tensor) and outputs
    kernel = weight.numel() / (inputs * channels)
    positions = outputs / channels
    if is_attention:
        return LayerWork(width.name, "pointwise", (inputs, channels), positions, 4.0)  # three projections come before
    if not is_weighted(layer):
        kind: Kind = "fused" if isinstance(layer, nn.modules.batchnorm._BatchNorm) else "norm"
        return LayerWork(width.name, kind, (channels, channels), positions, 1.0)
    kind = "pointwise" if kernel == 1 else "spatial"
    if inputs == 1 and not width.inputs[1] and getattr(layer, "groups", 1) > 1:
        kind = "depthwise"
    return LayerWork(width.name, kind, (inputs, channels), positions, kernel)


def _shares(deployment: Deployment, dense: Deployed, loaded: Sequence[Deployed]) -> list[float]:
    """Return the time of each network as a share of the dense one's, by several turns of all of them.

    Each is compared with the passes of the dense one beside it: what runs before leaves it more or less of the caches.
    """
    is_cpu_time = deployment.target.is_one_thread
    own: list[tuple[Times, Times]] = [([], []) for _ in loaded]
    for _ in range(_TURNS):
        for one, (reference, times) in zip(loaded, own, strict=True):
            both = deployment.passes([dense, one], rounds=_PASSES, seconds=_TURN_S)
            reference += both[0]
            times += both[1]
    return [undisturbed(times, cpu=is_cpu_time) / undisturbed(reference, cpu=is_cpu_time) for reference, times in own]


def undisturbed(times: Times, *, cpu: bool) -> float:
    """Return the seconds that a pass takes where nothing else runs: the 10 % quantile of many passes at several times.

    What shares a core and its caches slows small models down by more than the dense one, so that even the share of the
    medians moves with the load (in OpenVINO from 0.20 to 0.30 of a dense model for one network); this one hardly does.

    Parameters
    ----------
    cpu
        Whether it is the CPU time; not of several threads, nor of a GPU, for which one waits otherwise.
    """
    return float(np.quantile([one[cpu] for one in times], 0.1))
