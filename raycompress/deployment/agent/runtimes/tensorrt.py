"""TensorRT. Written to its documentation of version 10 and 11; no GPU has run it yet."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session
from .int8 import quantize
from .onnxruntime import to_half
from .programs import arrays_of, tensors_of

FILE = "model.engine"


class TensorRt(Runtime):
    """TensorRT on a CUDA GPU, whose memory torch holds.

    The network is strongly typed, the one kind that TensorRT 11 has: its precision is that of the ONNX file, which
    ONNX Runtime's tools bring to half precision, or to int8 in QDQ form as TensorRT wants it: symmetric, weights by
    output channel, biases left in float. fp32 is computed without TF32. An engine runs on the kind of GPU, and in the
    version of TensorRT, that it was built with.
    """

    distributions: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    modules: ClassVar[tuple[str, ...]] = ("tensorrt", "torch")
    converters: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def check(self, options: Options) -> None:
        """Refuse where torch sees no GPU; see `Runtime.check`."""
        if not importlib.import_module("torch").cuda.is_available():
            raise RefusedError("TensorRT needs a CUDA GPU, and torch sees none", "a machine and a torch with CUDA")

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Build an engine for this GPU; see `Runtime.convert`."""
        typed = folder / "typed.onnx"
        try:
            typed_onnx(source, typed, options.precision, samples)
            (folder / FILE).write_bytes(_built(typed, options.precision))
        finally:
            typed.unlink(missing_ok=True)

    def load(self, folder: Path, options: Options) -> Session:
        """Make an execution context; see `Runtime.load`."""
        trt = importlib.import_module("tensorrt")
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine((folder / FILE).read_bytes())
        if engine is None:
            raise RefusedError(
                "this TensorRT cannot read the engine: it was built by another version or for another GPU",
                "convert the model on this machine",
            )
        return _Session(trt, engine)


def typed_onnx(source: Path, path: Path, precision: str, samples: Sequence[Sequence[Array]]) -> None:
    """Write the ONNX file at `source` to `path`, in the precision that the engine shall compute in."""
    if precision == "int8":
        quantize(source, path, samples, is_symmetric=True)
    elif precision == "fp16":
        to_half(source, path)
    else:
        shutil.copyfile(source, path)


def _built(path: Path, precision: str) -> Any:
    """Return the serialized engine of an ONNX file."""
    trt = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise RefusedError(
            f"TensorRT's parser does not take the ONNX file: {parser.get_error(0).desc()}",
            "another runtime or precision, or leave out the layers that it does not know",
        )
    config = builder.create_builder_config()
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RefusedError("TensorRT builds no engine of it; the log of the agent has the reason", "another precision")
    return engine


class _Session(Session):
    """Inputs and outputs lie in tensors of torch on the GPU, whose addresses the context is given."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self._torch = importlib.import_module("torch")
        self._engine = engine
        self._context = engine.create_execution_context()
        self._stream = self._torch.cuda.Stream()
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = {}
        for name in names:
            if name not in self._inputs:
                dtype = getattr(self._torch, trt.nptype(engine.get_tensor_dtype(name)).__name__)
                shape = tuple(engine.get_tensor_shape(name))
                self._outputs[name] = self._torch.empty(shape, dtype=dtype, device="cuda")
                self._context.set_tensor_address(name, self._outputs[name].data_ptr())
        self._dtypes = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in self._inputs}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.step(self.prepared(inputs))
        return arrays_of(tuple(self._outputs.values()))

    def prepared(self, inputs: Sequence[Array]) -> Any:
        found = {}
        for name in self._inputs:  # "input.0", as the exporter names them; what a model leaves unused is not there
            array = inputs[int(name.removeprefix("input."))].astype(self._dtypes[name], copy=False)
            (found[name],) = tensors_of([array], "cuda")
        self._torch.cuda.synchronize()
        return found

    def step(self, prepared: Any) -> None:
        for name, tensor in prepared.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RefusedError("TensorRT did not run the engine; the log of the agent has the reason")
        self._stream.synchronize()
