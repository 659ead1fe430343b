"""Real int8 models: ONNX files that onnxruntime quantizes after the training.

Weights become int8 and are stored so; of static quantization activations too, by what they were on calibration inputs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.quantization.calibration import pieces
from raycompress.compressors.quantization.int4.nodes import prepare
from raycompress.compressors.quantization.int4.nodes import store as store_four_bits
from raycompress.compressors.quantization.onnx_graph import Graph, compact, onnx
from raycompress.compressors.quantization.row_quantization import (
    PRODUCTS,
    RECURRENT,
    quantize_products,
    quantize_tables,
    store_recurrent,
)
from raycompress.compressors.quantization.sensitivity import sensitive
from raycompress.compressors.quantization.targets import refuse_types, with_plain_weights
from raycompress.compressors.saving.onnx_export import export_onnx, feed, layer_nodes
from raycompress.deployment.agent.runtimes.int8 import quantize_static
from raycompress.errors import CompressionError, MissingDependencyError
from raycompress.extras import load_extra

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_STATIC = frozenset({"Conv", "ConvTranspose"}) | PRODUCTS
_TABLES = frozenset({"Gather"})
_FULL, _REDUCED = 127, 63
"""Largest whole number of a weight of 8 bits, and of 7."""


def load_library() -> None:
    """Import onnx, where it is installed."""
    with contextlib.suppress(MissingDependencyError):
        load_extra("onnx", "onnx", "quantization")


@dataclass(frozen=True)
class Int8:
    """An int8 model.

    Attributes
    ----------
    data
        The ONNX file.
    layers
        The layers that it computes in int8, or stores as such.
    any_batch
        Whether it accepts batches of any size.
    free
        As in `raycompress.compressors.saving.onnx_export.Parity`.
    notes
        Which layers are left as they are, or computed otherwise, and why.
    options
        How it was made.
    known
        What the float model answers to the first of the calibration inputs, where it was asked already.
    """

    data: bytes
    layers: tuple[str, ...]
    any_batch: bool
    free: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    options: Options = field(default_factory=lambda: Options())
    known: Sequence[list[Tensor]] = ()


@dataclass(frozen=True)
class Options:
    """How weights and activations become int8.

    Attributes
    ----------
    per_channel
        A scale for each output channel of a weight, not one for all.
    reduce_range
        Weights in 7 bits, for processors whose int8 multiplication saturates.
    calibration
        How the range of an activation follows from its values: a key of `METHODS`. Of static quantization.
    spare
        Whether layers that suffer from one range for all of their inputs are spared it. Of static quantization.
    """

    per_channel: bool = True
    reduce_range: bool = True
    calibration: str = "minmax"
    spare: bool = False

    @property
    def levels(self) -> int:
        """Largest whole number of a weight."""
        return _REDUCED if self.reduce_range else _FULL


def static(
    model: nn.Module, example: Example, samples: list[Example], layers: Mapping[str, int], options: Options
) -> Int8:
    """Quantize the weights and activations of `layers`, and the tables of those that are embeddings.

    The weights of recurrent layers are stored as int8, and computed with as floats; those of 4 bits of every layer are,
    see `raycompress.compressors.quantization.int4.nodes`.

    Parameters
    ----------
    model
        A float model; it is left as it is.
    example
        One input, for the export.
    samples
        Inputs to calibrate with.
    layers
        Layer -> its bits, 8 or 4.

    Raises
    ------
    CompressionError
        The model cannot be written as ONNX, or of no layer anything becomes int8.
    """
    model = with_plain_weights(model)
    refuse_types(model, layers, (torch.float32,))
    load_extra("onnxruntime.quantization", "onnx", "quantization")
    eight = [name for name, bits in layers.items() if bits > 4]
    spared, known = sensitive(model, samples, eight, options.levels) if options.spare and eight else ({}, [])
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        source = Path(folder) / "float.onnx"
        parity = export_onnx(model, example, source)
        graph = Graph(onnx().load(str(source)))
        nodes, missing = _nodes(graph, model, layers, _STATIC | _TABLES | RECURRENT) if layers else ({}, {})
        four = {name for layer, names in nodes.items() if layers[layer] <= 4 for name in names}
        graph = prepare(graph, four, feed(example))
        kinds = {node.name: node.op_type for node in graph.nodes}
        whole = [name for layer, names in nodes.items() if layer not in spared for name in names]
        whole = [name for name in whole if kinds[name] in _STATIC and name not in four]
        if whole:
            if four:
                onnx().save(graph.model, str(source))
            del graph  # as large as the model, while the library loads it again
            fitting = samples if parity.any_batch else pieces(samples, example.batch) or [example]
            graph = _calibrated(source, fitting, whole, options)
        quartered = store_four_bits(graph, four)
        tables = quantize_tables(graph, _of(nodes, eight), options.levels, options.per_channel)
        stored = store_recurrent(graph, _of(nodes, eight))
        by_rows = quantize_products(graph, _of(nodes, spared), options.levels, options.per_channel)
        done = {*whole, *by_rows, *tables, *stored, *quartered}
        found = tuple(layer for layer, names in nodes.items() if done.intersection(names))
        notes = (*_spared(spared, found), *_stored(nodes, stored), *_in_four_bits(nodes, quartered), *_left(missing))
        return Int8(compact(graph.model), found, parity.any_batch, parity.free, notes, options, known)


def _calibrated(source: Path, samples: Collection[Example], nodes: list[str], options: Options) -> Graph:
    """Return the graph of the file at `source` with the nodes called `nodes` in int8."""
    target = source.with_suffix(".int8")
    with _quiet("static quantization"):
        quantize_static(
            source,
            target,
            map(feed, samples),
            reduces_range=options.reduce_range,
            per_channel=options.per_channel,
            method=METHODS[options.calibration],
            operators=sorted(_STATIC),
            nodes=nodes,
            # what follows a product (a bias, a norm) is float: rounding its sums would only lose
            float_outputs=sorted(PRODUCTS),
        )
    return Graph(onnx().load(str(target)))


def dynamic(model: nn.Module, example: Example, layers: Mapping[str, int], options: Options) -> Int8:
    """Quantize the weights of `layers`; activations are quantized row by row as they come, see `row_quantization`.

    Of embeddings the table is quantized. LSTMs are left to onnxruntime, which takes one range for a tensor; of other
    recurrent layers the weights are stored as int8, as it has no int8 arithmetic for them. With weights of 4 bits all
    is computed in float.

    Raises
    ------
    CompressionError
        As in `static`.
    """
    model = with_plain_weights(model)
    refuse_types(model, layers, (torch.float32,))
    eight = [name for name, bits in layers.items() if bits > 4]
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        source = Path(folder) / "float.onnx"
        parity = export_onnx(model, example, source)
        graph = Graph(onnx().load(str(source)))
        nodes, missing = _nodes(graph, model, layers, PRODUCTS | _TABLES | RECURRENT) if layers else ({}, {})
        four = {name for layer, names in nodes.items() if layers[layer] <= 4 for name in names}
        graph = prepare(graph, four, feed(example))
        quartered = store_four_bits(graph, four)
        names = _of(nodes, eight)
        recurrent = [node.name for node in graph.nodes if node.op_type == "LSTM" and node.name in set(names)]
        recurrent = _quantize_recurrent(graph, source, recurrent, options) if recurrent else []
        quantize_tables(graph, names, options.levels, options.per_channel)
        stored = store_recurrent(graph, set(names).difference(recurrent))
        quantize_products(graph, names, options.levels, options.per_channel)
        notes = (*_stored(nodes, stored), *_in_four_bits(nodes, quartered), *_left(missing))
        return Int8(compact(graph.model), tuple(nodes), parity.any_batch, parity.free, notes, options)


def _quantize_recurrent(graph: Graph, source: Path, names: list[str], options: Options) -> list[str]:
    """Put onnxruntime's int8 LSTMs in the place of those called `names`; returns the names of those that it has made.

    Of the file that it makes of the one at `source` nothing else is used: it writes products anew, under other names.
    """
    quantization, target = load_extra("onnxruntime.quantization", "onnx", "quantization"), source.with_suffix(".int8")
    with _quiet("dynamic quantization"):
        quantization.quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["LSTM"],
            nodes_to_quantize=names,
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            weight_type=quantization.QuantType.QInt8,
        )
    made = onnx().load(str(target)).graph
    constants = {tensor.name: tensor for tensor in made.initializer}
    integer = {tuple(node.output): node for node in made.node if node.op_type == "DynamicQuantizeLSTM"}
    done = []
    for node in graph.nodes:
        found = integer.get(tuple(node.output)) if node.name in names else None
        if found is None:
            continue
        for place, name in enumerate(found.input):
            if name in constants:
                array = onnx().numpy_helper.to_array(constants[name])
                found.input[place] = graph.store(f"{node.name}.{place}", array)
        graph.import_operators(found.domain)
        graph.replace(node, [found])
        done.append(node.name)
    graph.finish()
    return done


def _of(nodes: Mapping[str, list[str]], layers: Collection[str] | None = None) -> list[str]:
    return [name for layer, names in nodes.items() if layers is None or layer in layers for name in names]


def _spared(spared: Mapping[str, float], found: Collection[str]) -> tuple[str, ...]:
    """Return notes on the layers that one range for all inputs would have changed too much."""
    errors = {name: f"{name} ({error:.1%})" for name, error in spared.items()}
    rows = [text for name, text in errors.items() if name in found]
    left = [text for name, text in errors.items() if name not in found]
    why = "where calibration shows what one range for all inputs would cost their outputs"
    notes = [f"int8 with a range for each row, {why}: {', '.join(rows)}"] if rows else []
    return (*notes, *([f"left float, {why}: {', '.join(left)}"] if left else []))


def _stored(nodes: Mapping[str, list[str]], stored: Collection[str]) -> tuple[str, ...]:
    """Return notes on the recurrent layers whose weights alone are int8."""
    names = [layer for layer, own in nodes.items() if not set(stored).isdisjoint(own)]
    return (f"weights stored as int8, computed in float: {', '.join(names)}",) if names else ()


def _in_four_bits(nodes: Mapping[str, list[str]], quartered: Collection[str]) -> tuple[str, ...]:
    """Return notes on the layers whose weights have 4 bits."""
    names = [layer for layer, own in nodes.items() if not set(quartered).isdisjoint(own)]
    return (f"weights of 4 bits, computed in float: {', '.join(names)}",) if names else ()


def _left(missing: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Return notes on the layers of which nothing becomes int8; `missing`: layer -> its operators."""
    return tuple(f"{name} stays float: {_as_operators(kinds)}" for name, kinds in missing.items())


