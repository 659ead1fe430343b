"""From a torch model to ONNX, with the proof that onnxruntime computes the same outputs.

The graph is traced by torch's TorchScript exporter: it runs in milliseconds, names each node by the module that made it
and folds BatchNorm into convolutions. What it cannot trace goes to the exporter of ``torch.export``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.calling import without_fast_path
from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.layer_kinds import make_plain
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.saving import free_axes
from raycompress.compressors.saving.traceable_attention import traceable_attention
from raycompress.compressors.structure.decisions import choosing_operators
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError
from raycompress.extras import load_extra

OPSET = 17
_PREFIX = "exported_model"
"""The attribute that `Flat` holds the model in: a name that no model has, as the exporter joins scopes of one name."""
_WHAT = "writing ONNX"
REHEARSED = 32 << 20
"""Bytes of the parameters up to which a model is written for a rehearsal."""


@dataclass(frozen=True)
class Parity:
    """How an ONNX file agrees with the model that it was made from.

    Attributes
    ----------
    relative_difference
        Largest relative difference of the outputs in onnxruntime, on the example and on two random inputs.
    any_batch
        Whether the file accepts batches of any size; otherwise of the example's only.
    free
        The other axes that may have any size: (input, dimension), such as ``("input.0", 1)``.
    """

    relative_difference: float
    any_batch: bool
    free: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class _Attempt:
    """One way to write the file: by which exporter, which returns the outputs, and which axes are free in it."""

    write: Callable[[Flat, Example, Path, dict[free_axes.Place, str]], list[Tensor]]
    any_batch: bool
    axes: free_axes.FreeAxes


class Flat(nn.Module):
    """A model that is called with the tensors of an example alone, and answers a tuple of tensors."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        self.exported_model = model
        self._example = example

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the model as the example does, with these tensors in the place of its own."""
        given = iter(tensors)
        filled = self._example.map(lambda _: next(given))
        return tuple(tensors_in(filled.call(self.exported_model)))


def export_onnx(model: nn.Module, example: Example, path: Path, *, fixed: bool = False) -> Parity:
    """Write `model`, as it computes in eval mode, to `path`; the model itself is left as it is.

    Inputs are called ``input.0`` and so on, in the order of the example's tensors, outputs ``output.0`` and so on.

    Parameters
    ----------
    example
        One input; the file accepts other batch sizes too, and other sizes of other axes, where the model does.
    fixed
        Whether the file shall accept the shapes of the example alone, which runtimes compute faster.

    Raises
    ------
    CompressionError
        No exporter can write the model, or the file computes something else.
    MissingDependencyError
        ONNX or onnxruntime is not installed.
    """
    load_extra("onnx", "onnx", _WHAT)
    runtime()
    flat, example = flattened(model, example)
    failures, chosen = [], ""
    with without_fast_path():
        for attempt in _FIXED if fixed else _attempts(flat.exported_model, example):
            try:
                worst = _written(attempt, flat, example, path)
            except Exception as error:  # noqa: BLE001 - whatever an exporter or onnxruntime raises, the next one is tried
                failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
                continue
            if worst <= TOLERANCE:
                free = tuple((f"input.{index}", dim) for index, dim in attempt.axes.sizes)
                return Parity(worst, attempt.any_batch, free)
            chosen = _chosen(flat, example)
            failures.append(f"the outputs of the file differ by {worst:.2g} of their norm{chosen}")
    path.unlink(missing_ok=True)
    raise CompressionError(
        f"{type(model).__name__} cannot be written as ONNX: {failures[0]}",
        where="torch.onnx.export",
        fix="export the part of the model that comes before them: nearly equal numbers are chosen in another order"
        if chosen
        else "in forward(), keep to operations that ONNX has and to shapes that follow from the input, and draw no "
        "random numbers in eval mode",
    )


def _chosen(flat: Flat, example: Example) -> str:
    """Return by which operators the model sorts and selects, as a part of a sentence; empty where by none."""
    found = choosing_operators(flat, Example(tuple(tensors_in([example.args, example.kwargs])), {}))
    return f", and they are chosen by {', '.join(found)}" if found else ""


def rehearse_onnx(model: nn.Module, example: Example) -> None:
    """Raise what `export_onnx` raises; a model of more bytes than `REHEARSED` is not tried, which would take long."""
    if sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) <= REHEARSED:
        with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
            export_onnx(model, example, Path(folder, "model.onnx"))


def layer_nodes(written: Any, model: nn.Module, kinds: Collection[str]) -> dict[str, list[str]]:
    """Return layer name -> the names of the nodes of these kinds that it made in an ONNX model, in order."""
    names = {name for name, _ in model.named_modules()}
    found: dict[str, list[str]] = {}
    for node in written.graph.node:
        layer = _layer_of(node, names) if node.op_type in kinds else ""
        if layer:
            found.setdefault(layer, []).append(node.name)
    return found


def feed(example: Example) -> dict[str, Any]:
    """Return the numpy arrays that are the inputs of a file written by `export_onnx`, for `example`."""
    tensors = tensors_in([example.args, example.kwargs])
    return {f"input.{index}": tensor.detach().cpu().numpy() for index, tensor in enumerate(tensors)}


def flattened(model: nn.Module, example: Example) -> tuple[Flat, Example]:
    """Return a copy of `model` for exporters, on the CPU, in eval mode and called by tensors alone; and its example."""
    copied = make_plain(clean_copy(model).cpu().eval())  # parametrizations compute by operators that ONNX lacks
    _compute_experts_by_products(copied)
    example = example.to(torch.device("cpu"))
    return Flat(copied, example).eval(), example


def _compute_experts_by_products(model: nn.Module) -> None:
    """Let transformers' mixtures of experts gather the weights of each token's experts, in place.

    By default they sort the tokens by expert and count them, by ``histc`` and grouped products, which ONNX lacks.
    """
    for module in model.modules():
        config: Any = vars(module).get("config")
        if hasattr(module, "has_gate") and getattr(config, "_experts_implementation", None) == "grouped_mm":
            config._experts_implementation = "batched_mm"


def _enlarged(example: Example) -> Example:
    """Return the example and two random ones in one batch: exporters treat a size of one as a constant.

    Samples that differ show whether the file mixes those of a batch.
    """
    batch = _batch(example)
    others = [example.random(1), example.random(2)]
    random = [iter(tensors_in([other.args, other.kwargs])) for other in others]

    def extended(tensor: Tensor) -> Tensor:
        more = [next(tensors) for tensors in random]
        return torch.cat([tensor, *more]) if tensor.dim() and tensor.size(0) == batch else tensor

    return example.map(extended)


def _batch(example: Example) -> int:
    found = tensors_in([example.args, example.kwargs])
    return found[0].size(0) if found and found[0].dim() else -1


def _attempts(model: nn.Module, example: Example) -> list[_Attempt]:
    """Return the ways to write the file, those with the most free axes first."""
    none = free_axes.FreeAxes({}, {})
    if example.is_list:  # of images: the file has an input for each, so that no axis is the batch
        return [_Attempt(_trace, False, none)]
    axes = free_axes.find(model, example)
    plain = [_Attempt(_trace, True, none), _Attempt(_export, True, none), _Attempt(_trace, False, none)]
    if not axes.sizes:
        return plain
    tensors = tensors_in([example.args, example.kwargs])
    are_images = all(tensors[index].dim() > 3 for index, _ in axes.sizes)
    # images are mostly of one size: not worth the seconds that the second exporter needs
    return [_Attempt(_trace, True, axes), *([] if are_images else [_Attempt(_export, True, axes)]), *plain]


def _written(attempt: _Attempt, flat: Flat, example: Example, path: Path) -> float:
    """Write the file, and return how far it is from the model at the sizes that it should take."""
    if not attempt.any_batch:
        known = attempt.write(flat, example, path, {})
        return _difference(flat, path, [example, example.random(1), example.random(2)], known)
    batch = _batch(example)
    tensors = tensors_in([example.args, example.kwargs])
    names = {(i, 0): "batch" for i, tensor in enumerate(tensors) if tensor.dim() and tensor.size(0) == batch}
    larger = _enlarged(example)
    written = attempt.axes.largest(larger)
    known = attempt.write(flat, written, path, {**names, **attempt.axes.names})
    others = attempt.axes.others(larger) if attempt.axes.sizes else []
    odd = [other for other in others[1:] if other.runs(flat.exported_model)]
    return _difference(flat, path, [written, example, *others[:1], *odd], known)


def _trace(flat: Flat, example: Example, path: Path, names: dict[free_axes.Place, str]) -> list[Tensor]:
    tensors = tensors_in([example.args, example.kwargs])
    answers = example.outputs(flat.exported_model)
    axes: dict[str, dict[int, str]] = {}
    for (index, dim), name in names.items():
        axes.setdefault(f"input.{index}", {})[dim] = name
    sizes = {tensors[index].size(dim): name for (index, dim), name in names.items()}
    for index, answer in enumerate(answers):
        # only names: that an axis of an output has the size of a free one says that it may be free as well
        free = {dim: f"output_{sizes[size]}" for dim, size in enumerate(answer.shape) if size in sizes}
        if free:
            axes[f"output.{index}"] = free
    with _quiet(), evaluating(flat), traceable_attention(flat):
        torch.onnx.export(
            flat,
            tuple(tensors),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[f"input.{index}" for index in range(len(tensors))],
            output_names=[f"output.{index}" for index in range(len(answers))],
            dynamic_axes=axes or None,
        )
    return answers


def _export(flat: Flat, example: Example, path: Path, names: dict[free_axes.Place, str]) -> list[Tensor]:
    load_extra("onnxscript", "onnx", _WHAT)
    tensors = tensors_in([example.args, example.kwargs])
    answers = example.outputs(flat.exported_model)
    shapes = tuple({d: names[i, d] for d in range(t.dim()) if (i, d) in names} or None for i, t in enumerate(tensors))
    with _quiet(), evaluating(flat):
        torch.onnx.export(
            flat,
            tuple(tensors),
            str(path),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=[f"input.{index}" for index in range(len(tensors))],
            output_names=[f"output.{index}" for index in range(len(answers))],
            dynamic_shapes=(shapes,),
        )
    return answers


_FIXED = [_Attempt(write, False, free_axes.FreeAxes({}, {})) for write in (_trace, _export)]


def _difference(flat: Flat, path: Path, examples: list[Example], outputs: list[Tensor]) -> float:
    """Return the largest relative difference between torch, whose outputs on the first are known, and onnxruntime."""
    session = runtime().InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    worst = 0.0
    for number, example in enumerate(examples):
        expected = example.outputs(flat.exported_model) if number else outputs
        got = session.run(None, {name: array for name, array in feed(example).items() if name in known})
        difference = relative_difference(expected, [torch.as_tensor(array) for array in got])
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def runtime() -> Any:
    """Import and return ``onnxruntime``."""
    return load_extra("onnxruntime", "onnx", "running ONNX")


def session_options(threads: int = 1) -> Any:
    """Return options for a session of onnxruntime that computes on so many threads and prints nothing."""
    options = runtime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # an input that does not fit raises an exception
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters print off the streams."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _layer_of(node: Any, names: set[str]) -> str:
    """Return the layer that made an ONNX node, or an empty string: by its name, or by what torch.export wrote to it."""
    noted = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), None)
    if noted is not None:
        scopes = [scope for scope in re.findall(r"'([^']*)'", noted) if scope.removeprefix(f"{_PREFIX}.") in names]
        return scopes[-1].removeprefix(f"{_PREFIX}.") if scopes else ""
    parts = node.name.strip("/").split("/")[:-1]
    if not parts or parts[0] != _PREFIX:
        return ""
    layer = ""
    for part in parts[1:]:
        # a Sequential repeats its own name before those of its layers
        layer = _inner(layer, part.removeprefix(f"{_PREFIX}."), names)
        if not layer:
            return ""
    return layer


def _inner(outer: str, scope: str, names: set[str]) -> str:
    """Return the module that the exporter calls `scope` inside the module `outer`.

    A scope may repeat the end of the outer name (``features/features.0``), and a second call of a module gets a number
    (``conv_1``).
    """
    for name in (scope, re.sub(r"_\d+$", "", scope)):
        parts, before = name.split("."), outer.split(".") if outer else []
        for overlap in range(len(parts) - 1, -1, -1):
            if before[len(before) - overlap :] == parts[:overlap] or not overlap:
                candidate = ".".join([*before, *parts[overlap:]])
                if candidate in names:
                    return candidate
        # forward() may call a module of a module, as self.model.decoder(...): the scope between is left out then
        below = [one for one in names if one.endswith(f".{name}") and one.startswith(f"{outer}." if outer else "")]
        if len(below) == 1:
            return below[0]
    return ""
