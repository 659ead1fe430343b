"""Which layers a config_list quantizes, which of their tensors, and with how many bits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from raycompress.catalog import CompressorEntry
from raycompress.catalog.quantizers import BITS, OF_LAYERS, PARTS
from raycompress.compressors.create import closest
from raycompress.compressors.layer_kinds import is_plain, made_plain_by, make_plain, weight_names
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.targets.selection import Target, choose
from raycompress.compressors.targets.torch import layers_of
from raycompress.errors import CompressionError, ExperimentError, Problem

_SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")
_CHOICES = {"quant_scheme": _SCHEMES, "quant_dtype": ("uint", "int")}
_NEVER_CALLED = "NonDynamicallyQuantizableLinear"
"""The out_proj of torch's MultiheadAttention, which reads its weight and computes with it itself."""
_INTEGER_INPUTS = ("Embedding", "EmbeddingBag")


def select(
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], compressor: CompressorEntry
) -> dict[str, Target]:
    """Return the layers to quantize by name, in the model's order; the last entry that matches a layer rules it.

    Raises
    ------
    ExperimentError
        All mistakes of the list at once.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    # activations are quantized of layers without a weight too, such as ReLU
    targets = choose(layers_of(modules, modules), config_list, compressor)
    if compressor.name in OF_LAYERS:
        return _quantized_as_whole(targets, OF_LAYERS[compressor.name])
    if compressor.name not in PARTS:
        return targets
    problems = [problem for index, entry in enumerate(config_list) for problem in _settings(index, entry, compressor)]
    if not problems:
        problems = [p for name, target in targets.items() for p in _layer(name, modules[name], target)]
    if problems:
        raise ExperimentError.of(problems)
    return targets


def _quantized_as_whole(targets: Mapping[str, Target], known: Collection[int]) -> dict[str, Target]:
    """Return the layers whose weights become integers: of others ``quant_bits`` says that they stay float."""
    few = " or ".join(str(bits) for bits in sorted(known) if bits <= 8)
    problems = [
        Problem(
            f"quant_bits of a layer is one of {', '.join(map(str, known))}, not {target.settings['quant_bits']!r}",
            f"config_list[{target.entry}].quant_bits",
            f"write {few}, or 32 for a layer that stays float",
        )
        for target in targets.values()
        if target.settings.get("quant_bits", 8) not in known
    ]
    if problems:
        raise ExperimentError.of(list(dict.fromkeys(problems)))
    return {name: target for name, target in targets.items() if target.settings.get("quant_bits", 8) <= 8}


def refuse_tied(model: nn.Module, layers: Collection[str], together: bool = False) -> None:
    """Raise CompressionError where the weight of one of `layers` is another layer's too: one weight has one grid.

    With `together` it may be that of others among `layers`.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    inside = {f"{name}.weight" for name in layers} if together else set()
    shared = {name for names in owners.values() if len(names) > 1 and not inside.issuperset(names) for name in names}
    tied = next((name for name in layers if f"{name}.weight" in shared), None)
    if tied is not None:
        raise CompressionError(
            f'the weight of "{tied}" is shared with another layer, which would change with it',
            where="config_list",
            fix=f'leave it out: {{"op_names": ["{tied}"], "exclude": true}}; or use "ptq_static"',
        )


def refuse_other_bits(model: nn.Module, bits: Mapping[str, int]) -> None:
    """Raise ExperimentError where layers that share a weight have different bits; `bits`: layer -> its bits."""
    first: dict[int, str] = {}
    for name, own in bits.items():
        layer = model.get_submodule(name)
        for weight in map(layer.get_parameter, weight_names(layer)):
            other = first.setdefault(id(weight), name)
            if bits[other] != own:
                raise ExperimentError(
                    f'"{other}" and "{name}" share a weight, of which one has {bits[other]} bits and the other {own}',
                    where="config_list",
                    fix=f'write "quant_bits": {own} for both, or use "ptq_static"',
                )


def with_plain_weights(model: nn.Module) -> nn.Module:
    """Return `model`, or a copy of one in which weights are computed from others that has them as they are."""
    return model if is_plain(model) else make_plain(clean_copy(model).eval())


