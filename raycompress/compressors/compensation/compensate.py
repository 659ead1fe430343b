"""Refits the layers that read removed channels to what they put out in the dense model, without training.

He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, refit the layer after the one that
loses channels; Luo et al., ThiNet, ICCV 2017, choose the channels by that, too. Here inputs are the small model's own,
with all that was refitted before, so that the next layer makes up for what is left of an error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.statistics import recompute_statistics
from raycompress.compressors.compensation.equations import NormalEquations, refitted
from raycompress.compressors.compensation.judge import Judge, standard_error
from raycompress.compressors.compensation.readers import OWN, ROWS, Reader, readers_of, stages, with_bias, write
from raycompress.compressors.compensation.watching import BATCH_NORM, Tensors, gather, in_order
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.slicing import Slicing
from raycompress.errors import CompressionError
from raycompress.text import join_names

STAGES = 16
"""Passes over the inputs at most: readers that are near in the order of calls are refitted in one."""
HELD_OUT = 4
"""One batch of so many is not fitted to, and judges."""
_OWN = 1.1
"""How much farther a BatchNorm's own statistics may take the outputs: training goes on from them."""


@dataclass(frozen=True)
class Compensation:
    """What was refitted, and what it changed.

    Attributes
    ----------
    layers
        Layers with new weights; none where the model is better off without, or with BatchNorm's statistics alone.
    left
        Layer that reads removed channels and was not refitted -> why.
    samples
        Inputs, those included that were held out.
    without, by
        Relative difference of the outputs to the dense model's on the held-out inputs: as pruned, and refitted.
    error
        The standard error of how much less the latter is: of fewer held-out inputs more would be chance.
    seconds
        Of the whole.
    why_not
        What kept everything from being refitted, where no outputs were compared.
    """

    layers: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    without: float = math.nan
    by: float = math.nan
    error: float = 0.0
    seconds: float = 0.0
    why_not: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the model was changed."""
        return self.by < self.without - self.error

    def __str__(self) -> str:
        if self.why_not:
            return f"compensation: nothing is refitted: {self.why_not}"
        difference = "the outputs' relative difference to the dense model's, on held-out inputs,"
        if not self.is_kept:
            would = "no layer can be, or would be nearer to the dense one's outputs"
            if self.by != self.without:
                would = f"{difference} would be {self.by:.3g} instead of {self.without:.3g}"
                would += f", which may be chance (standard error {self.error:.2g})" if self.by < self.without else ""
            return f"compensation: nothing is refitted: {would}{self._left()}"
        what = (
            f"{len(self.layers)} layers are refitted" if self.layers else "BatchNorm's statistics alone are recomputed"
        )
        what = f"{what} on {self.samples} inputs"
        return f"compensation: {what}: {difference} is {self.by:.3g} instead of {self.without:.3g}{self._left()}"

    def _left(self) -> str:
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left.items():
            by_reason.setdefault(why, []).append(name)
        return "".join(f"; not {join_names(names, 3)}: {why}" for why, names in by_reason.items())


def compensate(
    model: nn.Module, slicing: Slicing, batches: Sequence[Example], earlier: Slicing | None = None
) -> Compensation:
    """Refit what stays of a dense `model`'s layers, in place, where that brings the sliced model's outputs nearer.

    Channels that go keep their weights, for `slicing` to mask or cut; the statistics of BatchNorms become the sliced
    model's own.

    Parameters
    ----------
    batches
        Inputs of the model; one batch of `HELD_OUT` judges, layer by layer and in the end.
    earlier
        What was masked of `model` already, while it trained: norms over channels leave those out then.
    """
    started = time.perf_counter()
    batches = _with_lists(batches, model)
    parts = _divided(batches)
    samples = sum(batch.batch for batch in batches)
    if not slicing.tensors or not all(parts):
        return Compensation(samples=samples, why_not=f"{samples} inputs are too few")
    dense, small = clean_copy(model) if earlier is None else earlier.masked(model), clean_copy(model)
    if not min((*parts[0], *parts[1]), key=lambda batch: batch.batch).runs(dense):
        return Compensation(samples=samples, why_not="the model does not run on a part of an item of calibration=")
    slicing.apply(small)
    judge = Judge.of(dense, slicing.tensors, parts[1])
    without = judge.differences(small)
    readers, left = readers_of(dense, small, slicing.tensors)
    order = in_order(dense, readers, parts[0][0])
    called = {reader.owner for reader in order}
    unseen = "no call of it shows its inputs"
    left |= {one.owner: OWN if one.is_own else unseen for one in readers if one.owner not in called}
    layers: list[str] = []
    at_once = math.ceil(len(order) / STAGES)
    for stage in stages(order, lambda reader: reader.inputs(small) ** 2, at_once):
        layers += _refit(dense, small, slicing.tensors, stage, parts)
    by = judge.differences(small)
    own = _with_own_statistics(small, parts[0])
    if own is not None and fmean(differences := judge.differences(own)) <= _OWN * fmean(by):
        small, by = own, differences
    found = Compensation((), left, samples, fmean(without), fmean(by), standard_error(without, by))
    if found.is_kept:
        _put_back(model, small, slicing.tensors, layers)
        found = replace(found, layers=tuple(layers))
    return replace(found, seconds=time.perf_counter() - started)


def _with_own_statistics(small: nn.Module, batches: Sequence[Example]) -> nn.Module | None:
    """Return a copy with the statistics of its own activations; None where the batches are too small for any."""
    if all(batch.batch == 1 for batch in batches):
        return None
    own = clean_copy(small)
    try:
        recompute_statistics(own, batches)
    except CompressionError:  # a model of its own may give a norm one value a channel; the others follow the refits
        return None
    return own


def _with_lists(batches: Sequence[Example], model: nn.Module) -> Sequence[Example]:
    """Return batches that know whether they are lists of images, as detectors get them; of one loader all are alike."""
    if not batches or not batches[0].with_lists(model).lists:
        return batches
    return [replace(batch, lists=batch.is_list) for batch in batches]


def _divided(batches: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return batches to fit to, and held-out ones; of few batches parts of each."""
    if len(batches) < HELD_OUT:
        least = max((batch.least for batch in batches), default=1)
        size = max(1, sum(batch.batch for batch in batches) // HELD_OUT // least) * least
        batches = [piece for batch in batches for piece in batch.pieces(size)]
    is_held_out = [number % HELD_OUT == HELD_OUT - 1 for number in range(len(batches))]
    return (
        [batch for batch, held_out in zip(batches, is_held_out, strict=True) if not held_out],
        [batch for batch, held_out in zip(batches, is_held_out, strict=True) if held_out],
    )


def _refit(
    dense: nn.Module,
    small: nn.Module,
    tensors: Tensors,
    stage: Sequence[Reader],
    parts: Sequence[Sequence[Example]],
) -> list[str]:
    """Refit the readers of one stage in `small`; returns those that are better off on the held-out inputs."""
    equations = [{reader: NormalEquations() for reader in stage} for _ in parts]
    most = ROWS // max(8, sum(map(len, parts)))
    for batches, sums in zip(parts, equations, strict=True):
        for number, batch in enumerate(batches):
            gather(dense, small, tensors, batch, sums, most, seed=number)
    done = []
    for reader in stage:
        module = small.get_submodule(reader.owner)
        bias = module._parameters.get("bias")
        solution = refitted(equations[0][reader], equations[1][reader], with_bias(module))
        if solution is None:
            continue
        offset = write(module, solution)
        if bias is not None:
            bias.data.copy_(offset)
        elif reader.norm:
            # the mean alone: a variance as small as what is predicted would make what is not predicted larger
            mean = small.get_submodule(reader.norm).get_buffer("running_mean")
            mean.sub_(offset.to(mean))
        done.append(reader.owner)
    torch.clear_autocast_cache()  # inside an autocast block torch goes on with its casts of the weights as they were
    return done


def _put_back(model: nn.Module, small: nn.Module, tensors: Tensors, layers: Sequence[str]) -> None:
    """Write the weights of refitted layers, and all BatchNorms' statistics, of `small` to their places in `model`."""
    norms = [name for name, module in small.named_modules() if isinstance(module, BATCH_NORM)]
    for name, keys in [(name, ("weight", "bias")) for name in layers] + [
        (name, ("running_mean", "running_var")) for name in norms
    ]:
        whole, part = model.get_submodule(name), small.get_submodule(name)
        for key in keys:
            value = getattr(part, key)
            if value is None:
                continue
            sliced = tensors.get((name, key))
            target = getattr(whole, key).data
            if sliced is None:
                target.copy_(value.detach())
            else:
                sliced.put(target, value.detach())
