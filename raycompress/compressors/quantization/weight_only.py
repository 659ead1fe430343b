"""The compressor that stores weights of linear layers and embeddings as integers, and computes in float, by torchao.

Weights of 4 bits are torchao's int8 ones whose numbers lie between -8 and 7, with a scale for each group of values: its
own int4 does not run on every processor. A bundle has two of them in a byte.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycompress.bundle.example import Example, distinct
from raycompress.bundle.structures import map_tensors
from raycompress.compressors.layer_kinds import made_plain_by, output_dim, stacked_weights, torch_base, weight_names
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.quantization import session
from raycompress.compressors.quantization.int4.weights import as_int4, pack, unpack
from raycompress.compressors.quantization.quantizer import (
    Quantized,
    Quantizer,
    agreement,
    float_state,
    size_note,
)
from raycompress.compressors.quantization.targets import (
    bits_by_layer,
    refuse_other_bits,
    refuse_tied,
    refuse_types,
)
from raycompress.compressors.saving.fingerprint import fingerprint_of
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.structure.decisions import difference_of_same_decisions
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, MissingDependencyError
from raycompress.extras import load_extra
from raycompress.model.stored import group_of


class WeightOnlyQuantizer(Quantizer):
    """``int8_weight_only``: weights of 8 bits, a scale for each output or row of a table, or of 4 bits in groups."""

    _agrees = ""

    def compress(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """Quantize; evaluate the model after it, and train it no more.

        Raises
        ------
        MissingDependencyError
            torchao is not installed.
        """
        if self._compressed:
            return self.model
        self._plain.load_state_dict(float_state(self.model))
        refuse_tied(self.model, self._targets, together=True)
        refuse_other_bits(self.model, self._bits)
        refuse_types(self.model, self._targets, (torch.float32, torch.float16, torch.bfloat16))
        quantize(self.model, self._bits)
        self._compressed = True
        self._uncompiled.release()  # int8 weights are no hooks: what is compiled of them is theirs
        return session.eval_only(self.model)

    def _left_float(self) -> list[str]:
        computed = [(name, one) for name, one in self._plain.named_modules() if made_plain_by(name, one)]
        left = [name for name, one in computed if self._entry.takes(type(one).__name__, torch_base(one))]
        return [f"left float, since their weights are computed: {', '.join(left)}"] if left else []

    @property
    def _bits(self) -> dict[str, int]:
        return bits_by_layer(self._targets)

    def _quantized(self, example: Example) -> Quantized:
        self._capture.stop()
        copied = clean_copy(self.model).cpu()
        stored = parts(copied, self._bits)
        plain = clean_copy(self._plain)
        plain.load_state_dict(dequantized(copied, self._bits))
        difference = relative_difference(example.outputs(copied), example.outputs(plain.eval()))
        coarsest = max(torch.finfo(weight.dtype).eps for weight in self._plain.parameters())
        allowed = max(TOLERANCE, 2 * coarsest)
        if not difference <= allowed:  # a detector may sort nearly equal boxes in another order
            difference = min(difference, difference_of_same_decisions(copied, plain, example))
        if not difference <= allowed:
            raise CompressionError(
                f"torchao computes something else than whole weights times their scales: {difference:.2g} of the norm",
                where=type(self.model).__name__,
                fix="leave out the layers that forward() uses in another way than by calling them",
            )
        size = sum(tensor.numel() * tensor.element_size() for tensor in distinct(stored).values())
        before = measure.size_bytes(self._plain)
        agrees = agreement(self._plain.eval(), copied, self._samples() or [example])
        return Quantized(
            model=copied,
            state=float_state(plain),
            weights=stored,
            recipe={"form": "weight_only", "layers": list(self._targets), "bits": self._bits},
            size_bytes=size,
            notes=(f"{size_note(before, size, 'weights.safetensors')}; {agrees}", *self._left_float()),
            traceable=plain,
        )

    def _fingerprint(self) -> Fingerprint:
        return fingerprint_of(parts(self.model, self._bits if self._compressed else {}))


_READERS = (
    *((name, "default") for name in ("t", "permute", "expand", "unsqueeze", "view", "_unsafe_view", "mm", "bmm")),
    *((name, "Tensor") for name in ("add", "sub", "mul", "div", "split")),
    *(("transpose", "int"), ("unbind", "int"), ("split_with_sizes", "default"), ("cat", "default")),
    *(("neg", "default"), ("exp", "default"), ("linalg_vector_norm", "default"), ("mean", "dim")),
    *(("sum", "dim_IntList"), ("pow", "Tensor_Scalar")),
)
"""Operations that get an int8 weight in float: their names, and which of their forms."""


def load_library() -> None:
    """Import torchao, if it is installed; the import needs seconds."""
    with contextlib.suppress(MissingDependencyError):
        _torchao()


def quantize(model: nn.Module, layers: Mapping[str, int]) -> None:
    """Give `layers` (layer -> bits, 8 or 4) torchao's integer weights, in place; shared weights go on being shared."""
    _replace_weights(
        model, layers, lambda _, layer, weight, bits: (_as_int8 if bits > 4 else _as_int4)(weight, _inputs(layer))
    )


