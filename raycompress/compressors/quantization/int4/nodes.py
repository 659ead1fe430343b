"""Weights of 4 bits in an ONNX graph; what is computed with them stays float.

Products with a weight become MatMulNBits, look-ups in a table GatherBlockQuantized, operators of onnxruntime that read
packed weights in blocks, see `raycompress.model.stored.block_of`. Other operators have no such kernel: the weights of
convolutions and of recurrent layers are INT4 constants with a scale for each row, which a Cast and a Mul turn into
float. They are no DequantizeLinear, which computes the same: onnxruntime 1.32 folds a Cast when it loads the file, and
the convolution runs as a float one does, but keeps a DequantizeLinear, which would run in every pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.quantization.int4.rounding import LOW, packed, rounded
from raycompress.compressors.quantization.onnx_graph import Array, Graph, onnx
from raycompress.compressors.quantization.row_quantization import PRODUCTS, RECURRENT, weight_of
from raycompress.compressors.saving.onnx_export import runtime, session_options
from raycompress.errors import CompressionError
from raycompress.model.stored import block_of

OPSET = 21
"""The first version of ONNX's operators that know INT4."""
_DOMAIN = "com.microsoft"
_IR_VERSION = 10
"""The first version of ONNX files with tensors of INT4."""
_FLOAT = 1
_EXACT = {"accuracy_level": 1}
"""Activations stay float32: onnxruntime's other levels round them."""


def prepare(graph: Graph, names: Collection[str], feed: Mapping[str, Any]) -> Graph:
    """Return a graph in which `store` can give the nodes called `names` weights of 4 bits.

    It has operators that know INT4, where one of the nodes needs that; and of a weight that another node reads too a
    copy of its own, since that node's quantizer may put something else in its place.

    Parameters
    ----------
    feed
        One input, which the graph must answer alike before and after.

    Raises
    ------
    CompressionError
        The graph cannot be turned into one of the operators that know INT4.
    """
    four = [node for node in graph.nodes if node.name in names]
    if graph.opset < OPSET and any(not _has_kernel(graph, node) for node in four):
        graph = Graph(_converted(graph.model, feed))
    _separate(graph, set(names))
    return graph


def store(graph: Graph, names: Collection[str]) -> set[str]:
    """Give the nodes called `names` weights of 4 bits; returns the names of those that have some."""
    done = set()
    # look-ups first: an output layer may share its weight with the table
    for node in sorted((node for node in graph.nodes if node.name in names), key=lambda node: node.op_type != "Gather"):
        if not _has_kernel(graph, node):
            if not _as_floats(graph, node):
                continue
        elif node.op_type == "Gather":
            _look_up(graph, node)
        else:
            _multiply(graph, node)
        done.add(node.name)
    graph.finish()
    return done


def _has_kernel(graph: Graph, node: Any) -> bool:
    """Tell whether onnxruntime has an operator that computes this with packed weights."""
    if node.op_type in PRODUCTS:
        return weight_of(graph, node) is not None
    if node.op_type != "Gather" or _settings(node).get("axis", 0):
        return False
    table = graph.constant(node.input[0])
    return table is not None and table.ndim in (2, 3)


def _multiply(graph: Graph, node: Any) -> None:
    """Replace a product; the bias of a Gemm is added to it."""
    weight = weight_of(graph, node)
    assert weight is not None
    output = node.output[0]
    numbers, scales = _in_blocks(weight.T)
    whole, nodes = packed(numbers), []
    stored = graph.find(whole.reshape(len(whole), -1))
    if stored is None:
        stored = graph.store(f"{output}.weight", whole)
    else:  # the table of an embedding has the same bytes
        shape = graph.store(f"{output}.shape", np.array(whole.shape, np.int64))
        nodes.append(graph.node("Reshape", [stored, shape], f"{output}.table"))
        stored = f"{output}.table"
    biased = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
    product = f"{output}.unbiased" if biased else output
    inputs = [node.input[0], stored, graph.store(f"{output}.scales", scales)]
    sizes = {"K": weight.shape[0], "N": weight.shape[1], "bits": 4, "block_size": numbers.shape[-1]}
    nodes.append(graph.node("MatMulNBits", inputs, product, domain=_DOMAIN, name=node.name, **_EXACT, **sizes))
    if biased:
        nodes.append(graph.node("Add", [product, node.input[2]], output))
    graph.import_operators(_DOMAIN)
    graph.replace(node, nodes)


def _look_up(graph: Graph, node: Any) -> None:
    """Replace a look-up in a table, whose rows, or the rows of whose matrices, lie in blocks along its last axis."""
    table = graph.constant(node.input[0])
    assert table is not None
    source, width = node.input[0], table.shape[-1]
    numbers, scales = _in_blocks(table)
    numbers = numbers.reshape(*table.shape[:-1], -1)[..., :width]
    settings = {"block_size": block_of(width), "gather_axis": 0, "quantize_axis": table.ndim - 1}
    if width % 2:
        rows = _store_int4(graph, f"{source}.rows", numbers.astype(np.int8) + LOW)
    else:
        rows, settings["bits"] = graph.store(f"{source}.rows", packed(numbers)), 4
    inputs = [rows, node.input[1], graph.store(f"{source}.scales", scales)]
    graph.import_operators(_DOMAIN)
    graph.replace(node, [graph.node("GatherBlockQuantized", inputs, node.output[0], domain=_DOMAIN, **settings)])


