"""Slices a masked model to a physically smaller one, and checks that both compute the same function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, evaluating, tensors_in
from raycompress.catalog import CompressorEntry
from raycompress.catalog.rounding import removed_count
from raycompress.compressors.engine import DeferredDecision, PruningDecision
from raycompress.compressors.masking import masked_calls
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure.coupling import Removal, settle
from raycompress.compressors.structure.graph import ChannelGraph, Sliced, clean_copy
from raycompress.compressors.structure.plan import (
    ATTRIBUTES,
    Fresh,
    ModulePlan,
    SlicingPlan,
    remember,
    replace_tensor,
    set_attributes,
)
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError, SpeedupError

_SEEDS = (1, 2)


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
    norms
        LayerNorm or GroupNorm -> channels that stay, where some go. A masked model computes these norms over the
        channels that stay, by hooks which no state_dict holds: only sliced is it a model of its plain class.
    """

    removal: Removal
    tensors: Mapping[tuple[str, str], Sliced]
    plan: SlicingPlan
    norms: Mapping[str, Tensor]

    def removed(self, model: nn.Module) -> dict[tuple[str, str], Tensor]:
        """Return the masks of `model`'s parameters, True where a weight is removed; the caller applies them.

        Norms over channels need more than zeroed weights to compute what the sliced model does: they get hooks, which
        `apply` removes.
        """
        masks = {}
        for (module, name), sliced in self.tensors.items():
            tensor = getattr(model.get_submodule(module), name)
            if isinstance(tensor, nn.Parameter):
                mask = torch.ones(tensor.numel(), dtype=torch.bool)
                mask[sliced.kept] = False
                masks[module, name] = mask.reshape(tensor.shape).to(tensor.device)
        masked_calls.hold(model, self.norms, masks)
        return masks

    def apply(self, model: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter, Sliced]]:
        """Slice `model` in place; returns (old parameter, new parameter, what is left) of all that changed."""
        masked_calls.release(model)
        modules = dict(model.named_modules())
        fresh: Fresh = {}
        left: dict[int, Sliced] = {}
        for (module, name), sliced in self.tensors.items():
            old = getattr(modules[module], name)
            left[id(old)] = sliced
            value = old.detach().reshape(-1)[sliced.kept.to(old.device)].reshape(sliced.shape).clone()
            if sliced.factor is not None:
                value *= sliced.factor.to(value)
            replace_tensor(modules[module], name, value, fresh)
        for module, change in self.plan.modules.items():
            set_attributes(modules[module], change)
        remember(model, self.plan)
        return [(old, new, left[key]) for key, (old, new) in fresh.items()]


def make(
    model: nn.Module,
    example: Example,
    choice: PruningDecision,
    targets: Mapping[str, Target],
    compressor: CompressorEntry,
) -> Slicing:
    """Return how to slice `model`, after a check on copies; `model` itself is left as it is.

    Raises
    ------
    CompressionError
        As in `raycompress.compressors.structure.coupling.settle`.
    SpeedupError
        The sliced model does not compute what the masked one does.
    """
    if isinstance(choice, DeferredDecision):
        choice = choice.choose(example)
    graph = ChannelGraph(model, example)
    removal = settle(graph, choice, targets, compressor)
    tensors = graph.slice(removal.channels)
    kept = {
        name: tuple(channel for channel in range(removal.of[name]) if channel not in set(channels))
        for name, channels in removal.channels.items()
        if channels
    }
    norms = graph.norms()
    _check_groups(model, norms, compressor)
    slicing = Slicing(removal, tensors, SlicingPlan(_changes(model, graph.copy, tensors), kept), norms)
    if tensors:
        masked, small = clean_copy(model), clean_copy(model)
        for (module, name), mask in slicing.removed(masked).items():
            getattr(masked.get_submodule(module), name).data.masked_fill_(mask, 0)
        slicing.apply(small)
        prove(masked, small, example)
    return slicing


