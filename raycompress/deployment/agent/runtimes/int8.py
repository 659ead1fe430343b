"""Static int8 of ONNX files by onnxruntime, for runtimes that read such files and for what quantizers save."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..frames import Array
from ..runtime import require_samples

_SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": True}
_SATURATES_NOT = ("avx512_vnni", "avx_vnni", "avx_vnni_int8")


def product_saturates() -> bool:
    """Tell whether the product of uint8 and int8 saturates at 16 bits on this processor: on x86 without VNNI.

    Where that cannot be known, it is assumed.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return not any(re.search(rf"\b{flag}\b", flags) for flag in _SATURATES_NOT)


def quantize(
    source: Path,
    path: Path,
    samples: Sequence[Sequence[Array]],
    *,
    reduces_range: bool = False,
    is_symmetric: bool = False,
) -> None:
    """Write the ONNX file at `source` in int8 to `path`, every operator that can be; see `quantize_static`.

    Parameters
    ----------
    samples
        Inputs to find the ranges of activations with, in the order of the file's ``input.0``, ``input.1``.

    Raises
    ------
    RefusedError
        There are none.
    """
    require_samples(samples)
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")
    graph = importlib.import_module("onnx").load(str(source), load_external_data=False).graph
    known = {value.name for value in graph.input}
    feeds = ({name: array for i, array in enumerate(one) if (name := f"input.{i}") in known} for one in samples)
    prepared = path.with_suffix(".prepared.onnx")
    try:
        shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(prepared, path, feeds, reduces_range=reduces_range, is_symmetric=is_symmetric)
    finally:
        prepared.unlink(missing_ok=True)


def quantize_static(
    source: Path,
    path: Path,
    feeds: Iterable[Mapping[str, Any]],
    *,
    reduces_range: bool,
    is_symmetric: bool = False,
    per_channel: bool = True,
    method: str = "MinMax",
    operators: Sequence[str] | None = None,
    nodes: Sequence[str] | None = None,
    float_outputs: Sequence[str] = (),
) -> None:
    """Write the ONNX file at `source` in int8 to `path`: QDQ, weights in int8, activations in uint8.

    Parameters
    ----------
    feeds
        Inputs by name, to find the ranges of activations with.
    reduces_range
        Weights in 7 bits, for processors whose int8 multiplication saturates; see `product_saturates`.
    is_symmetric
        Whether zero is zero in all of it, and biases stay in float, which TensorRT asks for.
    per_channel
        A scale for each output channel of a weight, not one for all.
    method
        How a range follows from values: ``MinMax``, ``Entropy``, ``Percentile``.
    operators, nodes
        The kinds of operators, and the nodes, that are quantized; all that can be by default.
    float_outputs
        The kinds of operators whose outputs stay float.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    extra: dict[str, Any] = dict(_SYMMETRIC) if is_symmetric else {}
    if float_outputs:
        extra["OpTypesToExcludeOutputQuantization"] = list(float_outputs)
    quantization.quantize_static(
        str(source),
        str(path),
        _Reader(feeds),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=operators,
        nodes_to_quantize=nodes,
        per_channel=per_channel,
        reduce_range=reduces_range,
        activation_type=quantization.QuantType.QInt8 if is_symmetric else quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=getattr(quantization.CalibrationMethod, method),
        extra_options=extra,
    )


class _Reader:
    """Hands inputs to onnxruntime, which asks for them in turn."""

    def __init__(self, feeds: Iterable[Mapping[str, Any]]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next input, or None after the last."""
        return next(self._left, None)
