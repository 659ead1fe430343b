"""The coupled channels of one model: its layers, and the components that their channels belong to.

What hangs together is found by `raycompress.compressors.structure.axes`; here it is seen layer by layer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.layer_kinds import made_plain_by, makes_channels, output_dim, stacked_weights
from raycompress.compressors.masking.masks import unhooked
from raycompress.compressors.structure.attributes import is_size
from raycompress.compressors.structure.axes.recorder import OUTPUTS, Couplings, record
from raycompress.compressors.structure.plan import inherit
from raycompress.errors import CompressionError
from raycompress.model.info import COMPUTED, UNUSED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raycompress.compressors.structure.axes.atoms import Ids

__all__ = ["OUTPUTS", "ChannelGraph", "CoupledLayer", "clean_copy"]

NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class CoupledLayer:
    """Channels of one layer that belong to given components.

    Attributes
    ----------
    name
        The layer, as in ``named_modules()``.
    channels
        Its channels, ascending.
    components
        The component of each.
    follows
        True for what only passes its input's channels on: a depthwise convolution, the BatchNorm behind it.
    """

    name: str
    channels: Ids
    components: Ids
    follows: bool


class ChannelGraph:
    """The coupled channels of a model.

    Parameters
    ----------
    model
        The user's model; it is left as it is.
    example
        One input of it.

    Attributes
    ----------
    couplings
        Which elements of its tensors go together.

    Raises
    ------
    CompressionError
        The model answers no tensor. What the model itself raises on the example passes through.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self.model = model
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        with unhooked(model), evaluating(model):
            torch.clear_autocast_cache()  # casts of weights from before would not be known as theirs
            self.couplings: Couplings = record(model, lambda one: _called(one, example))
            torch.clear_autocast_cache()
        components = self.couplings.components
        self._reasons = dict(components.reasons)
        self._next = len(components.root)
        for attribute, axis in self.couplings.sizes.items():
            if not is_size(attribute.name):
                for component in np.unique(components.root[axis[axis != 0]]).tolist():
                    self._reasons.setdefault(component, f"{attribute}, which slicing does not change")
        for name, module in self._modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                self._freeze_script(name, module)
        self._outputs = {
            name: (place[0], place[1], self._channels_of(name, *place))
            for name, module in self._modules.items()
            if (place := self._output_of(name, module)) is not None
        }
        self._index = _Index({name: found for name, (_, _, found) in self._outputs.items()})
        self._inputs = _Index({name: found for name in self._outputs if (found := self._inputs_of(name)) is not None})
        self._followers = self._find_followers()

    def _freeze_script(self, name: str, module: nn.Module) -> None:
        """Keep all that the tensors of a TorchScript module belong to: no tensor of it can be replaced."""
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, _ in tensors:
            for atoms in self.couplings.axes.get(f"{name}.{key}".lstrip("."), ()):
                for component in np.unique(self.couplings.components.root[atoms[atoms != 0]]).tolist():
                    self._reasons.setdefault(component, f'the TorchScript module "{name}"')

    def __contains__(self, name: str) -> bool:
        return name in self._outputs

    def fits(self) -> bool:
        """Tell whether the model still has the modules, and the parameters and buffers the sizes, that were seen."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        sizes = {name: tuple(map(len, axes)) for name, axes in self.couplings.axes.items()}
        same_sizes = all(name in tensors and tuple(tensors[name].shape) == size for name, size in sizes.items())
        return same_sizes and dict(self.model.named_modules()) == self._modules

    @property
    def layers(self) -> list[str]:
        """The layers that have channels, in the model's order."""
        return list(self._outputs)

    def module(self, name: str) -> nn.Module:
        """Return a layer."""
        return self._modules[name]

    def type_of(self, name: str) -> str:
        """Return the class name of a layer."""
        return type(self._modules[name]).__name__

    def is_norm(self, name: str) -> bool:
        """Tell whether a layer is a BatchNorm."""
        return isinstance(self._modules[name], NORMS)

    def is_producer(self, name: str) -> bool:
        """Tell whether a layer makes channels, as a convolution does, and takes part in the forward pass."""
        return makes_channels(self._modules[name]) and name in self

    def producers(self) -> list[str]:
        """Return the convolutions and linear layers of the graph, in the model's order."""
        return [name for name in self._outputs if self.is_producer(name)]

    def output_layers(self) -> tuple[str, ...]:
        """Return the producers whose channels are the model's outputs, or some of them."""
        return tuple(name for name in self.producers() if OUTPUTS in self.reasons(self.components(name)))

    @functools.cached_property
    def whole_layers(self) -> dict[str, str]:
        """The convolutions and linear layers that can lose no channel, and why."""
        found = {}
        for name, module in self._modules.items():
            if self.is_producer(name):
                components = self.components(name)
                if call := made_plain_by(name, module):
                    found[name] = f"{COMPUTED}: {call} before create_compressor gives it one of its own"
                elif self.fixed(components).all():
                    found[name] = self.reasons(components)[0]
            elif makes_channels(module):
                found[name] = UNUSED
        return found

    def follows(self, name: str) -> bool:
        """Tell whether a layer only passes its input's channels on."""
        return name in self._followers

    def channels(self, name: str) -> int:
        """Return the number of output channels of a layer."""
        return len(self._outputs[name][2])

    def output_axis(self, name: str) -> tuple[str, int]:
        """Return the tensor and its dimension that run along the output channels of a layer."""
        tensor, dim, _ = self._outputs[name]
        return tensor, dim

    def components(self, name: str, channels: Iterable[int] | None = None) -> Ids:
        """Return the component of each output channel of a layer, or of some of them."""
        every = self._outputs[name][2]
        found: Ids = every if channels is None else every[np.fromiter(channels, dtype=np.int64)]
        return found

    def fixed(self, components: Ids) -> Any:
        """Return a bool array, True for components that cannot be removed."""
        return self._is_fixed[components]

    @functools.cached_property
    def _is_fixed(self) -> NDArray[np.bool_]:
        found = np.zeros(self._next, dtype=bool)
        found[np.fromiter(self._reasons, dtype=np.int64)] = True
        return found

    def reason(self, component: int) -> str:
        """Return why a component cannot be removed; empty where it can."""
        found = self._reasons.get(int(component), "")
        return found if not found or found == OUTPUTS or found.startswith("its ") else f"its channels meet {found}"

    def reasons(self, components: Ids) -> list[str]:
        """Return the different reasons why some of the components cannot be removed."""
        return list(dict.fromkeys(self.reason(one) for one in np.unique(components).tolist() if one in self._reasons))

    def members(self, components: Ids) -> list[CoupledLayer]:
        """Return all layers that have output channels in `components`, in the model's order."""
        return [
            CoupledLayer(name, channels, found, name in self._followers)
            for name, channels, found in self._index.of(components)
        ]

    def readers(self, components: Ids) -> list[tuple[str, Ids, Ids]]:
        """Return (layer, input channels, the component of each) of the convolutions and linear layers that read."""
        return self._inputs.of(components)

    def _output_of(self, name: str, module: nn.Module) -> tuple[str, int] | None:
        """Return the tensor and the dimension of a layer's output channels; None for a module that has none."""
        parent, _, key = name.rpartition(".")
        if key == "out_proj" and isinstance(self._modules.get(parent), nn.MultiheadAttention):
            return None  # it is a part of the attention
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.MultiheadAttention):
            return self._known(f"{prefix}out_proj.weight", 0)
        keys = ("weight", "running_mean", "parametrizations.weight.original1", "parametrizations.weight.original")
        if not (makes_channels(module) or isinstance(module, (nn.Embedding, nn.PReLU, *_NORMED))):
            return None
        dim = output_dim(module)
        every = (*stacked_weights(module), *keys, "weight_orig", "weight_v")  # of spectral_norm weight_v is a vector
        found = (self._known(f"{prefix}{key}", dim) for key in every)
        return next((place for place in found if place is not None), None)

    def _known(self, tensor: str, dim: int) -> tuple[str, int] | None:
        tensor = self._aliases.get(tensor, tensor)
        axes = self.couplings.axes.get(tensor)
        return (tensor, dim) if axes is not None and dim < len(axes) else None

    @property
    def _aliases(self) -> dict[str, str]:
        """Name of a tensor that modules share -> the name that the couplings know it by."""
        if not hasattr(self, "_shared"):
            first: dict[int, str] = {}
            self._shared = {
                name: first.setdefault(id(tensor), name)
                for name, tensor in self.model.named_parameters(remove_duplicate=False)
            }
        return self._shared

    def _channels_of(self, name: str, tensor: str, dim: int) -> Ids:
        """Return the components of a layer's channels; one that cannot be told from a constant has one of its own."""
        atoms = self.couplings.axes[tensor][dim]
        found = self.couplings.components.root[atoms].copy()
        single = np.flatnonzero(atoms == 0)
        found[single] = np.arange(self._next, self._next + len(single))
        self._next += len(single)
        reason = self._own_reason(name)
        if not reason and name in self.couplings.last and len(single):
            reason = OUTPUTS
        if reason:
            for component in np.unique(found if self._own_reason(name) else found[single]).tolist():
                self._reasons.setdefault(component, reason)
        return found

    def _own_reason(self, name: str) -> str:
        """Return why no channel of a layer can go, whatever it is coupled to."""
        module = self._modules[name]
        if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1 and not _depthwise(module):
            return f'the grouped transposed convolution "{name}" (groups={module.groups})'
        return ""

    def _inputs_of(self, name: str) -> Ids | None:
        module = self._modules[name]
        if not makes_channels(module):
            return None
        tensor, dim, _ = self._outputs[name]
        axes = self.couplings.axes[tensor]
        if len(axes) < 2 or getattr(module, "groups", 1) > 1:
            return None
        atoms = axes[3 - dim if stacked_weights(module) else 1 - dim]
        return np.where(atoms == 0, -1, self.couplings.components.root[atoms])

    def _find_followers(self) -> frozenset[str]:
        depthwise = {name for name in self._outputs if _depthwise(self._modules[name])}
        behind = {
            name
            for name in self._outputs
            if self.is_norm(name) and self.couplings.sources.get(name, frozenset()) & depthwise
        }
        return frozenset(depthwise | behind)