def _as_floats(graph: Graph, node: Any) -> bool:
    """Let a node compute with floats that are made of INT4 weights; False where it has no weight of two dimensions."""
    changed = type(node).FromString(node.SerializeToString())
    nodes: list[Any] = []
    for place, axes in _weights(node):
        weight = graph.constant(node.input[place])
        if weight is None or weight.ndim < 2:
            continue
        numbers, scales = _rounded_over(weight, axes(weight.ndim))
        output = f"{node.output[0] or node.name}.{place}"
        whole = _store_int4(graph, f"{output}.whole", numbers)
        nodes.append(graph.node("Cast", [whole], f"{output}.float", to=_FLOAT))
        nodes.append(graph.node("Mul", [f"{output}.float", graph.store(f"{output}.scales", scales)], output))
        changed.input[place] = output
    if nodes:
        graph.replace(node, [*nodes, changed])
    return bool(nodes)


def _weights(node: Any) -> list[tuple[int, Callable[[int], tuple[int, ...]]]]:
    """Return which inputs of a node are weights, and of how many dimensions along which one scale is for all."""
    if node.op_type in RECURRENT:  # directions by gates by inputs, and by hidden states
        return [(1, lambda dims: (dims - 1,)), (2, lambda dims: (dims - 1,))]
    if node.op_type == "Gather":
        return [(0, lambda dims: (dims - 1,))]
    if node.op_type in PRODUCTS:
        back = 1 if _settings(node).get("transB", 0) else 2
        return [(1, lambda dims: (dims - back,))]
    outputs = int(node.op_type == "ConvTranspose")
    return [(1, lambda dims: tuple(dim for dim in range(dims) if dim != outputs))]


def _in_blocks(rows: Array) -> tuple[Array, Array]:
    """Return numbers from 0 to 15 around 8, shape (..., blocks, block), and scales, (..., blocks), of rows."""
    block = block_of(rows.shape[-1])
    count = -(-rows.shape[-1] // block)
    added = [(0, 0)] * (rows.ndim - 1) + [(0, count * block - rows.shape[-1])]
    numbers, scales = rounded(np.pad(rows, added).reshape(*rows.shape[:-1], count, block))
    return (numbers.astype(np.int16) - LOW).astype(np.uint8), scales[..., 0]


def _rounded_over(weight: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return numbers from -8 to 7, and scales that are each for all values along `axes`."""
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    order = (*others, *axes)
    moved = np.transpose(weight, order)
    numbers, scales = rounded(moved.reshape(*(weight.shape[axis] for axis in others), -1))
    back = np.argsort(order)
    ones = [weight.shape[axis] for axis in others] + [1] * len(axes)
    return np.transpose(numbers.reshape(moved.shape), back), np.transpose(scales.reshape(ones), back)


def _store_int4(graph: Graph, name: str, numbers: Array) -> str:
    kind = onnx().helper.tensor_dtype_to_np_dtype(onnx().TensorProto.INT4)
    graph.model.ir_version = max(graph.model.ir_version, _IR_VERSION)
    return graph.store(name, numbers.astype(kind))


def _settings(node: Any) -> dict[str, int]:
    return {one.name: one.i for one in node.attribute}


def _separate(graph: Graph, names: Collection[str]) -> None:
    """Give the nodes called `names` copies of the weights that others read too."""
    elsewhere = {
        graph.origin(name)
        for node in graph.nodes
        if node.name not in names and node.op_type not in ("Identity", "Transpose")
        for name in node.input
    }
    for node in graph.nodes:
        places = [place for place, _ in _weights(node)] if node.name in names else []
        shared = {place: node.input[place] for place in places if graph.origin(node.input[place]) in elsewhere}
        changed = type(node).FromString(node.SerializeToString())
        for place, source in shared.items():
            weight = graph.constant(source)
            if weight is not None:
                changed.input[place] = graph.store(f"{source}.copy", weight)
        if shared:
            graph.replace(node, [changed])
    graph.finish()


def _converted(model: Any, feed: Mapping[str, Any]) -> Any:
    """Return the model with operators that know INT4, and see that it answers `feed` as before."""
    try:
        converter = importlib.import_module("onnx.version_converter")
        converted = converter.convert_version(model, OPSET)
        difference = relative_difference(_answers(model, feed), _answers(converted, feed))
        reason = "" if difference <= TOLERANCE else f"the outputs would differ by {difference:.2g} of their norm"
    except Exception as error:  # noqa: BLE001 - whatever the converter or onnxruntime raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if reason:
        raise CompressionError(
            f"this model cannot be written with the operators of ONNX {OPSET}, the first that know 4 bits: {reason}",
            where="onnx.version_converter",
            fix='write "quant_bits": 8 for convolutions and recurrent layers; linear layers and embeddings may have 4',
        )
    return converted


def _answers(model: Any, feed: Mapping[str, Any]) -> list[Any]:
    session = runtime().InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    known = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: array for name, array in feed.items() if name in known}))
