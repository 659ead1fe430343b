"""Real int8 models: ONNX files that onnxruntime quantizes after the training.

Weights become int8 and are stored so; of static quantization activations too, by what they were on calibration inputs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.quantization.calibration import singles
from raycompress.compressors.quantization.targets import refuse_types
from raycompress.compressors.saving.onnx_export import export_onnx, feed, layer_nodes
from raycompress.errors import CompressionError, MissingDependencyError
from raycompress.extras import load_extra

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_STATIC = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_DYNAMIC = frozenset({"Gemm", "MatMul", "LSTM"})


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
        The layers that it computes in int8.
    any_batch
        Whether it accepts batches of any size.
    """

    data: bytes
    layers: tuple[str, ...]
    any_batch: bool


@dataclass(frozen=True)
class StaticOptions:
    """How onnxruntime quantizes statically.

    Attributes
    ----------
    per_channel
        A scale for each output channel of a weight, not one for all.
    reduce_range
        Weights in 7 bits, for processors whose int8 multiplication saturates.
    calibration
        How the range of an activation follows from its values: a key of `METHODS`.
    """

    per_channel: bool = True
    reduce_range: bool = True
    calibration: str = "minmax"


def static(
    model: nn.Module, example: Example, samples: list[Example], layers: Collection[str], options: StaticOptions
) -> Int8:
    """Quantize the weights and activations of `layers`.

    Parameters
    ----------
    model
        A float model; it is left as it is.
    example
        One input, for the export.
    samples
        Inputs to calibrate with.

    Raises
    ------
    CompressionError
        The model cannot be written as ONNX, or a layer has nothing in it that becomes int8.
    """
    refuse_types(model, layers, (torch.float32,))
    quantization = load_extra("onnxruntime.quantization", "onnx", "quantization")
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        parity = export_onnx(model, example, source)
        nodes = _nodes(source, model, layers, _STATIC)
        reader = _Reader(samples if parity.any_batch else singles(samples))
        with _quiet("static quantization"):
            quantization.quantize_static(
                str(source),
                str(target),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=sorted(_STATIC),
                nodes_to_quantize=[name for names in nodes.values() for name in names],
                per_channel=options.per_channel,
                reduce_range=options.reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=getattr(quantization.CalibrationMethod, METHODS[options.calibration]),
            )
        return Int8(_compact(target), tuple(nodes), parity.any_batch)


def dynamic(model: nn.Module, example: Example, layers: Collection[str], per_channel: bool, reduce_range: bool) -> Int8:
    """Quantize the weights of `layers`; activations are quantized batch by batch as they come.

    Raises
    ------
    CompressionError
        As in `static`.
    """
    refuse_types(model, layers, (torch.float32,))
    quantization = load_extra("onnxruntime.quantization", "onnx", "quantization")
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        parity = export_onnx(model, example, source)
        nodes = _nodes(source, model, layers, _DYNAMIC)
        with _quiet("dynamic quantization"):
            quantization.quantize_dynamic(
                str(source),
                str(target),
                op_types_to_quantize=sorted(_DYNAMIC),
                # a Gemm is split first, and its product gets this name
                nodes_to_quantize=[n for names in nodes.values() for name in names for n in (name, f"{name}_MatMul")],
                per_channel=per_channel,
                reduce_range=reduce_range,
                weight_type=quantization.QuantType.QInt8,
            )
        return Int8(_compact(target), tuple(nodes), parity.any_batch)


class _Reader:
    """Hands the samples to onnxruntime, which asks for them in turn."""

    def __init__(self, samples: list[Example]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next input, or None after the last."""
        example = next(self._left, None)
        return None if example is None else feed(example)


def _nodes(path: Path, model: nn.Module, layers: Collection[str], kinds: Collection[str]) -> dict[str, list[str]]:
    """Return the nodes to quantize by layer: those with a weight."""
    found = layer_nodes(path, model, kinds)
    missing = [name for name in layers if name not in found]
    if missing:
        raise CompressionError(
            f"nothing of {', '.join(missing)} becomes int8: in the ONNX graph it is no {' or '.join(sorted(kinds))}",
            where="config_list",
            fix=f'leave them out: {{"op_names": ["{missing[0]}"], "exclude": true}}',
        )
    return {name: found[name] for name in layers}


def _compact(path: Path) -> bytes:
    """Return the file without descriptions and with short names; inputs, outputs and layers keep theirs.

    In a small model the names of the values need more bytes than its weights.
    """
    model = load_extra("onnx", "onnx", "quantization").load(str(path))
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return path.read_bytes()  # branches see the names of what surrounds them
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}

    def short(name: str) -> str:
        found: str = names.setdefault(name, f"v{len(names)}")
        return found

    for node in graph.node:
        node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
        if node.op_type not in _STATIC | _DYNAMIC:
            node.name = ""
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = short(tensor.name), ""
    del graph.value_info[:]
    data: bytes = model.SerializeToString()
    return data


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
