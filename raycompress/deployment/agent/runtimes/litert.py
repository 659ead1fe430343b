"""LiteRT, formerly TensorFlow Lite."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, Runtime, Session, require_samples
from .programs import load_program, module_of

FILE = "model.tflite"
_SIGNATURE = "serving_default"


class LiteRt(Runtime):
    """LiteRT's interpreter, with its XNNPACK delegate.

    fp16 stores the weights in half precision and computes in float32, which is what LiteRT calls by that name on a
    CPU; int8 is static quantization by AI Edge Quantizer, weights by output channel, inputs and outputs staying as they
    are. Integers of 64 bits become those of 32.
    """

    distributions: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)
    modules: ClassVar[tuple[str, ...]] = ("ai_edge_litert.interpreter",)
    converters: ClassVar[tuple[str, ...]] = ("torch", "litert_torch", "ai_edge_quantizer")

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the flatbuffer; see `Runtime.convert`."""
        if options.precision == "int8":
            require_samples(samples)
        litert_torch = importlib.import_module("litert_torch")
        program = load_program(source)
        converted = litert_torch.convert(module_of(program), tuple(program.example_inputs[0]))
        converted.export(str(folder / FILE))
        if options.precision == "int8":
            _quantize(folder / FILE, samples, options.threads)
        elif options.precision == "fp16":
            _halve(folder / FILE)

    def load(self, folder: Path, options: Options) -> Session:
        """Make an interpreter and allocate its tensors; see `Runtime.load`."""
        return _Session(_interpreter(folder / FILE, options.threads))


def _interpreter(path: Path, threads: int) -> Any:
    library = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = library.Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _quantize(path: Path, samples: Sequence[Sequence[Array]], threads: int) -> None:
    library = importlib.import_module("ai_edge_quantizer.quantizer")
    recipe = importlib.import_module("ai_edge_quantizer.recipe")
    names = importlib.import_module("ai_edge_quantizer.qtyping").TFLOperationName
    quantizer = library.Quantizer(str(path))
    quantizer.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (names.INPUT, names.OUTPUT):
        quantizer.update_quantization_recipe(".*", end, algorithm_key=library.AlgorithmName.NO_QUANTIZE)
    inputs = _Inputs(_interpreter(path, threads))
    feeds = {_SIGNATURE: [inputs.named(sample) for sample in samples]}
    path.write_bytes(quantizer.quantize(quantizer.calibrate(feeds, num_threads=threads)).quantized_model)


def _halve(path: Path) -> None:
    library = importlib.import_module("ai_edge_quantizer.quantizer")
    types = importlib.import_module("ai_edge_quantizer.qtyping")
    weights = types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT)
    config = types.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=types.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    quantizer = library.Quantizer(str(path))
    quantizer.update_quantization_recipe(
        ".*", types.TFLOperationName.ALL_SUPPORTED, config, library.AlgorithmName.FLOAT_CASTING
    )
    path.write_bytes(quantizer.quantize().quantized_model)


class _Inputs:
    """The inputs of a signature, which has them as ``args_0``, ``args_1``, in the order of the model's own."""

    def __init__(self, interpreter: Any) -> None:
        self.details = interpreter.get_signature_runner(_SIGNATURE).get_input_details()

    def named(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """Return arrays by name, each of the type that the signature has."""
        named = {f"args_{place}": array for place, array in enumerate(arrays)}
        return {name: named[name].astype(detail["dtype"], copy=False) for name, detail in self.details.items()}


class _Session(Session):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs = _Inputs(interpreter)
        outputs = interpreter.get_signature_runner(_SIGNATURE).get_output_details()
        self._outputs = [outputs[f"output_{place}"]["index"] for place in range(len(outputs))]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.step(self.prepared(inputs))
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def prepared(self, inputs: Sequence[Array]) -> Any:
        named = self._inputs.named(inputs)
        return [(detail["index"], named[name]) for name, detail in self._inputs.details.items()]

    def step(self, prepared: Any) -> None:
        for index, array in prepared:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
