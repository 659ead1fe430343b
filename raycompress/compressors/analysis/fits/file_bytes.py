"""Quantizes networks of one architecture, at random widths and bits, to learn what their files take.

A `raycompress.model.file_bytes.FileBytes` is fitted to them. Nothing is trained, and weights are what they are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from raycompress.bundle.example import Example
from raycompress.catalog.quantizers import STAYS_FLOAT
from raycompress.compressors.analysis.fits.latency_model import Networks
from raycompress.compressors.create import Setup, made_of, setup_of
from raycompress.compressors.depth.dropped_block import drop_blocks
from raycompress.compressors.depth.finding import residual_blocks
from raycompress.compressors.layer_kinds import output_dim
from raycompress.compressors.quantization.quantizer import Quantizer
from raycompress.compressors.quantization.targets import select, with_plain_weights
from raycompress.config.schema.ranges import is_range
from raycompress.errors import CompressionError, RaycompressError
from raycompress.model.costs import CostModel
from raycompress.model.file_bytes import FileBytes, Stored, StoredLayer, fitted

FEWEST, MOST = 12, 40
"""Files that are made at least, whatever that takes, and at most."""
_GOES = 0.25
"""How often a residual block is left out of a network."""
_BITS = "quant_bits"
_WORST = 0.05
"""The median error from which on nothing is predicted."""

Stage = Mapping[str, Any]
"""``compressor``, ``config_list`` and ``arguments`` of a stage; ``quant_bits`` may be a range."""


def file_bytes(
    model: nn.Module,
    example: Example,
    costs: CostModel,
    stage: Stage,
    *,
    budget_s: float = 20.0,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> FileBytes:
    """Quantize narrow copies of `model`, and fit the sizes of their files; the seeds are fixed.

    Layers that calibration shows to be sensitive, and that are left float then, count as quantized: what a trained
    network will be like is not known.

    Parameters
    ----------
    model
        The dense model; it is left as it is.
    example
        One input of it, with which the files are calibrated.
    costs
        Its cost model.
    stage
        The last stage, which quantizes what is trained.
    budget_s
        Approximate limit of seconds; a dozen files are made in any case.

    Raises
    ------
    CompressionError
        Most narrow copies cannot be quantized, or their sizes go along with nothing that is known beforehand.
    """
    files, end = [], time.monotonic() + budget_s
    layers = stored_layers(model, costs, stage)
    for one in stored_files(Networks(model, example, costs), stage, layers, MOST):
        files.append(one)
        progress(len(files), MOST, "files at random widths and bits")
        if len(files) >= FEWEST and time.monotonic() > end:
            break
    progress(0, 0, "")
    found = fitted(stage["compressor"], layers, files)
    if not found.error <= _WORST:
        raise CompressionError(f"the bytes of its files are off by {found.error:.0%} from what is predicted")
    return found


def stored_files(
    networks: Networks, stage: Stage, layers: Sequence[StoredLayer], count: int, seed: int = 0
) -> Iterator[tuple[Stored, float]]:
    """Yield so many networks at random widths and bits, and without some residual blocks, and the bytes of their files.

    Raises
    ------
    CompressionError
        More than `FEWEST` cannot be quantized.
    """
    model, example, costs = networks.model, networks.example, networks.costs
    returns = {block.name: block.returns for block in (residual_blocks(model, example) if costs.blocks else ())}
    draw, failed = random.Random(seed), 0
    for number, removed in enumerate(networks.draws(count, seed)):
        dropped = tuple(block.name for block in costs.blocks if draw.random() < _GOES)
        bits = {layer.name: draw.choice(layer.bits) if number else layer.bits[0] for layer in layers}
        small = networks.narrow(removed)
        drop_blocks(small, {name: returns[name] for name in dropped})
        try:
            size = _quantized(small, stage, bits, example)
        except RaycompressError:
            failed += 1
            if failed > FEWEST:
                raise
        else:
            float_bytes = costs.sizes(removed, dropped)["size_bytes"]
            yield Stored(float_bytes, networks.widths(removed), bits, dropped), size


def stored_layers(model: nn.Module, costs: CostModel, stage: Stage) -> list[StoredLayer]:
    """Return the layers that a stage quantizes, with the bits that each may have."""
    model = with_plain_weights(model)  # as the quantizer makes them
    setup = _setup(model, stage, [{**entry, _BITS: 8} for entry in _entries(stage)])
    asked = [entry.get(_BITS, 8) for entry in _entries(stage)] or [8] * len(setup.config_list)
    widths = {layer.name: layer.at([0] * len(costs.groups)) for layer in costs.widths}
    found = []
    for name, target in select(model, setup.config_list, setup.entry).items():
        layer = model.get_submodule(name)
        weights = [one for one in layer.parameters(recurse=False) if one.dim() > 1]
        bits = asked[target.entry]
        choices = tuple(sorted(bits["range"])) if is_range(bits) else (int(bits),)
        dim = min(output_dim(layer), 1)
        if weights:
            width = widths.get(name) or (int(weights[0].shape[1 - dim]), int(weights[0].shape[dim]))
            number = sum(one.numel() for one in weights)
            in_groups = getattr(layer, "groups", 1) > 1
            found.append(StoredLayer(name, type(layer).__name__, width, number, choices, in_groups))
    return found


def _entries(stage: Stage) -> Sequence[Mapping[str, Any]]:
    return [{key: one for key, one in entry.items() if key != "expand_op_names"} for entry in stage["config_list"]]


def _setup(model: nn.Module, stage: Stage, config_list: Sequence[Mapping[str, Any]]) -> Setup:
    config = {"compressor": stage["compressor"], "config_list": config_list, "arguments": stage["arguments"]}
    setup = setup_of(model, config, {}, None, is_first=False)
    spares = {"spare_sensitive": False} if setup.entry.argument("spare_sensitive") is not None else {}
    return replace(setup, arguments={**setup.arguments, **spares})


def _quantized(model: nn.Module, stage: Stage, bits: Mapping[str, int], example: Example) -> float:
    """Return the bytes of a model that is quantized to so many bits."""
    inside = {name for name, _ in model.named_modules()}
    named = [{"op_names": [name], _BITS: own} for name, own in bits.items() if name in inside]
    setup = _setup(model, stage, named or [STAYS_FLOAT])
    quantizer = cast("Quantizer", made_of(replace(setup, is_stage=True, samples=[example])))
    quantizer.compress()
    return float(quantizer.file_bytes(example))
