"""Times whole networks of one architecture, at random widths, in the runtime that the model is made for.

A `raycompress.model.latency_model.LatencyModel` is fitted to them: in a runtime that fuses operators, what layers take
by themselves says little of what a network takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
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
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError
from raycompress.model.costs import CostModel, LayerWidth
from raycompress.model.groups import ChannelGroup
from raycompress.model.latency_fit import Sample, fitted
from raycompress.model.latency_model import Kind, LatencyModel, LayerWork
from raycompress.model.latency_table import Clock

FEWEST, MOST = 12, 40
"""Networks that are timed at least, whatever that takes, and at most."""
_STEPS = (1, 8, 16, 32)
"""What the widths of a network are multiples of, one after another: so that it shows which multiples are faster."""
_PASSES, _PASSES_S = 100, 0.8
"""The most passes of one network, beside as many of the dense one, and about the most seconds of both."""
_NARROWEST, _SPREAD = 0.1, 0.25
"""The share of the channels that the narrowest network keeps, and how far groups lie from their network's."""
_PROJECTION = ".out_proj"
"""The layer inside torch's attention that is not called as a module: the attention itself is."""

Progress = Callable[[int, int, str], None]


def latency_model(
    model: nn.Module,
    example: Example,
    target: DeploymentTarget,
    *,
    costs: CostModel | None = None,
    budget_s: float = 60.0,
    most: int = MOST,
    progress: Progress = lambda _done, _total, _what: None,
) -> LatencyModel:
    """Convert and time networks of `model`'s architecture at random widths, and fit their latency.

    Each is cut from `model` and timed in turn with it, so that other load on the machine affects both alike. The seeds
    are fixed.

    Parameters
    ----------
    model
        The dense model; it is left as it is.
    example
        One input of it.
    costs
        Its cost model, where that is known.
    budget_s
        Approximate limit of seconds; a dozen networks are timed in any case.
    most
        The number of networks that are timed where there is time.
    progress
        Called with how many are done, of how many, and what is done next.

    Raises
    ------
    CompressionError
        The model cannot be followed, so that its narrow copies are not known.
    DeploymentError
        The runtime cannot convert or run the model, or most of its narrow copies.
    """
    end = time.monotonic() + budget_s
    costs = cost_model(model, example) if costs is None else costs
    graph = ChannelGraph(model, example)
    groups = list(channel_groups(graph))
    what = f"random widths for {target.name}"
    with Deployment(target, example) as deployment:
        progress(0, most, what)
        dense = deployment.deploy(model, "dense", proving=False)
        samples: list[Sample] = []
        failures: list[DeploymentError] = []
        for removed in _draws(groups, most):
            if len(samples) >= FEWEST and time.monotonic() > end:
                break
            progress(len(samples) + len(failures), most, what)
            try:
                samples.append(_sample(deployment, dense, _narrow(graph, groups, removed), removed, costs))
            except DeploymentError as error:  # what it refuses of some widths need not be what is proposed
                failures.append(error)
                if len(failures) > FEWEST:
                    raise
        alone = deployment.latencies([dense], seconds=_PASSES_S)[0]
        works = _works(model, deployment.example, costs)
    progress(0, 0, "")
    dense_ms: dict[Clock, float] = {"latency_ms": alone.wall_ms, "cpu_ms": alone.cpu_ms}
    return fitted(works, samples, target=target.name, dense_ms=dense_ms)


def _sample(
    deployment: Deployment, dense: Deployed, narrow: nn.Module, removed: Sequence[int], costs: CostModel
) -> Sample:
    one = deployment.deploy(narrow, "narrow", proving=False)
    reference, found = deployment.passes([dense, one], rounds=_PASSES, seconds=_PASSES_S)
    is_alone = deployment.target.threads == 1 and deployment.target.device != "gpu"
    share = undisturbed(found, cpu=is_alone) / undisturbed(reference, cpu=is_alone)
    widths = {layer.name: layer.at(removed) for layer in costs.widths}
    return Sample(widths, share, costs.sizes(removed)["size_bytes"], one.size_bytes)


def undisturbed(times: Times, *, cpu: bool) -> float:
    """Return the seconds that a pass takes where nothing else runs: the 10 % quantile of many passes.

    What shares a core and its caches slows small models down by more than the dense one, so that even the share of the
    medians moves with the load (in OpenVINO from 0.20 to 0.30 of a dense model for one network); this one hardly does.

    Parameters
    ----------
    cpu
        Whether it is the CPU time; not of several threads, nor of a GPU, for which one waits otherwise.
    """
    return float(np.quantile([one[cpu] for one in times], 0.1))


def _draws(groups: Sequence[ChannelGroup], count: int) -> Iterator[list[int]]:
    """Yield how many blocks go of each group: networks from narrow to dense, each group narrower or wider than most."""
    random = np.random.default_rng(0)
    for number, level in enumerate(random.permutation(count)):
        share = _NARROWEST + (1 - _NARROWEST) * (level + random.random()) / count
        kept = np.clip(share + random.normal(0, _SPREAD, len(groups)), _NARROWEST / 2, 1)
        step = _STEPS[number % len(_STEPS)]
        yield [
            group.size - rounded(max(1, round(group.size * float(part))), group.size, group.multiple(step))
            for group, part in zip(groups, kept, strict=True)
        ]


def _narrow(graph: ChannelGraph, groups: Sequence[ChannelGroup], removed: Sequence[int]) -> nn.Module:
    """Return a copy without the first blocks of each group."""
    cut = Cut(graph)
    for group, count in zip(groups, removed, strict=True):
        cut.remove(group.root, [channel for block in group.root_blocks[:count] for channel in block])
    return cut.small().eval().cpu()


def _works(model: nn.Module, example: Example, costs: CostModel) -> list[LayerWork]:
    """Call the model, and return what each layer computes that loses width."""
    outputs: dict[str, int] = {}

    def note(name: str, _layer: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            outputs[name] = outputs.get(name, 0) + first.numel()

    layers = {layer.name: model.get_submodule(layer.name) for layer in costs.widths}
    inside = {name: name.removesuffix(_PROJECTION) for name in layers if name.endswith(_PROJECTION)}
    called = {**{name: name for name in layers}, **inside}
    handles = [model.get_submodule(one).register_forward_hook(partial(note, one)) for one in {*called.values()}]
    try:
        example.to(next((one.device for one in model.parameters()), torch.device("cpu"))).outputs(model)
    finally:
        for handle in handles:
            handle.remove()
    return [
        _work(layers[width.name], width, outputs[called[width.name]], is_attention=width.name in inside)
        for width in costs.widths
        if called[width.name] in outputs
    ]


def _work(layer: nn.Module, width: LayerWidth, outputs: int, *, is_attention: bool) -> LayerWork:
    inputs, channels = width.inputs[0], width.outputs[0]
    weight = layer.weight
    assert isinstance(weight, Tensor)
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
