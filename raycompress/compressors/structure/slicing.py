"""Slices a masked model to a physically smaller one, and checks that both compute the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.catalog.rounding import removed_count
from raycompress.compressors.engine import DeferredDecision, PruningDecision
from raycompress.compressors.masking import masked_calls
from raycompress.compressors.masking.masked_calls import Reductions
from raycompress.compressors.measure.difference import TOLERANCE
from raycompress.compressors.measure.sizes import first_of_batch
from raycompress.compressors.structure.axes.parting import parting
from raycompress.compressors.structure.coupling import Removal, first_blocks, settle, without_whole_layers
from raycompress.compressors.structure.cut import Cut, Sliced, cut_tensors
from raycompress.compressors.structure.decisions import DecidedPass
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.structure.plan import SlicingPlan, remember
from raycompress.compressors.targets.torch import Target
from raycompress.errors import SpeedupError

_SEEDS = (1, 2)
AGAIN = 3
"""Seed of the one input for a plan that was proved already, with other weights: training changes no coupling."""


@dataclass(frozen=True)
class Slicing:
    """How one model is sliced.

    Attributes
    ----------
    removal
        Channels that go, by target layer.
    tensors
        (module, tensor) -> what is left of it; tensors that stay whole are left out.
    plan
        The same, for a fresh instance in another process.
    reductions
        What stays of the norms and other reductions over channels that lose some. A masked model computes them over
        the channels that stay, by hooks which no state_dict holds: only sliced is it a model of its plain class.
    """

    removal: Removal
    tensors: Mapping[tuple[str, str], Sliced]
    plan: SlicingPlan
    reductions: Reductions

    @classmethod
    def of_cut(cls, cut: Cut, removal: Removal | None = None) -> Slicing:
        """Return how the model of `cut` is sliced; its plan names the layers of `removal`, and what stays of them."""
        removal, tensors = removal or Removal({}, {}), cut.tensors()
        kept = {
            name: tuple(np.setdiff1d(np.arange(removal.of[name]), channels).tolist())
            for name, channels in removal.channels.items()
            if channels
        }
        return cls(removal, tensors, SlicingPlan(cut.changes(tensors), kept), cut.reductions())

    def removed(self, model: nn.Module) -> dict[tuple[str, str], Tensor]:
        """Return the masks of `model`'s parameters, True where a weight is removed; the caller applies them.

        Norms over channels need more than zeroed weights to compute what the sliced model does: they get hooks, which
        `apply` removes.
        """
        masks = {}
        for (module, name), sliced in self.tensors.items():
            tensor = getattr(model.get_submodule(module), name)
            if isinstance(tensor, nn.Parameter):
                masks[module, name] = _divided(module, name, model, sliced).removed(tensor)
        masked_calls.hold(model, self.reductions, masks)
        return masks

    def apply(self, model: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter, Sliced]]:
        """Slice `model` in place; returns (old parameter, new parameter, what is left) of all that changed."""
        masked_calls.release(model)
        left = {id(getattr(model.get_submodule(module), name)): one for (module, name), one in self.tensors.items()}
        fresh = cut_tensors(model, self.tensors, self.plan.modules)
        remember(model, self.plan)
        return [(old, new, left[key]) for key, (old, new) in fresh.items()]

    def prove(self, model: nn.Module, example: Example, seeds: Sequence[int] = _SEEDS) -> float:
        """Return the largest relative difference of the outputs, on `example` and on a fresh random input of each seed.

        Of a batch the first sample is enough, or the fewest that the model runs on: eval mode mixes no samples, and
        two models pass over each input. Where outputs are sorted or selected, it is that of a small model which decides
        as the masked one does.
        One copy of `model` is masked and then sliced, so that no more than two models are in memory.

        Raises
        ------
        SpeedupError
            It is above `TOLERANCE`, or the small model cannot run; the message names the operation, with its
            source line, where the models part.
        """
        copied = self.masked(model)
        one = first_of_batch(example)
        examples = [one, *(one.random(seed) for seed in seeds)]
        expected = [DecidedPass(copied, inputs) for inputs in examples]
        masked_calls.release(copied)
        cut_tensors(copied, self.tensors, self.plan.modules, spare_old=False)
        worst = 0.0
        for inputs, masked in zip(examples, expected, strict=True):
            try:
                difference = masked.difference(copied)  # nearly equal numbers may be sorted in another order
            except Exception as error:  # whatever the user's forward raises, such as a division by no head at all
                raise SpeedupError(
                    f"the sliced model cannot run: {(str(error).splitlines() or [type(error).__name__])[0]}",
                    where=parting(self.masked(model), copied, inputs),
                    fix="sizes written into forward() do not follow the channels; exclude the layer before them",
                ) from error
            if not difference <= TOLERANCE:
                raise SpeedupError(
                    f"the sliced model is not the masked one: its outputs differ by {difference:.2g} of their norm",
                    where=parting(self.masked(model), copied, inputs),
                    fix="exclude the layer before it; operations that mix channels (a softmax or a norm over them), or "
                    "that draw random numbers in eval mode, cannot be sliced through",
                )
            worst = max(worst, difference)
        return worst

    def masked(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` that is masked; `model` is left as it is."""
        copied = clean_copy(model)
        for (module, name), sliced in self.tensors.items():
            tensor = getattr(copied.get_submodule(module), name)
            if isinstance(tensor, nn.Parameter):
                _divided(module, name, copied, sliced).clear(tensor.data)
        masked_calls.hold(copied, self.reductions, {})
        if self.tensors:
            masked_calls.keep_padding(copied)
        return copied