def refuse_types(
    model: nn.Module, layers: Collection[str], known: Collection[torch.dtype], why: str = "of which no int8 is made"
) -> None:
    """Raise CompressionError, which says `why`, where a weight of one of `layers` is of no type among `known`."""
    for name in layers:
        for weight in model.get_submodule(name).parameters(recurse=False):
            if weight.dtype not in known:
                raise CompressionError(
                    f'the weights of "{name}" are {str(weight.dtype).removeprefix("torch.")}, {why}',
                    where=type(model).__name__,
                    fix="call model.float() before create_compressor, and give it float32 inputs",
                )


def bits_by_layer(targets: Mapping[str, Target]) -> dict[str, int]:
    """Return the bits of each layer that is quantized as a whole."""
    return {name: int(target.settings.get("quant_bits", 8)) for name, target in targets.items()}


def parts_of(target: Target) -> tuple[str, ...]:
    """Return what of a layer is quantized: weight, input, output."""
    return tuple(target.settings["quant_types"])


def bits_of(target: Target, part: str) -> int:
    """Return the bits of one part of a layer."""
    bits = target.settings["quant_bits"]
    return int(bits[part] if isinstance(bits, Mapping) else bits)


def _settings(index: int, entry: Mapping[str, Any], compressor: CompressorEntry) -> Iterator[Problem]:
    if entry.get("exclude", False):
        return
    where, known = f"config_list[{index}]", PARTS[compressor.name]
    parts = entry["quant_types"]
    if not isinstance(parts, (list, tuple)) or not parts:
        fix = f'write "quant_types": ["{known[0]}"]'
        yield Problem("quant_types is a list of what to quantize", f"{where}.quant_types", fix)
        return
    for part in parts:
        if part not in known:
            fix = closest(str(part), known) or f"it quantizes {', '.join(known)}"
            yield Problem(f'{compressor.name} does not quantize "{part}"', f"{where}.quant_types", fix)
    bits = entry["quant_bits"]
    for part in parts:
        value = bits.get(part) if isinstance(bits, Mapping) else bits
        place = f"{where}.quant_bits.{part}" if isinstance(bits, Mapping) else f"{where}.quant_bits"
        if value is None:
            yield Problem(f'quant_bits has no "{part}"', place, f'add "{part}": {min(8, BITS[compressor.name][1])}')
        elif problem := _wrong_bits(value, compressor.name):
            yield Problem(problem, place, _bits_fix(compressor.name))
            if not isinstance(bits, Mapping):
                break
    yield from _schemes(entry, where)


def _wrong_bits(value: Any, name: str) -> str:
    low, high = BITS[name]
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return ""
    bits = f"{low} to {high} bits" if high != low else f"{low} bit{'s' * (low != 1)}"
    return f"{name} works with {bits}, not {value!r}"


def _bits_fix(name: str) -> str:
    low, high = BITS[name]
    others = "" if low == high else f", or another from {low} to {high}"
    return f'write "quant_bits": {min(max(8, low), high)}{others}'


def _schemes(entry: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key, known in _CHOICES.items():
        value = entry.get(key)
        for one in value.values() if isinstance(value, Mapping) else (() if value is None else (value,)):
            if one not in known:
                fix = closest(str(one), known) or f"it is one of {', '.join(known)}"
                yield Problem(f'unknown {key} "{one}"', f"{where}.{key}", fix)


def _layer(name: str, module: nn.Module, target: Target) -> Iterator[Problem]:
    where = f"config_list[{target.entry}]"
    if target.type == _NEVER_CALLED:
        what = f'"{name}" is never called: MultiheadAttention computes with its weight itself'
        yield Problem(what, where, f'leave it out: {{"op_names": ["{name}"], "exclude": true}}')
    if "weight" in parts_of(target) and not isinstance(getattr(module, "weight", None), nn.Parameter):
        what = f'"{name}" ({target.type}) has no weight to quantize'
        call, other = made_plain_by(name, module), "quantize its output, or name layers that have a weight"
        yield Problem(what, where, f"{call} before create_compressor; or {other}" if call else other)
    if "input" in parts_of(target) and target.type in _INTEGER_INPUTS:
        yield Problem(f'the input of "{name}" ({target.type}) is integers already', where, "quantize its weight")
