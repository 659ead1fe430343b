"""ONNX Runtime."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session
from .int8 import product_saturates, quantize

FILE = "model.onnx"
_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "gpu": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class OnnxRuntime(Runtime):
    """ONNX Runtime, with its CPU and its CUDA provider.

    fp16 turns the weights and the operators into half precision, inputs and outputs staying as they are; int8 is
    static quantization in QDQ form with a scale for each output channel, weights in 7 bits where the converting
    machine's products of 8 bits saturate.
    """

    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    converters: ClassVar[tuple[str, ...]] = ("onnx",)

    def check(self, options: Options) -> None:
        """Refuse a GPU where the installed package has no provider for it; see `Runtime.check`."""
        wanted = _PROVIDERS[options.device][0]
        if wanted not in importlib.import_module("onnxruntime").get_available_providers():
            raise RefusedError(f"this onnxruntime has no {wanted}", '"device": "cpu", or pip install onnxruntime-gpu')

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the file with operators fused, in the precision asked for; see `Runtime.convert`."""
        if options.precision == "int8":
            reduces_range = options.device == "cpu" and product_saturates()
            quantize(source, folder / FILE, samples, reduces_range=reduces_range)
        elif options.precision == "fp16":
            to_half(source, folder / FILE)
        else:
            shutil.copyfile(source, folder / FILE)

    def settings(self, options: Options) -> Any:
        """Return the options of a session."""
        settings = importlib.import_module("onnxruntime").SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # what goes wrong raises an exception
        return settings

    def load(self, folder: Path, options: Options) -> Session:
        """Open a session; see `Runtime.load`."""
        ort = importlib.import_module("onnxruntime")
        settings = self.settings(options)
        return _Session(ort.InferenceSession(str(folder / FILE), settings, providers=_PROVIDERS[options.device]))


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = {value.name for value in session.get_inputs()}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return list(self._session.run(None, self.prepared(inputs)))

    def prepared(self, inputs: Sequence[Array]) -> Any:
        feed = {f"input.{index}": array for index, array in enumerate(inputs)}
        return {name: array for name, array in feed.items() if name in self._names}

    def step(self, prepared: Any) -> None:
        self._session.run(None, prepared)


def to_half(source: Path, path: Path) -> None:
    """Write the ONNX file at `source` in half precision to `path`, inputs and outputs staying as they are."""
    onnx = importlib.import_module("onnx")
    float16 = importlib.import_module("onnxruntime.transformers.float16")
    onnx.save(float16.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), path)
