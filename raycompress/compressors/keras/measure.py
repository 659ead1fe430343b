"""How large and how fast a Keras model is."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raycompress.compressors.keras.inputs import KerasExample, call, map_arrays
from raycompress.compressors.keras.layers import Array, assign, layers_of, own_variables, variables_of, weights_of
from raycompress.compressors.measure import timing
from raycompress.compressors.measure.timing import Latency, Times
from raycompress.script import node


@dataclass(frozen=True)
class KerasSizes:
    """Sizes of one model.

    Attributes
    ----------
    params
        Number of weights that training changes; zeros count, shared ones once.
    flops
        Multiply-adds of one forward pass for a batch of one, see `flops`.
    size_bytes
        Bytes of all variables as saved.
    """

    params: int
    flops: int
    size_bytes: int

    def to_json(self) -> dict[str, int]:
        """Return plain JSON data."""
        return asdict(self)


def sizes(model: Any, example: KerasExample) -> KerasSizes:
    """Return the sizes of `model`; `example` is one input of it."""
    return KerasSizes(parameters(model), flops(model, example)[""], size_bytes(model))


def parameters(model: Any) -> int:
    """Return the number of weights, without what is not trained by its nature, such as BatchNorm's statistics."""
    statistics_ = {id(variable) for layer in layers_of(model).values() for variable in _statistics(layer)}
    return sum(_size(v) for v in variables_of(model).values() if id(v) not in statistics_)


def size_bytes(model: Any) -> int:
    """Return the bytes of all variables."""
    return sum(variable.numpy().nbytes for variable in variables_of(model).values())


def flops(model: Any, example: KerasExample) -> dict[str, int]:
    """Return multiply-adds of one forward pass, for a batch of one, by layer; the whole model's under the empty name.

    Counted in TensorFlow's graph of the model: matrix products and convolutions, as torch's counter has it. A product
    belongs to the layer whose variable is one of its inputs. The body of a loop counts once: of a recurrent layer, one
    step. Products whose shapes TensorFlow does not know are left out.
    """
    names = {
        id(_handle(variable)): name
        for name, layer in layers_of(model).items()
        for variable in own_variables(layer).values()
    }
    graph = compiled(model, example).graph
    owners = {id(inner): names.get(id(outer), "") for outer, inner in graph.captures}
    counts: Counter[str] = Counter()
    for operation, owner in operations(graph, owners):
        multiply_adds = _multiply_adds(operation)
        counts[""] += multiply_adds
        if owner and multiply_adds:
            counts[owner] += multiply_adds
    return {"": counts[""], **counts}


def table(model: Any, example: KerasExample) -> tuple[int, int, list[dict[str, Any]]]:
    """Return (flops, parameters, one row for each layer with weights of its own)."""
    by_layer = flops(model, example)
    rows = []
    for name, layer in layers_of(model).items():
        own = own_variables(layer)
        if own:
            rows.append(
                {
                    "name": name,
                    "module_type": type(layer).__name__,
                    "weight_shape": weight_shape(layer),
                    "flops": by_layer.get(name, 0),
                    "params": own_parameters(layer),
                }
            )
    return by_layer[""], parameters(model), rows


def own_parameters(layer: Any) -> int:
    """Return the number of the layer's own weights, without statistics."""
    left_out = {id(variable) for variable in _statistics(layer)}
    return sum(_size(v) for v in own_variables(layer).values() if id(v) not in left_out)


def weight_shape(layer: Any) -> tuple[int, ...]:
    """Return the shape of the layer's first kernel, as Keras has it; empty where there is none."""
    kernels = list(weights_of(layer).values())
    return tuple(int(size) for size in kernels[0].shape) if kernels else ()


def latencies(
    model: Any, states: Sequence[Mapping[str, Array]], example: KerasExample, rounds: int = 30, warm_up: int = 5
) -> list[Latency]:
    """Measure `model` with each of several states of its weights in turn, as a compiled function, batch of one.

    CPU time is the whole process's, since TensorFlow computes in threads of its own. See
    `raycompress.compressors.measure.sizes.latencies` for `rounds` and `warm_up`.
    """
    run = compiled(model, example)
    inputs = [_constant(array[:1]) for array in example.arrays]
    times: list[Times] = [[] for _ in states]
    with node.locked(node.MEASURING):
        for number in itertools.chain(range(-warm_up, 0), timing.rounds(times, rounds)):
            for state, measured in zip(states, times, strict=True):
                assign(model, state)
                run(*inputs)  # so that what is measured meets the weights in the cache, whichever state came before
                once = timing.once(lambda: run(*inputs), time.process_time)
                if number >= 0:
                    measured.append(once)
    return [Latency.of(measured) for measured in times]