def _replace_weights(
    model: nn.Module, layers: Mapping[str, int], make: Callable[[str, nn.Module, Tensor, int], Any]
) -> None:
    """Put what `make` returns, for a weight's name in the state, its layer, it and its bits, in the weights' places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _compute(_torchao())
        modules = dict(model.named_modules())
        made: dict[int, nn.Parameter] = {}
        kept = []  # an id is that of one weight only while the weight lives
        for name, bits in layers.items():
            for key in weight_names(modules[name]):
                weight = modules[name].get_parameter(key)
                if id(weight) not in made:
                    new = make(f"{name}.{key}".lstrip("."), modules[name], weight.detach(), bits)
                    made[id(weight)] = nn.Parameter(new, requires_grad=False)
                    kept.append(weight)
                modules[name].register_parameter(key, made[id(weight)])


def _inputs(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight along which one output's values lie, of a table those of a row."""
    return 1 if isinstance(layer, nn.Embedding) else (3 if stacked_weights(layer) else 1) - output_dim(layer)


def _as_int8(weight: Tensor, axis: int) -> Any:
    """Return a weight in 8 bits, with one scale for the values along `axis`."""
    torchao = _torchao()
    return torchao.Int8Tensor.from_hp(weight, granularity=torchao.PerRow(axis))


def _as_int4(weight: Tensor, axis: int) -> Any:
    """Return a weight in 4 bits, with a scale for each group of the values along `axis`."""
    return _grouped(*as_int4(weight, axis), weight.dtype)