def _as_operators(kinds: Collection[str]) -> str:
    if not kinds:
        return "in the ONNX graph there is nothing of it, as the model does not call it or its output is a constant"
    return f"in the ONNX graph it is {', '.join(sorted(kinds))}, without a weight of two dimensions"


def _nodes(
    graph: Graph, model: nn.Module, layers: Collection[str], kinds: Collection[str]
) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """Return the nodes to quantize by layer, those with a weight; and the operators of the layers that have none.

    A layer that shares its weight with one that has such nodes is not among these.
    """
    weighted = {node.name: node.op_type for node in graph.nodes if _has_weight(graph, node, kinds)}
    every = layer_nodes(graph.model, model, {node.op_type for node in graph.nodes})
    found = {layer: [name for name in every.get(layer, ()) if name in weighted] for layer in layers}
    operators = {node.name: node.op_type for node in graph.nodes}
    missing = {layer: {operators[n] for n in every.get(layer, ())} for layer, names in found.items() if not names}
    if len(missing) == len(found):
        name = next(iter(missing))
        raise CompressionError(
            f"nothing of {', '.join(missing)} becomes int8: {_as_operators(missing[name])}",
            where="config_list",
            fix="name other layers in config_list, or take another compressor: int8_weight_only",
        )
    shared = {id(weight) for layer, names in found.items() if names for weight in _weights(model, layer)}
    told = {
        layer: kinds for layer, kinds in missing.items() if not shared.intersection(map(id, _weights(model, layer)))
    }
    return {layer: names for layer, names in found.items() if names}, told


def _weights(model: nn.Module, layer: str) -> list[nn.Parameter]:
    return list(model.get_submodule(layer).parameters(recurse=False))


def _has_weight(graph: Graph, node: Any, kinds: Collection[str]) -> bool:
    if node.op_type not in kinds:
        return False
    return graph.constant(node.input[0 if node.op_type in _TABLES else 1]) is not None


@contextlib.contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Discard what onnxruntime prints, and raise CompressionError for its exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f"onnxruntime's {what} failed on this model: {reason}",
            where="onnxruntime.quantization",
            fix="leave out layers in config_list, or see that the calibration data has the form of the model's input",
        ) from error
    finally:
        logging.disable(disabled)
