"""The forms that the converters of inference runtimes read: an ONNX file, or a program of torch.export."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.calling import without_fast_path
from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.catalog.runtimes import Form
from raycompress.compressors.saving.onnx_export import export_onnx, flattened
from raycompress.deployment.agent.frames import Array
from raycompress.errors import DeploymentError


def source_of(model: nn.Module, example: Example, form: Form) -> bytes:
    """Return `model`, as it computes in eval mode, in a form that a converter reads.

    Its inputs are the tensors of `example` in their order, its outputs the tensors of the model's answer.

    Raises
    ------
    CompressionError
        It cannot be written as ONNX.
    DeploymentError
        ``torch.export`` cannot follow it.
    """
    return _onnx(model, example) if form == "onnx" else _program(model, example)


def arrays_of(example: Example) -> list[Array]:
    """Return the tensors of an example as numpy arrays, in their order."""
    return [array_of(tensor) for tensor in tensors_in([example.args, example.kwargs])]


def array_of(tensor: Tensor) -> Array:
    """Return a tensor as a numpy array, one of bfloat16 as float32, which numpy knows."""
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()


def samples_of(calibration: Any, example: Example, most: int = 32) -> list[list[Array]]:
    """Return up to so many inputs, each as `example` is, to calibrate int8 with; of no calibration the example itself.

    Parameters
    ----------
    calibration
        Examples: of each as many samples are used as `example` has.
    """
    found: list[list[Array]] = []
    for one in calibration or ():
        for piece in one.pieces(example.batch):
            if piece.shapes == example.shapes:
                found.append(arrays_of(piece))
            if len(found) == most:
                return found
    return found or [arrays_of(example)]


def of_batch(example: Example, batch: int) -> Example:
    """Return the example with so many samples, its own repeated."""
    if example.batch == batch:
        return example
    if example.batch > batch:
        return example.part(0, batch)
    times = -(-batch // example.batch)
    own = example.batch

    def longer(tensor: Tensor) -> Tensor:
        if not tensor.dim() or tensor.size(0) != own:
            return tensor
        return tensor.repeat(times, *[1] * (tensor.dim() - 1))[:batch]

    return example.map(longer)


def _onnx(model: nn.Module, example: Example) -> bytes:
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, example, path, fixed=True)
        return path.read_bytes()


def _program(model: nn.Module, example: Example) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program_of(model, example), buffer)
    return buffer.getvalue()


def program_of(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """Return the model as a program of ``torch.export``, with the shapes of the example.

    Raises
    ------
    DeploymentError
        ``torch.export`` cannot follow it.
    """
    called, example = flattened(model, example)
    tensors: Sequence[Tensor] = tensors_in([example.args, example.kwargs])
    try:
        with without_fast_path(), evaluating(called), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(called, tuple(tensors))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise DeploymentError(
            f"torch.export cannot follow {type(model).__name__}: {type(error).__name__}: {reason}",
            where="forward()",
            fix="in forward(), branch on no value of a tensor; onnxruntime and openvino read a traced model",
        ) from error
