"""Sizes that modules hold in attributes, and that slicing changes along with the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from raycompress.compressors.layer_kinds import is_transposed_linear

_WORDS = frozenset(
    [
        *["c", "d", "channels", "chs", "dim", "dims", "embed", "embd", "embedding", "features", "filters", "hidden"],
        *["group", "groups", "head", "heads", "in1", "in2", "inner", "kdim", "nf", "nhead", "nx", "planes", "shape"],
        *["size", "vdim", "width"],
    ]
)


def is_size(name: str) -> bool:
    """Tell whether slicing may change an attribute of this name: one of its words says that it counts something.

    A plan may come from a stranger, so nothing else is ever set.
    """
    return not _WORDS.isdisjoint(name.lower().split("_")) or name in ("num_parameters", "num_features")


Shape = tuple[int, ...]
Values = dict[str, "int | tuple[int, ...]"]


@dataclass(frozen=True)
class Sizes:
    """The sizes around one module that change.

    Attributes
    ----------
    shapes
        Own parameter or buffer -> its new shape.
    weight
        New shape of a weight that is computed from other parameters.
    counted
        (attribute, its place in a tuple or list) -> the number that it counts now.
    reduced
        Old length of what a reduction in the module runs over -> the new one.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    weight: Shape | None = None
    counted: Mapping[tuple[str, int | None], int] = field(default_factory=dict)
    reduced: Mapping[int, int] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        """Return the new shape of an own tensor; None where it stays."""
        found = self.shapes.get(name)
        return self.weight if found is None and name == "weight" else found


def resized(module: nn.Module, sizes: Sizes) -> Values:
    """Return the attributes of a module that change, with their new values.

    Of torch's own layers they follow from the shapes of the weights; of others, what the forward pass counts an axis by
    changes with it. A number that only equals a length stays.
    """
    if not (sizes.shapes or sizes.weight or sizes.counted or sizes.reduced):
        return {}
    rule = next((rule for kind, rule in _RULES if isinstance(module, kind)), None)
    if is_transposed_linear(module):
        rule = _transposed_linear
    found = rule(module, sizes) if rule is not None else {}
    for (name, place), value in sizes.counted.items():
        if place is None and (rule is None or name not in found):
            found[name] = value
        elif place is not None:
            members = found.get(name, vars(module)[name])
            assert isinstance(members, tuple | list)
            found[name] = (*members[:place], value, *members[place + 1 :])
    return {key: value for key, value in found.items() if vars(module).get(key, value) != value}


def _normalized(module: nn.Module, sizes: Sizes) -> Values:
    weight, value = sizes.shape("weight"), module.normalized_shape
    assert isinstance(value, tuple)
    return {"normalized_shape": weight or tuple(sizes.reduced.get(int(one), int(one)) for one in value)}


def _convolution(module: nn.Module, sizes: Sizes) -> Values:
    assert isinstance(module, nn.modules.conv._ConvNd)
    shape = sizes.shape("weight")
    if shape is None:
        return {}
    groups = module.groups
    first, second = shape[:2]
    if module.transposed:
        if groups > 1:  # whole groups go
            groups = groups * first // module.in_channels
        return {"groups": groups, "in_channels": first, "out_channels": second * groups}
    if groups >= module.in_channels // groups > 0 and groups > 1:
        groups = groups * first // module.out_channels
    return {"groups": groups, "in_channels": second * groups, "out_channels": first}


def _linear(_module: nn.Module, sizes: Sizes) -> Values:
    shape = sizes.shape("weight")
    return {} if shape is None else {"out_features": shape[0], "in_features": shape[1]}


def _transposed_linear(_module: nn.Module, sizes: Sizes) -> Values:
    shape = sizes.shape("weight")
    return {} if shape is None else {"nf": shape[1], "nx": shape[0]}


def _bilinear(_module: nn.Module, sizes: Sizes) -> Values:
    shape = sizes.shape("weight")
    return {} if shape is None else dict(zip(("out_features", "in1_features", "in2_features"), shape, strict=True))


def _along_first(attribute: str) -> Callable[[nn.Module, Sizes], Values]:
    def rule(module: nn.Module, sizes: Sizes) -> Values:
        shape = sizes.shape("weight") or sizes.shape("running_mean")
        old = vars(module)[attribute]
        return {attribute: shape[0] if shape is not None else sizes.reduced.get(old, old)}

    return rule


def _embedding(_module: nn.Module, sizes: Sizes) -> Values:
    shape = sizes.shape("weight")
    return {} if shape is None else {"embedding_dim": shape[1]}


def _attention(module: nn.Module, sizes: Sizes) -> Values:
    assert isinstance(module, nn.MultiheadAttention)
    fused = sizes.shape("in_proj_weight")
    if fused is not None:
        width = fused[1]
        return {"embed_dim": width, "kdim": width, "vdim": width, "head_dim": width // module.num_heads}
    found: Values = {}
    for name, key in (("q_proj_weight", "embed_dim"), ("k_proj_weight", "kdim"), ("v_proj_weight", "vdim")):
        shape = sizes.shape(name)
        if shape is not None:
            found |= {key: shape[1], "head_dim": shape[0] // module.num_heads}
    return found


def _recurrent(_module: nn.Module, sizes: Sizes) -> Values:
    found: Values = {}
    for name, key in (("weight_ih_l0", "input_size"), ("weight_hh_l0", "hidden_size")):
        shape = sizes.shape(name) or sizes.shape(name.removesuffix("_l0"))
        if shape is not None:
            found[key] = shape[1]
    return found


_RULES: list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[nn.Module, Sizes], Values]]] = [
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (nn.modules.batchnorm._NormBase, _along_first("num_features")),
    (nn.GroupNorm, _along_first("num_channels")),
    ((nn.LayerNorm, nn.RMSNorm), _normalized),
    (nn.PReLU, _along_first("num_parameters")),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.MultiheadAttention, _attention),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
]
"""Class -> its rule."""