def _grouped(numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> Any:
    sizes = [size // count for size, count in zip(numbers.shape, scales.shape, strict=True)]
    return _torchao().Int8Tensor(numbers, scales, sizes, dtype)


def _compute(torchao: Any) -> None:
    """Teach int8 weights what forward passes do with them beside a linear layer, all that torchao 0.18 knows."""
    aten, implements = torch.ops.aten, torchao.Int8Tensor.implements
    implements([aten.embedding.default, aten.index.Tensor, aten.select.int])(_looked_up)
    implements(aten.addmm.default)(_multiplied)
    torchao.Int8Tensor.implements_torch_function(functional.linear)(_linear)
    implements([getattr(getattr(aten, name), kind) for name, kind in _READERS])(_in_float)


def _looked_up(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Turn the rows that are read into float; torchao's own lookup in a table turns the whole of it."""
    weight, rest = args[0], args[1:]
    if func is torch.ops.aten.embedding.default:
        func, rest = torch.ops.aten.index.Tensor, ([rest[0]],)
    if func is torch.ops.aten.select.int:
        dims = [rest[0] % weight.dim()]
    else:
        dims = [dim for dim, index in enumerate(rest[0]) if index is not None]
    if any(weight.scale.shape[dim] != weight.shape[dim] for dim in dims) or _is_shifted(weight):
        return _in_float(func, types, (weight, *rest), kwargs)
    whole, scale = func(weight.qdata, *rest), func(weight.scale, *rest)
    for dim, (size, count) in enumerate(zip(whole.shape, scale.shape, strict=True)):
        if count not in (1, size):  # a scale for each group along it
            scale = scale.repeat_interleave(size // count, dim)
    return (whole.to(weight.dtype) * scale).to(weight.dtype)


def _multiplied(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Multiply by the whole numbers and scale the sums, as the linear layer of GPT-2 has its weights."""
    bias, inputs, weight = args
    has_scale_of_outputs = _is_int8(weight) and weight.scale.shape == (1, weight.shape[1])
    if kwargs or _is_int8(bias) or not has_scale_of_outputs or _is_shifted(weight):
        return _in_float(func, types, args, kwargs)
    return (inputs @ weight.qdata.to(inputs.dtype)) * weight.scale.to(inputs.dtype) + bias


def _linear(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Multiply as a linear layer does; torchao wants the weight in its place, and some forward passes name it."""
    inputs, weight, bias = _arguments(*args, **kwargs)
    has_scale_of_outputs = _is_int8(weight) and weight.scale.numel() == weight.shape[0]
    if not has_scale_of_outputs or _is_int8(inputs) or _is_int8(bias) or _is_shifted(weight):
        return _in_float(func, types, (inputs, weight, bias), {})
    product = func(inputs, weight.qdata.to(inputs.dtype)) * weight.scale.to(inputs.dtype).flatten()
    return product if bias is None else product + bias


def _arguments(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return input, weight, bias


def _in_float(func: Any, _types: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Give the whole weight in float, as to Mamba's own products."""
    floats = map_tensors((args, kwargs or {}), lambda value: value.dequantize() if _is_int8(value) else value)
    return func(*floats[0], **floats[1])


def _is_int8(value: Any) -> bool:
    return hasattr(value, "qdata")


def _is_shifted(weight: Any) -> bool:
    return weight.zero_point is not None and bool(weight.zero_point.any())


def parts(model: nn.Module, layers: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the state with each quantized weight as its ordinary tensors.

    Of 8 bits they are ``fc.weight.qdata``, ``.scale`` and ``.zero_point``; of 4 ``fc.weight.packed``, uint8 with two of
    the numbers in each, and ``.scale``, bfloat16.
    """
    stored: dict[str, Tensor] = {}
    quantized = _names(model, layers)
    four: dict[int, tuple[Tensor, Tensor]] = {}  # of a weight that layers share one
    for name, tensor in model.state_dict().items():
        if quantized.get(name, 8) <= 4:
            weight: Any = tensor
            key = weight.qdata.data_ptr()
            if key not in four:
                four[key] = pack(weight.qdata), weight.scale.detach().to(torch.bfloat16)
            stored[f"{name}.packed"], stored[f"{name}.scale"] = four[key]
        elif name in quantized:
            stored.update({f"{name}.{part}": value.detach() for part, value in _inner(tensor).items()})
        else:
            stored[name] = tensor.detach()
    return stored


def dequantized(model: nn.Module, layers: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the state of the plain class, in float."""
    quantized = _names(model, layers)
    return {
        name: tensor.dequantize().detach() if name in quantized else tensor.detach()
        for name, tensor in model.state_dict().items()
    }


def restore(model: nn.Module, layers: Mapping[str, int], stored: Mapping[str, Tensor]) -> None:
    """Give `model`, a fresh float one, the weights that `parts` returned; raises KeyError where they do not fit."""
    four = {name: bits for name, bits in layers.items() if bits <= 4}
    quantize(model, {name: bits for name, bits in layers.items() if bits > 4})
    _replace_weights(model, four, lambda name, layer, weight, _: _restored(name, layer, weight, stored))
    quantized = _names(model, layers)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if quantized.get(name, 8) <= 4:
                continue
            if name in quantized:
                for part, value in _inner(tensor).items():
                    value.copy_(_fitting(stored, f"{name}.{part}", value))
            else:
                tensor.copy_(_fitting(stored, name, tensor))
    session.eval_only(model)


def _restored(name: str, layer: nn.Module, weight: Tensor, stored: Mapping[str, Tensor]) -> Any:
    """Return the weight of 4 bits that is stored under a name, of the shape and on the device of a float one."""
    numbers, scales = unpack(stored[f"{name}.packed"], weight.shape), stored[f"{name}.scale"].float()
    axis = _inputs(layer)
    expected = list(weight.shape)
    expected[axis] //= group_of(expected[axis])
    if list(scales.shape) != expected:
        raise KeyError(f"{name}.scale of shape {tuple(expected)}")
    return _grouped(numbers.to(weight.device), scales.to(weight.device), weight.dtype)


def _names(model: nn.Module, layers: Mapping[str, int]) -> dict[str, int]:
    """Return the names of the quantized weights in the model's state, and their bits."""
    return {
        f"{name}.{key}".lstrip("."): bits
        for name, bits in layers.items()
        for key in weight_names(model.get_submodule(name))
    }


def _fitting(stored: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    found = stored[name]
    if found.shape != like.shape:
        raise KeyError(f"{name} of shape {tuple(like.shape)}")
    return found


def _inner(weight: Any) -> dict[str, Tensor]:
    names, _ = weight.__tensor_flatten__()
    return {name: getattr(weight, name) for name in names}


def _torchao() -> Any:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # messages on kernels for other processors
    try:
        return load_extra("torchao.quantization", "torchao", "int8_weight_only")
    finally:
        logging.disable(disabled)
