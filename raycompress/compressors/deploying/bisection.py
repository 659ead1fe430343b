"""Which layer of a converted model is the first to compute something else: found by bisection over its operations."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, fx, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.deploying.forms import program_of
from raycompress.errors import RaycompressError

Differs = Callable[[nn.Module, Example], bool]
"""Tells whether a model, converted, computes something else than in torch."""


def first_difference(model: nn.Module, example: Example, differs: Differs) -> str:
    """Return the layer, and the operation in it, from which on the converted model differs; empty where none is found.

    The model is cut behind one operation after another, each half of what is left, and every cut model is converted:
    about the logarithm of the number of operations. A value that can no longer be read by itself counts as equal.

    Parameters
    ----------
    differs
        Converts a model and compares.
    """
    try:
        program = program_of(model, example)
        whole = program.module()
    except RaycompressError:
        return ""
    assert isinstance(whole, fx.GraphModule)
    plain = Example(tuple(tensors_in([example.args, example.kwargs])), {})
    nodes = [node for node in whole.graph.nodes if node.op == "call_function" and _is_float(node)]
    low, high = 0, len(nodes) - 1
    if high < 0:
        return ""
    while low < high:
        middle = (low + high) // 2
        try:
            is_behind = differs(_cut(whole, nodes[middle]), plain)
        except RaycompressError:  # this value cannot be an output; what comes behind it may
            is_behind = False
        low, high = (low, middle) if is_behind else (middle + 1, high)
    return _described(nodes[low])


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _cut(whole: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """Return the part of the graph that computes the value of `node`."""
    part = copy.deepcopy(whole)
    graph = part.graph
    ends = {one.name: one for one in graph.nodes}
    (output,) = (one for one in graph.nodes if one.op == "output")
    output.args = ((ends[node.name],),)
    graph.set_codegen(fx.graph.CodeGen())
    for one in reversed(list(graph.nodes)):
        if one.op in ("call_function", "get_attr", "call_module") and not one.users:
            graph.erase_node(one)
    part.recompile()
    return part


def _described(node: fx.Node) -> str:
    """Return ``layer (operation)`` of a node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    layer = path.removeprefix("L['self'].").removeprefix("exported_model").strip(".")
    operation = str(getattr(node.target, "__name__", node.target)).removesuffix(".default")
    return f'"{layer}" ({operation})' if layer else operation
