"""The layers that read channels which go: which can be refitted, their weights as matrices, and their input rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from raycompress.compressors.layer_kinds import is_transposed_linear, output_dim, stacked_weights
from raycompress.compressors.structure.cut import Sliced

T = TypeVar("T")
ROWS = 16384
"""Output positions of a layer that are drawn of all batches together, and of one at most an eighth of them."""
LARGEST = 4608
"""Inputs of a layer beyond which it is left as it is: the Gram matrix of so many has 170 MB."""
OWN = "its forward() is its own"
_COMPUTED = "its weight is computed from others"
_SEEN, _SAME = 64, 1e-4
"""Output positions by which a layer of a forward() of its own is seen to be plain, and their relative difference."""
_SHARED = ("weight", "bias")
"""What of a layer a refit writes, so that no other layer may have it."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Places(NamedTuple):
    """Output positions of a layer that were drawn, ascending, of how many."""

    drawn: Tensor
    of: int


@dataclass(frozen=True)
class Reader:
    """A layer whose inputs get fewer.

    Attributes
    ----------
    name
        The module whose call shows its inputs: itself, or torch's attention, which never calls its output projection.
    owner
        The module that holds ``weight`` and ``bias``.
    norm
        The BatchNorm that a layer without a bias is followed by: an offset of its outputs can go into the mean that
        this one subtracts.
    calls
        How many times a pass calls it.
    is_own
        Whether its ``forward()`` is not torch's: it is refitted where it is seen to compute the same, see `is_plain`.
    """

    name: str
    owner: str
    norm: str = ""
    calls: int = 1
    is_own: bool = False

    def inputs(self, small: nn.Module) -> int:
        """Return how many inputs one output has in the small model, an offset among them."""
        return matrix(small.get_submodule(self.owner), offset=None).size(1) + 1


def stages(items: Iterable[T], room_of: Callable[[T], int], at_once: float = math.inf) -> Iterator[list[T]]:
    """Yield the items in their order, `at_once` at most at a time, and as many as their matrices leave room for."""
    stage, room = list[T](), 0
    for item in items:
        entries = room_of(item)
        if stage and (len(stage) == at_once or room + entries > LARGEST**2):
            yield stage
            stage, room = [], 0
        stage.append(item)
        room += entries
    if stage:
        yield stage


def readers_of(
    model: nn.Module, small: nn.Module, tensors: Mapping[tuple[str, str], Sliced]
) -> tuple[list[Reader], dict[str, str]]:
    """Return the layers of `model` that can be refitted, and those that read removed channels and cannot -> why.

    Parameters
    ----------
    tensors
        What is left of each tensor in `small`.
    """
    named: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            named.setdefault(id(parameter), set()).add(id(module))
    found, left = list[Reader](), dict[str, str]()
    for name, module in model.named_modules():
        packed = tensors.get((name, "in_proj_weight"))
        if packed is not None and packed.kept[1] is not None:
            left[name] = "torch's attention reads by a weight of its own"
        if isinstance(module, nn.RNNBase) and any(
            _is_narrower(tensors.get((name, key)), 1) for key in module._parameters if key.startswith("weight_")
        ):
            left[name] = "recurrent layers are not refitted"
        if any((name, key) in tensors for key in stacked_weights(module)):
            left[name] = "stacked weights of experts are not refitted"
        if any(_is_narrower(tensors.get(key), _input_dim(module)) for key in _parts_of_weight(name)):
            left[name] = _COMPUTED
        sliced = tensors.get((name, "weight"))
        if sliced is None or len(sliced.kept) < 2 or isinstance(module, nn.Embedding):
            continue
        if sliced.kept[_input_dim(module)] is None:
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        in_attention = isinstance(parent, nn.MultiheadAttention) and module is parent.out_proj
        why = "" if in_attention else why_not(module)
        is_own, why = why == OWN, "" if why == OWN else why
        why = why or next(
            (f"its {key} is another layer's too" for key in _SHARED if _is_shared(module, key, named)), ""
        )
        reader = Reader(name.rpartition(".")[0] if in_attention else name, name, is_own=is_own)
        if not why and reader.inputs(small) > LARGEST + 1:
            why = f"it has more than {LARGEST} inputs"
        if why:
            left[name] = why
        else:
            found.append(reader)
    return found, left


