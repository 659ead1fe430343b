"""Checks of what is quantized of a layer, and with how many bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.catalog.quantizers import BITS, OF_LAYERS, PARTS, SENSITIVITY
from raycompress.config.compression import stages_in
from raycompress.config.schema.ranges import Finding, is_range
from raycompress.config.text.reader import JsonPath
from raycompress.text import join_names


def check_bits(entry: Mapping[str, Any], path: JsonPath, compressor: CompressorEntry) -> Iterator[Finding]:
    """Compare what is to be quantized, and with how many bits, with what the quantizer can."""
    parts, bits = entry.get("quant_types"), entry.get("quant_bits")
    if bits == SENSITIVITY:
        if compressor.name not in OF_LAYERS:
            what = f'"{SENSITIVITY}" is about layers of a trained model, and {compressor.name} is for others'
            bits = min(8, BITS.get(compressor.name, (1, 8))[1])
            fix = f'write "quant_bits": {bits}; or take one of {join_names(OF_LAYERS)}'
            yield Finding((*path, "quant_bits"), what, fix)
        return
    if "quant_bits" in entry and compressor.name in OF_LAYERS:
        yield from _of_layers(bits, (*path, "quant_bits"), compressor)
    if compressor.framework != "torch" or compressor.name not in PARTS or not isinstance(parts, list):
        return
    can, (low, high) = PARTS[compressor.name], BITS[compressor.name]
    for place, part in enumerate(parts):
        if part not in can:
            fix = f"it quantizes {join_names(can)}"
            yield Finding((*path, "quant_types", place), f'{compressor.name} does not quantize "{part}"', fix)
    each = isinstance(bits, dict) and not is_range(bits)
    for key, value in _dict(bits).items() if each else [("", bits)]:
        ends = _dict(value).get("range", [value])
        ends = ends if isinstance(ends, list) else []
        wrong = [end for end in ends if isinstance(end, int) and end > 0 and not low <= end <= high]
        if wrong:
            takes = f"{low} to {high} bits" if low != high else f"{low} bit{'s' * (low != 1)}"
            where = (*path, "quant_bits", *([key] if key else []))
            yield Finding(where, f"{compressor.name} works with {takes}, not {wrong[0]}", f"stay within {takes}")
    for part in parts if each and set(_dict(bits)) <= {"weight", "input", "output"} else ():
        if part in can and part not in _dict(bits):
            what = f'"quant_bits" says nothing of "{part}"'
            yield Finding((*path, "quant_bits"), what, f'add "{part}": {min(8, high)}')


def check_sensitivity(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield where bits are to be chosen by what a search measures that measures nothing."""
    for _, stage in stages_in(data) if data.get("proposer") != "guided" else ():
        entries = stage.get("config_list")
        asked = [_dict(entry).get("quant_bits") for entry in (entries if isinstance(entries, list) else ())]
        if SENSITIVITY in asked and stage.get("compressor") in OF_LAYERS:
            what = f'"quant_bits": "{SENSITIVITY}" is chosen by what guided search measures of each layer'
            yield Finding(("proposer",), what, 'write "proposer": "guided"')


def _of_layers(bits: Any, path: JsonPath, compressor: CompressorEntry) -> Iterator[Finding]:
    """Yield numbers of bits that a layer cannot have where a trained model is quantized."""
    known = join_names([str(one) for one in OF_LAYERS[compressor.name]])
    few = " or ".join(str(one) for one in OF_LAYERS[compressor.name] if one <= 8)
    fix = f'write "quant_bits": {few}, or 32 for a layer that stays float'
    if isinstance(bits, dict) and (not is_range(bits) or bits.get("type") != "choice"):
        yield Finding(path, f"{compressor.name} quantizes a layer as a whole, with one of {known} bits", fix)
        return
    for one in bits["range"] if isinstance(bits, dict) else [bits]:
        if isinstance(one, int) and one not in OF_LAYERS[compressor.name]:
            yield Finding(path, f"{compressor.name} has no {one} bits for a layer, but {known}", fix)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