def compiled(model: Any, example: KerasExample) -> Any:
    """Return the model as a function of its flat inputs ``input_0`` ..., compiled for a batch of one."""
    import tensorflow as tf

    number = iter(range(len(example.arrays)))
    specs = [
        tf.TensorSpec((1, *array.shape[1:]), tf.as_dtype(array.dtype), name=f"input_{index}")
        for index, array in enumerate(example.arrays)
    ]
    structure = map_arrays(example.inputs, lambda _: next(number))

    def run(*flat: Any) -> Any:
        return call(model, map_arrays(structure, lambda index: flat[index]))

    return tf.function(run).get_concrete_function(*specs)


def _constant(array: Array) -> Any:
    import tensorflow as tf

    return tf.constant(array)


def _size(variable: Any) -> int:
    return math.prod(int(size) for size in variable.shape)


def _statistics(layer: Any) -> list[Any]:
    """Return the variables of a layer that no training changes by a gradient; frozen weights are none of them."""
    for name in ("_non_trainable_variables", "_non_trainable_weights"):  # of Keras 3, of tf_keras
        if hasattr(layer, name):
            return list(getattr(layer, name))
    return []


def _handle(variable: Any) -> Any:
    inner: Any = getattr(variable, "value", None)  # Keras 3 wraps TensorFlow's variable
    return inner.handle if hasattr(inner, "handle") else variable.handle


def operations(graph: Any, owners: Mapping[int, str] | None = None) -> Iterator[tuple[Any, str]]:
    """Yield each operation that the outputs of a graph need, those inside functions, branches and loops too.

    Parameters
    ----------
    owners
        id of a tensor that brings a variable into the graph -> the variable's layer.

    Yields
    ------
    The operation, and the layer whose variable is an input of it; an empty name where there is none.
    """
    known = owners or {}
    for operation in _needed(graph):
        yield operation, next(filter(None, (_owner(tensor, known) for tensor in operation.inputs)), "")
        for attribute, skipped in (("f", 0), ("body", 0), ("then_branch", 1)):
            if operation.node_def.attr[attribute].HasField("func"):
                inner = graph._get_function(operation.node_def.attr[attribute].func.name).graph
                given = zip(inner.inputs, list(operation.inputs)[skipped:], strict=False)
                yield from operations(inner, {id(inside): _owner(outside, known) for inside, outside in given})


def _needed(graph: Any) -> list[Any]:
    """Return the operations that the outputs depend on: Keras leaves some in a graph that are never run."""
    found: dict[int, Any] = {}
    waiting = [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if id(operation) not in found:
            found[id(operation)] = operation
            waiting += [tensor.op for tensor in operation.inputs]
            waiting += operation.control_inputs
    return list(found.values())


def _owner(tensor: Any, owners: Mapping[int, str]) -> str:
    """Follow a tensor back through reads, casts and reshapes to the layer whose variable it is."""
    passed = ("ReadVariableOp", "Cast", "Identity", "Reshape", "Transpose", "ExpandDims", "Squeeze")
    while id(tensor) not in owners:
        if tensor.op.type not in passed:
            return ""
        tensor = tensor.op.inputs[0]
    return owners[id(tensor)]


def _multiply_adds(operation: Any) -> int:
    """Return the multiply-adds of an operation; 0 for one that is no product, or of unknown shape."""
    shapes = [tensor.shape for tensor in (*operation.inputs, *operation.outputs)]
    kind = operation.type
    if kind not in _COUNTED or not all(shape.is_fully_defined() for shape in shapes):
        return 0
    inputs = [tuple(tensor.shape) for tensor in operation.inputs]
    outputs = math.prod(operation.outputs[0].shape)
    if kind in ("Conv2D", "Conv3D"):
        return int(outputs * math.prod(inputs[1][:-1]))
    if kind == "DepthwiseConv2dNative":
        return int(outputs * math.prod(inputs[1][:2]))
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):  # a transposed convolution
        return int(math.prod(inputs[2]) * math.prod(inputs[1][:-1]))
    if kind == "Einsum":
        terms = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes_ = {
            label: size
            for term, shape in zip(terms, inputs, strict=True)
            for label, size in zip(term, shape, strict=False)
        }
        return math.prod(sizes_.values()) if len(terms) == 2 else 0
    transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
    return int(outputs * inputs[0][-2 if transposed else -1])


_COUNTED = (
    *("MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative"),
    *("Conv2DBackpropInput", "Conv3DBackpropInputV2"),
)