def _parts_of_weight(name: str) -> list[tuple[str, str]]:
    """Return what a layer's weight may be computed from by weight_norm, spectral_norm and torch.nn.utils.prune."""
    inside = f"{name}.parametrizations.weight".lstrip(".")
    return [(name, "weight_v"), (name, "weight_orig"), (inside, "original"), (inside, "original1")]


def _is_narrower(sliced: Sliced | None, dim: int) -> bool:
    return sliced is not None and len(sliced.kept) > 1 and sliced.kept[dim] is not None


def _is_shared(module: nn.Module, key: str, owners: Mapping[int, set[int]]) -> bool:
    """Tell whether a parameter is another module's too; `owners`: id of a parameter -> ids of its modules."""
    parameter = module._parameters.get(key)
    return parameter is not None and len(owners[id(parameter)]) > 1


def why_not(module: nn.Module) -> str:
    """Return why a layer cannot be refitted by what it is; empty for one that can be."""
    kind = type(module)
    if module._parameters.get("weight") is None:
        return _COMPUTED
    if isinstance(module, nn.Linear):
        return "" if kind.forward is nn.Linear.forward else OWN
    if isinstance(module, _CONVOLUTIONS):
        plain = next(one for one in _CONVOLUTIONS if isinstance(module, one))
        same = all(getattr(kind, key) is getattr(plain, key) for key in ("forward", "_conv_forward"))
        return "" if same else OWN
    return "" if is_transposed_linear(module) else f"no layer of type {kind.__name__} is refitted"


def is_plain(module: nn.Module, value: Tensor, output: Tensor) -> bool:
    """Tell whether a layer of a ``forward()`` of its own put out what torch's would, up to how it pads an image."""
    bias = module._parameters.get("bias")
    places, expected = output_rows(module, output, None, _SEEN, seed=0)
    rows = input_rows(module, value, places, 1.0)
    if rows is None:
        return False
    offset = rows.new_zeros(expected.size(1)) if bias is None else bias.detach()
    found = torch.einsum("ngi,gio->ngo", rows, matrix(module, offset)).reshape(expected.shape)
    return bool((found - expected).norm() <= _SAME * expected.norm())


def _input_dim(module: nn.Module) -> int:
    return 0 if is_transposed_linear(module) or isinstance(module, nn.modules.conv._ConvTransposeNd) else 1