def rehearse(model: nn.Module, example: Example, targets: Mapping[str, Target], compressor: CompressorEntry) -> None:
    """Check before the training that `model` can be sliced; it is left as it is.

    Raises
    ------
    CompressionError
        A layer is tied to others, or to the model's outputs, in such a way that it can lose no channel at all.
    SpeedupError
        With the first channels of each layer removed, the sliced model does not compute what the masked one does.
    """
    graph = ChannelGraph(model, example)
    every = {
        name: tuple(range(graph.channels(name)))
        for name, target in targets.items()
        if target.sparsity > 0 and name in graph
    }
    settle(
        graph,
        PruningDecision(channels=every, asked={name: len(all_) for name, all_ in every.items()}),
        targets,
        compressor,
    )
    # as many as will be removed: a GroupNorm allows certain numbers of channels only
    some = {name: max(1, removed_count(len(channels), targets[name].sparsity)) for name, channels in every.items()}
    one = {name: every[name][:count] for name, count in some.items() if len(every[name]) > 1}
    make(model, example, PruningDecision(channels=one, asked=dict.fromkeys(one, 0)), targets, compressor)


def _check_groups(model: nn.Module, norms: Mapping[str, Tensor], compressor: CompressorEntry) -> None:
    for name, left in norms.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.GroupNorm) and len(left) % module.num_groups:
            instead = f'; "{compressor.instead}" sees to it' if compressor.instead else ""
            raise CompressionError(
                f'"{name}" is a GroupNorm of {module.num_groups} groups, and {len(left)} of its {module.num_channels} '
                "channels would stay",
                where="config_list",
                fix=f"for the layers before it, a sparsity that leaves a multiple of {module.num_groups}{instead}",
            )


def prove(masked: nn.Module, small: nn.Module, example: Example) -> float:
    """Return the largest relative difference of the outputs, on `example` and on two fresh random inputs.

    Raises
    ------
    SpeedupError
        It is above `TOLERANCE`, or the small model cannot run; the message names where the models part.
    """
    worst = 0.0
    for inputs in (example, *(example.random(seed) for seed in _SEEDS)):
        expected = inputs.outputs(masked)
        try:
            got = inputs.outputs(small)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise SpeedupError(
                f"the sliced model cannot run: {(str(error).splitlines() or [type(error).__name__])[0]}",
                where=_parting(masked, small, inputs),
                fix="sizes written into forward() do not follow the channels; exclude the layer before them",
            ) from error
        difference = relative_difference(expected, got)
        if not difference <= TOLERANCE:
            raise SpeedupError(
                f"the sliced model is not the masked one: its outputs differ by {difference:.2g} of their norm",
                where=_parting(masked, small, inputs),
                fix="exclude that layer; operations that mix channels (a softmax or a norm over them), or that draw "
                "random numbers in eval mode, cannot be sliced through",
            )
        worst = max(worst, difference)
    return worst


def _changes(model: nn.Module, small: nn.Module, tensors: Mapping[tuple[str, str], Sliced]) -> dict[str, ModulePlan]:
    """Compare the modules of the original with those of the sliced copy."""
    changes = {}
    others = dict(small.named_modules())
    for name, module in model.named_modules():
        attributes = {}
        for key in ATTRIBUTES & vars(module).keys():
            old, new = vars(module)[key], vars(others[name]).get(key)
            if old != new and isinstance(new, (int, tuple, list)):
                attributes[key] = new if isinstance(new, int) else tuple(int(size) for size in new)
        shapes = {key: sliced.shape for (owner, key), sliced in tensors.items() if owner == name}
        if attributes or shapes:
            changes[name] = ModulePlan(type(module).__name__, dict(sorted(attributes.items())), shapes)
    return changes


def _parting(masked: nn.Module, small: nn.Module, example: Example) -> str:
    """Return the name of the first layer whose output norm differs in the small model, or that does not run there."""
    full, cut = _norms(masked, example), _norms(small, example)
    for name, norm in full.items():
        if name not in cut:
            return f'at or before "{name}"'
        if abs(norm - cut[name]) > 1e-3 * max(norm, 1e-12):
            return f'from "{name}" on'
    return "at the model's output"


def _norms(model: nn.Module, example: Example) -> dict[str, float]:
    norms: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if name and not any(module.children()):

            def note(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                norms.setdefault(name, sum(float(tensor.double().norm()) for tensor in tensors_in(output)))

            handles.append(module.register_forward_hook(note))
    try:
        with evaluating(model), torch.no_grad():
            example.call(model)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return norms  # the layers that it came to
    finally:
        for handle in handles:
            handle.remove()
    return norms