def _divided(module: str, name: str, model: nn.Module, sliced: Sliced) -> Sliced:
    """Return what may be set to zero of a tensor: not the rows that weight norm divides by the norms of."""
    owner = model.get_submodule(module)
    normed = name == "weight_v" or (name == "original1" and type(owner[0]).__name__ == "_WeightNorm")  # type: ignore[index]
    return Sliced((None, *sliced.kept[1:]), sliced.shape) if normed else sliced


def make(
    model: nn.Module,
    example: Example,
    choice: PruningDecision,
    targets: Mapping[str, Target],
    compressor: CompressorEntry,
    graph: ChannelGraph | None = None,
    *,
    proves: bool = True,
) -> Slicing:
    """Return how to slice `model`, after a check on a copy; `model` itself is left as it is.

    Parameters
    ----------
    graph
        The coupled channels of `model`, where they are known already.
    proves
        False where another process proves the same plan.

    Raises
    ------
    CompressionError
        As in `raycompress.compressors.structure.coupling.settle`.
    SpeedupError
        The sliced model does not compute what the masked one does.
    """
    if isinstance(choice, DeferredDecision):
        choice = choice.choose(example)
    graph = graph or ChannelGraph(model, example)
    removal = settle(graph, choice, targets, compressor)
    slicing = Slicing.of_cut(Cut(graph, removal.channels), removal)
    if slicing.tensors and proves:
        slicing.prove(model, example)
    return slicing


def rehearse(
    model: nn.Module,
    example: Example,
    targets: Mapping[str, Target],
    compressor: CompressorEntry,
    graph: ChannelGraph | None = None,
) -> None:
    """Check before the training that `model` can be sliced; it is left as it is.

    Raises
    ------
    CompressionError
        A layer is tied to others, or to the model's outputs, in such a way that it can lose no channel at all.
    SpeedupError
        With the first channels of each layer removed, the sliced model does not compute what the masked one does.
    """
    graph = graph or ChannelGraph(model, example)
    targets = without_whole_layers(graph, targets)
    every = {
        name: tuple(range(graph.channels(name)))
        for name, target in targets.items()
        if target.sparsity > 0 and name in graph
    }
    asked = {name: len(all_) for name, all_ in every.items()}
    settle(graph, PruningDecision(channels=every, asked=asked), targets, compressor)
    one = {
        name: first_blocks(graph, name, max(1, removed_count(len(channels), targets[name].sparsity)))
        for name, channels in every.items()
        if len(channels) > 1
    }
    make(model, example, PruningDecision(channels=one, asked=dict.fromkeys(one, 0)), targets, compressor, graph)