def matrix(module: nn.Module, offset: Tensor | None) -> Tensor:
    """Return a layer's weight as [groups, inputs, outputs], with `offset`, one number an output, as its last input."""
    weight = module.get_parameter("weight").detach()
    if isinstance(module, _CONVOLUTIONS):
        found = weight.reshape(module.groups, module.out_channels // module.groups, -1).transpose(1, 2)
    else:
        found = (weight if is_transposed_linear(module) else weight.T)[None]
    return found if offset is None else torch.cat([found, offset.to(found).reshape(len(found), 1, -1)], 1)


def with_bias(module: nn.Module) -> Tensor:
    """Return a layer's weight as `matrix` does, its bias, or zeros, as the last input."""
    bias, weight = module._parameters.get("bias"), module.get_parameter("weight")
    return matrix(module, weight.new_zeros(weight.size(output_dim(module))) if bias is None else bias.detach())


def write(module: nn.Module, solution: Tensor) -> Tensor:
    """Write the weight that `matrix` would return with an offset; returns that offset, one number an output."""
    weight = module.get_parameter("weight")
    fresh = solution[:, :-1]
    if isinstance(module, _CONVOLUTIONS):
        fresh = fresh.transpose(1, 2).reshape(weight.shape)
    else:
        fresh = fresh[0] if is_transposed_linear(module) else fresh[0].T
    weight.data.copy_(fresh)
    return solution[:, -1].reshape(-1)


def output_rows(module: nn.Module, output: Tensor, kept: Tensor | None, most: int, seed: int) -> tuple[Places, Tensor]:
    """Return at most so many positions of an output, and what of the kept channels is there: [positions, outputs]."""
    if isinstance(module, _CONVOLUTIONS):
        batched = output if output.dim() == len(module.kernel_size) + 2 else output[None]
        flat = batched.movedim(1, -1).flatten(0, -2)
    else:
        flat = output.flatten(0, -2) if output.dim() > 1 else output[None]
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(len(flat), generator=generator)[:most].sort().values.to(flat.device)
    rows = flat[places]
    return Places(places, len(flat)), rows if kept is None else rows[:, kept.to(rows.device)]


def input_rows(module: nn.Module, value: Tensor, places: Places, offset: float) -> Tensor | None:
    """Return what a layer computes its outputs at `places` from: [positions, groups, inputs], `offset` as the last.

    None where it has another number of outputs here, as the heads of a detector have that found other boxes.
    """
    if isinstance(module, _CONVOLUTIONS):
        rows = _patches(module, value, places)
    else:
        flat = value.flatten(0, -2) if value.dim() > 1 else value[None]
        rows = flat[places.drawn][:, None] if len(flat) == places.of else None
    if rows is None:
        return None
    return torch.cat([rows, rows.new_full((*rows.shape[:2], 1), offset)], 2)


def _patches(module: nn.Module, value: Tensor, places: Places) -> Tensor | None:
    """Return the patches that a convolution sees at some of its output positions: [positions, groups, inputs]."""
    assert isinstance(module, _CONVOLUTIONS)
    dims = len(module.kernel_size)
    batched = value if value.dim() == dims + 2 else value[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(batched, module._reversed_padding_repeated_twice, mode=mode)
    device = value.device
    spans = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    counts = _counts(module, padded, spans)
    if len(padded) * math.prod(counts) != places.of:
        padded = _padded_as_needed(module, batched, spans)
        counts = _counts(module, padded, spans)
    if len(padded) * math.prod(counts) != places.of:
        return None
    sizes = padded.shape[2:]
    rest, starts = places.drawn, torch.zeros_like(places.drawn)
    inside = torch.zeros(1, dtype=torch.long, device=device)
    for dim in reversed(range(dims)):
        step = math.prod(sizes[dim + 1 :])
        starts = starts + rest % counts[dim] * module.stride[dim] * step
        rest = torch.div(rest, counts[dim], rounding_mode="floor")
    for dim in range(dims):
        along = torch.arange(module.kernel_size[dim], device=device) * module.dilation[dim]
        inside = (inside[:, None] + (along * math.prod(sizes[dim + 1 :]))[None]).flatten()
    seen = padded.flatten(2)[rest[:, None], :, starts[:, None] + inside[None]]  # [positions, kernel, channels]
    return seen.transpose(1, 2).reshape(len(rest), module.groups, -1)


def _counts(module: Any, padded: Tensor, spans: Sequence[int]) -> list[int]:
    """Return how many outputs a convolution has along each dimension."""
    along = zip(padded.shape[2:], spans, module.stride, strict=True)
    return [(size - span) // step + 1 for size, span, step in along]


def _padded_as_needed(module: Any, value: Tensor, spans: Sequence[int]) -> Tensor:
    """Pad as TensorFlow does, and layers that are made after its: for one output per stride, the odd one behind."""
    pads: list[int] = []
    for size, span, step in zip(value.shape[2:], spans, module.stride, strict=True):
        missing = max(0, (-(-size // step) - 1) * step + span - size)
        pads = [missing // 2, missing - missing // 2, *pads]
    return pad(value, pads)