_NORMED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class _Index:
    """Component -> the channels of all layers that belong to it.

    Parameters
    ----------
    layers
        Layer -> the component of each of its channels; -1 for what belongs to none.
    """

    def __init__(self, layers: dict[str, Ids]) -> None:
        self._names = list(layers)
        counts = [len(found) for found in layers.values()]
        components = np.concatenate([*layers.values(), np.empty(0, dtype=np.int64)])
        self._order = np.argsort(components, kind="stable")
        self._sorted = components[self._order]
        self._layer = np.repeat(np.arange(len(counts)), counts)
        self._channel = np.concatenate([*(np.arange(count) for count in counts), np.empty(0, dtype=np.int64)])
        self._component = components

    def of(self, components: Ids) -> list[tuple[str, Ids, Ids]]:
        """Return (layer, channels, the component of each) of all that belong to `components`."""
        wanted = np.unique(components)
        wanted = wanted[wanted >= 0]
        starts, ends = np.searchsorted(self._sorted, wanted, "left"), np.searchsorted(self._sorted, wanted, "right")
        pieces = [self._order[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        places = np.sort(np.concatenate([*pieces, np.empty(0, dtype=np.int64)]))
        layers, firsts = np.unique(self._layer[places], return_index=True)
        bounds = [*firsts.tolist(), len(places)]
        return [
            (self._names[layer], self._channel[places[start:end]], self._component[places[start:end]])
            for layer, start, end in zip(layers.tolist(), bounds[:-1], bounds[1:], strict=True)
        ]


def clean_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` without our hooks; raises CompressionError where it holds what cannot be copied."""
    computed = {
        id(value): value.detach().clone()  # as weight_norm and torch.nn.utils.prune compute a weight at each call
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        with unhooked(model):  # masks are as large as a quarter of the model
            copied = copy.deepcopy(model, computed)
    except (RuntimeError, TypeError) as error:
        raise CompressionError(
            f"{type(model).__name__} cannot be copied: {error}",
            fix="keep no tensors with a history, locks, files or generators as attributes of the model",
        ) from error
    inherit(copied, model)
    return copied


def _called(model: nn.Module, example: Example) -> Sequence[Tensor]:
    """Call a model; BatchNorm in train mode wants more than one value a channel, so one sample is repeated then."""
    try:
        outputs = tensors_in(example.call(model))
    except ValueError:
        if not model.training:
            raise
        outputs = tensors_in(example.map(lambda one: one.repeat_interleave(2, 0) if one.dim() else one).call(model))
    if not outputs and not model.training:
        raise CompressionError(
            f"{type(model).__name__} answers no tensor that depends on its weights",
            fix="return the logits from forward(), not what is derived from them without a gradient",
        )
    return outputs


def _depthwise(module: Any) -> bool:
    return (
        isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups == module.out_channels == module.in_channels
    )
