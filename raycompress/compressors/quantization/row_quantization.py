"""int8 with a scale for each row: of activations as they come, of tables of embeddings, of recurrent weights.

A row is one token of a sequence, or one member of a batch: its range is that of its own values, so that one large value
costs the others nothing, and what a sample gives does not depend on its neighbours in the batch. onnxruntime's own
dynamic quantization takes one range for the whole tensor. (Yao et al., ZeroQuant, NeurIPS 2022: token-wise.)

The arithmetic is exact: uint8 times int8, added up in int32, by the standard operator MatMulInteger.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from raycompress.compressors.quantization.onnx_graph import Array, Graph

_LEVELS = 127
"""Largest whole number of an activation: from -127 to 127, stored as uint8 around `_MIDDLE`."""
_MIDDLE = 128
_TINY = 1e-12
_FLOAT = 1
PRODUCTS = frozenset({"MatMul", "Gemm"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_AXES_ARE_INPUTS = 18
"""Opset from which ReduceMax takes its axes as an input."""


def quantize_products(graph: Graph, names: Collection[str], levels: int, per_channel: bool) -> set[str]:
    """Compute the MatMul and Gemm nodes called `names` in int8; returns the names of those that are.

    Parameters
    ----------
    levels
        Largest whole number of a weight: 127, or 63 where the processor's product saturates.
    per_channel
        A scale for each column of a weight, which is an output channel, not one for all.
    """
    done: set[str] = set()
    rows: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        if node.name not in names or node.op_type not in PRODUCTS or not node.output:
            continue
        weight = weight_of(graph, node)
        if weight is not None:
            whole, scale = _whole(weight, levels, axis=0 if per_channel else None)
            _product(graph, node, whole, scale, rows)
            done.add(node.name)
    graph.finish()
    return done


def quantize_tables(graph: Graph, names: Collection[str], levels: int, per_channel: bool) -> set[str]:
    """Store the tables that the Gather nodes called `names` look up as int8, with a scale for each row.

    A table may have a matrix in each of its places, as those of the weights of experts have.

    Parameters
    ----------
    levels, per_channel
        As `quantize_products` takes them. A table that is also the weight of one of the products called `names`, with a
        scale for each of its outputs, has these levels, so that the product reads the same numbers; others have 127.

    Returns
    -------
    set of str
        The names of those that are; others gather from what the model computes.
    """
    done = set()
    may_share = per_channel and levels != _LEVELS
    products = [node for node in graph.nodes if may_share and node.name in names and node.op_type in PRODUCTS]
    for node in graph.nodes:
        table = graph.constant(node.input[0]) if node.name in names and node.op_type == "Gather" else None
        if table is None or table.ndim not in (2, 3) or any(one.name == "axis" and one.i for one in node.attribute):
            continue
        source, output = node.input[0], node.output[0]
        is_shared = any(
            weight is not None and np.array_equal(weight.T, table)
            for weight in (weight_of(graph, product) for product in products)
        )
        whole, scale = _whole(table, levels if is_shared else _LEVELS, axis=-1)
        rows, scales = graph.store(f"{source}.rows", whole), graph.store(f"{source}.scales", scale)
        graph.replace(
            node,
            [
                graph.node("Gather", [rows, node.input[1]], f"{output}.whole", axis=0),
                graph.node("Cast", [f"{output}.whole"], f"{output}.float", to=_FLOAT),
                graph.node("Gather", [scales, node.input[1]], f"{output}.scale", axis=0),
                graph.node("Mul", [f"{output}.float", f"{output}.scale"], output),
            ],
        )
        done.add(node.name)
    graph.finish()
    return done


def store_recurrent(graph: Graph, names: Collection[str]) -> set[str]:
    """Store both weights of the recurrent nodes called `names` as int8, with a scale for each row of a gate.

    The arithmetic stays float: a step depends on the one before it, so that what rounding its inputs costs adds up.

    Returns
    -------
    set of str
        The names of those that are.
    """
    done = set()
    for node in graph.nodes:
        if node.name not in names or node.op_type not in RECURRENT:
            continue
        changed = type(node).FromString(node.SerializeToString())
        nodes: list[Any] = []
        for place, source in enumerate(node.input[1:3], 1):  # directions by gates by inputs, and by hidden states
            weight = graph.constant(source)
            if weight is not None:
                stored, output = _whole(weight, _LEVELS, axis=-1), f"{node.name}.{place}"
                whole, scales = (graph.store(f"{output}.{index}", array) for index, array in enumerate(stored))
                nodes.append(graph.node("Cast", [whole], f"{output}.float", to=_FLOAT))
                nodes.append(graph.node("Mul", [f"{output}.float", scales], output))
                changed.input[place] = output
        if nodes:
            graph.replace(node, [*nodes, changed])
            done.add(node.name)
    graph.finish()
    return done


def weight_of(graph: Graph, node: Any) -> Array | None:
    """Return the weight of a node, inputs by outputs; None where it has none, or computes something more."""
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 2 or graph.constant(node.input[0]) is not None:
        return None
    if node.op_type == "MatMul":
        return weight
    settings = {one.name: one.f if one.name in ("alpha", "beta") else one.i for one in node.attribute}
    if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
        return None
    return weight.T if settings.get("transB", 0) else weight


def _product(graph: Graph, node: Any, whole: Array, scale: Array, rows: dict[str, tuple[str, str]]) -> None:
    """Replace a product by one of int8; `rows`: value -> what `_rows` made of it."""
    source, output = node.input[0], node.output[0]
    nodes: list[Any] = []
    if source not in rows:
        nodes, *names = _rows(graph, source, output)
        rows[source] = (names[0], names[1])
    whole_rows, peaks = rows[source]
    scales = graph.store(f"{output}.scales", scale.reshape(-1) / np.float32(_LEVELS))
    table = graph.find(whole.T)
    if table is None:
        weight = graph.store(f"{output}.weight", whole)
    else:  # an output layer that shares its weight with the embedding
        weight = f"{output}.table"
        nodes.append(graph.node("Transpose", [table], weight, perm=[1, 0]))
    biased = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
    product = f"{output}.unbiased" if biased else output
    nodes += [
        graph.node("MatMulInteger", [whole_rows, weight, _middle(graph)], f"{output}.sums"),
        graph.node("Cast", [f"{output}.sums"], f"{output}.float", to=_FLOAT),
        # in this order: onnxruntime 1.32 takes sums * (scale * scale) for one with a single scale of activations
        graph.node("Mul", [f"{output}.float", scales], f"{output}.scaled"),
        graph.node("Mul", [f"{output}.scaled", peaks], product),
    ]
    if biased:
        nodes.append(graph.node("Add", [product, node.input[2]], output))
    graph.replace(node, nodes)


def _rows(graph: Graph, source: str, output: str) -> tuple[list[Any], str, str]:
    """Return the nodes that turn the value `source` into uint8, and the names of that and of the peak of each row."""
    whole, peaks = f"{output}.rows", f"{output}.peaks"
    least, step = graph.store("least_peak", np.array(_TINY, np.float32)), np.array(1 / _LEVELS, np.float32)
    reduce = ("ReduceMax", [f"{output}.sizes"], f"{output}.peak")
    if graph.opset < _AXES_ARE_INPUTS:
        reduced = graph.node(*reduce, axes=[-1], keepdims=1)
    else:
        axes = graph.store("last_axis", np.array([-1], np.int64))
        reduced = graph.node(reduce[0], [*reduce[1], axes], reduce[2], keepdims=1)
    return (
        [
            graph.node("Abs", [source], f"{output}.sizes"),
            reduced,
            graph.node("Max", [f"{output}.peak", least], peaks),
            graph.node("Div", [source, peaks], f"{output}.shares"),
            graph.node("QuantizeLinear", [f"{output}.shares", graph.store("step", step), _middle(graph)], whole),
        ],
        whole,
        peaks,
    )


def _middle(graph: Graph) -> str:
    return graph.store("middle", np.array(_MIDDLE, np.uint8))


def _whole(weight: Array, levels: int, axis: int | None) -> tuple[Array, Array]:
    """Return the int8 numbers of a weight, and the scales along `axis`, the axis that one scale is for."""
    scale = np.maximum(np.abs(weight).max(axis=axis, keepdims=True), _TINY) / levels
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)
