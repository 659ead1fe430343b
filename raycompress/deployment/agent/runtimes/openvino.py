"""OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session
from .int8 import product_saturates, quantize

FILE = "model.xml"
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


class OpenVino(Runtime):
    """OpenVINO, on its CPU or GPU plug-in.

    The precision is the one that OpenVINO is asked to compute in; fp16 halves the file too. int8 is the QDQ form of
    ONNX Runtime's quantizer, which OpenVINO reads as its own quantization.
    """

    distributions: ClassVar[tuple[str, ...]] = ("openvino",)
    modules: ClassVar[tuple[str, ...]] = ("openvino",)

    def check(self, options: Options) -> None:
        """Refuse a device that OpenVINO does not see; see `Runtime.check`."""
        found = importlib.import_module("openvino").Core().available_devices
        if not any(name.partition(".")[0] == options.device.upper() for name in found):
            raise RefusedError(
                f"OpenVINO sees no {options.device.upper()} here: {', '.join(found) or 'nothing'}",
                '"device": "cpu", or the drivers of an Intel GPU',
            )

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write OpenVINO's intermediate representation, ``model.xml`` and ``model.bin``; see `Runtime.convert`."""
        openvino = importlib.import_module("openvino")
        quantized = folder / "quantized.onnx"
        try:
            if options.precision == "int8":
                reduces_range = options.device == "cpu" and product_saturates()
                quantize(source, quantized, samples, reduces_range=reduces_range)
                source = quantized
            # not convert_model: it sends telemetry out of this machine, by forks that stay behind
            model = openvino.Core().read_model(str(source))
            openvino.save_model(model, str(folder / FILE), compress_to_fp16=options.precision == "fp16")
        finally:
            quantized.unlink(missing_ok=True)

    def load(self, folder: Path, options: Options) -> Session:
        """Compile the model for latency; see `Runtime.load`."""
        openvino = importlib.import_module("openvino")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
        }
        if options.device == "cpu":
            settings.update(NUM_STREAMS=1, INFERENCE_NUM_THREADS=options.threads)
        compiled = openvino.Core().compile_model(str(folder / FILE), options.device.upper(), settings)
        return _Session(compiled)


class _Session(Session):
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._places = {
            place: name
            for place, port in enumerate(compiled.inputs)
            for name in port.get_names()
            if name.startswith("input.")
        }
        self._outputs = list(compiled.outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        found = self._request.infer(self.prepared(inputs))
        return [found[port] for port in self._outputs]

    def prepared(self, inputs: Sequence[Array]) -> Any:
        return {place: inputs[int(name.removeprefix("input."))] for place, name in self._places.items()}

    def step(self, prepared: Any) -> None:
        self._request.infer(prepared)
