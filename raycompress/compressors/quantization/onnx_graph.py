"""Reading and changing an ONNX graph: its constants, its nodes, its size."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from raycompress.extras import load_extra

Array = npt.NDArray[Any]
_FLOAT = 1
_KEPT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "MatMulNBits"})
"""Operators whose nodes keep the name of their layer."""


def onnx() -> Any:
    """Import and return ``onnx``."""
    return load_extra("onnx", "onnx", "quantization")


class Graph:
    """The graph of an ONNX model, to be changed in place.

    Parameters
    ----------
    model
        A ``ModelProto`` with its weights inside.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._graph = model.graph
        self._new: dict[str, list[Any]] = {}
        self._contents: dict[tuple[Any, ...], str] = {}
        self._index()

    @property
    def nodes(self) -> list[Any]:
        """The nodes, in their order."""
        return list(self._graph.node)

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return int(next(one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx")))

    def constant(self, name: str) -> Array | None:
        """Return the float weight that the value `name` is, as numpy array; None where it is computed of an input.

        A weight may be stored transposed, or under another name.
        """
        if name in self._stored:
            tensor = self._stored[name]
            return onnx().numpy_helper.to_array(tensor) if tensor.data_type == _FLOAT else None
        node = self._made.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            value = next((one.t for one in node.attribute if one.name == "value"), None)
            return onnx().numpy_helper.to_array(value) if value is not None and value.data_type == _FLOAT else None
        if node.op_type not in ("Identity", "Transpose"):
            return None
        source = self.constant(node.input[0])
        if source is None or node.op_type == "Identity":
            return source
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        return np.transpose(source, order)

    def origin(self, name: str) -> str:
        """Return the value that the value `name` is, stored transposed or under another name."""
        node = self._made.get(name)
        return self.origin(node.input[0]) if node is not None and node.op_type in ("Identity", "Transpose") else name

    def import_operators(self, domain: str) -> None:
        """Let the file name operators of a further domain."""
        if all(one.domain != domain for one in self.model.opset_import):
            self.model.opset_import.append(onnx().helper.make_opsetid(domain, 1))

    def store(self, name: str, array: Array) -> str:
        """Add a constant, or find one that is equal; returns its name.

        A layer that is called again, as those of ALBERT, has one weight, which exporters write once for each call.
        """
        content = _content(array)
        found = self._contents.get(content)
        if found is None:
            tensor = onnx().numpy_helper.from_array(np.ascontiguousarray(array), name)
            self._graph.initializer.append(tensor)
            self._contents[content] = found = name
        return found

    def find(self, array: Array) -> str | None:
        """Return the name of a constant that `store` added and that is equal, or None."""
        return self._contents.get(_content(array))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """Return a new node with one output, to be given to `replace`."""
        return onnx().helper.make_node(kind, inputs, [output], **attributes)

    def replace(self, node: Any, by: list[Any]) -> None:
        """Note that `by`, whose last node has the outputs of `node`, comes in its place; `finish` does it."""
        self._new[_first_output(node)] = by

    def finish(self) -> None:
        """Put the new nodes in, and drop what nothing reads any more."""
        nodes = [new for node in self._graph.node for new in self._new.get(_first_output(node), [node])]
        wanted = {value.name for value in self._graph.output}
        kept: list[Any] = []
        for node in reversed(nodes):
            if any(name in wanted for name in node.output) or _has_branches(node):
                kept.append(type(node).FromString(node.SerializeToString()))
                wanted.update(node.input)
                wanted.update(_names_inside(node))
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(reversed(kept))
        for place in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[place].name not in wanted:
                del self._graph.initializer[place]
        self._new = {}
        self._index()

    def _index(self) -> None:
        self._stored = {tensor.name: tensor for tensor in self._graph.initializer}
        self._made = {name: node for node in self._graph.node for name in node.output}


def compact(model: Any) -> bytes:
    """Return the file without descriptions and with short names; inputs, outputs and layers keep theirs.

    In a small model the names of the values need more bytes than its weights.
    """
    graph = model.graph
    if any(_has_branches(node) for node in graph.node):
        return bytes(model.SerializeToString())  # branches see the names of what surrounds them
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}

    def short(name: str) -> str:
        found: str = names.setdefault(name, f"v{len(names)}")
        return found

    for node in graph.node:
        node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
        if node.op_type not in _KEPT:
            node.name = ""
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = short(tensor.name), ""
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def _first_output(node: Any) -> str:
    """Return the first output that has a name: what nothing reads of an LSTM has none."""
    return next(filter(None, node.output), "")


def _content(array: Array) -> tuple[Any, ...]:
    return array.shape, str(array.dtype), hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _has_branches(node: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _names_inside(node: Any) -> set[str]:
    """Return the names that the branches of a node read."""
    graphs = [one.g for one in node.attribute if one.HasField("g")] + [g for one in node.attribute for g in one.graphs]
    found: set[str] = set()
    for graph in graphs:
        found.update(value.name for value in graph.output)
        for inner in graph.node:
            found.update(inner.input)
            found |= _names_inside(inner)
    return found
