"""Programs of ``torch.export``, which several converters read: loaded, and brought to another precision."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..frames import Array
from ..runtime import RefusedError


def load_program(path: Path) -> Any:
    """Return the ExportedProgram of a file; nothing in it is unpickled but tensors.

    Raises
    ------
    RefusedError
        It holds objects other than tensors.
    """
    torch = importlib.import_module("torch")
    with zipfile.ZipFile(path) as archive:
        foreign = [n for n in archive.namelist() if n.rpartition("/")[2].startswith(("custom_obj", "opaque_obj"))]
    if foreign:
        raise RefusedError(f"the program holds objects other than tensors: {foreign[0]}", "keep tensors alone in it")
    known = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # torch.export.load unpickles what it cannot read otherwise
    try:
        with path.open("rb") as file:
            return torch.export.load(file)
    finally:
        if known is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = known


def module_of(program: Any) -> Any:
    """Return a program as a module, without checks of its inputs where this torch can leave them out."""
    try:
        return program.module(check_guards=False)
    except TypeError:  # torch before 2.9 makes none
        return program.module()


def tensors_of(arrays: Sequence[Array], device: str = "cpu") -> tuple[Any, ...]:
    """Return arrays as tensors on a device."""
    torch = importlib.import_module("torch")
    return tuple(torch.as_tensor(array).to(device) for array in arrays)


def arrays_of(outputs: Any) -> list[Array]:
    """Return a tensor, or a sequence of them, as arrays."""
    found = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return [tensor.detach().cpu().numpy() for tensor in found]


def in_precision(program: Any, name: str) -> Any:
    """Return a program that computes in ``fp16`` or ``bf16``; its inputs and outputs stay float32.

    Weights are cast, and so are the constants and casts of the graph that name float32 themselves.
    """
    torch = importlib.import_module("torch")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[name]
    module = module_of(program).to(dtype)

    def cast(value: Any) -> Any:
        return dtype if value is torch.float32 else value

    for node in list(module.graph.nodes):
        if "_assert_tensor_metadata" in str(node.target):  # of the precision that it had
            module.graph.erase_node(node)
        elif node.op == "call_function":
            node.args = tuple(map(cast, node.args))
            node.kwargs = {key: cast(value) for key, value in node.kwargs.items()}
    module.recompile()
    with torch.no_grad():
        return torch.export.export(_between_casts(module, dtype), tuple(program.example_inputs[0]))


def _between_casts(module: Any, dtype: Any) -> Any:
    torch = importlib.import_module("torch")

    class Cast(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            found = self.module(*[one.to(dtype) if one.is_floating_point() else one for one in inputs])
            outputs = found if isinstance(found, (tuple, list)) else (found,)
            return tuple(one.float() if one.dtype == dtype else one for one in outputs)

    return Cast()
