"""Core ML. Conversion runs wherever coremltools does; a model runs on macOS alone, where nothing has run it yet."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session, require_samples
from .programs import load_program

FILE = "model.mlpackage.zip"
_PACKAGE = "model.mlpackage"


class CoreMl(Runtime):
    """Core ML, an ML program in a package that is zipped.

    fp16 computes in half precision between inputs and outputs of float32; int8 are weights by output channel and, by
    the samples, activations, for which coremltools runs the model. Core ML chooses its own number of threads.
    """

    distributions: ClassVar[tuple[str, ...]] = ("coremltools",)
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)
    converters: ClassVar[tuple[str, ...]] = ("torch",)

    def check(self, options: Options) -> None:
        """Refuse another system than macOS, and a number of threads; see `Runtime.check`."""
        if sys.platform != "darwin":
            raise RefusedError(
                f"Core ML runs on macOS, and this is {sys.platform}", '"device": "ssh://user@host" of a Mac'
            )
        if options.threads != 1:
            raise RefusedError(
                "Core ML chooses its number of threads itself", '"threads": 1, and the choice is its own'
            )

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the package; see `Runtime.convert`."""
        model = converted(load_program(source), options.precision)
        if options.precision == "int8":
            require_samples(samples)
            model = with_int8_weights(_with_int8_activations(model, samples))
        with tempfile.TemporaryDirectory(prefix="raycompress-") as aside:
            model.save(str(Path(aside, _PACKAGE)))
            shutil.make_archive(str(folder / _PACKAGE), "zip", aside)

    def load(self, folder: Path, options: Options) -> Session:
        """Compile the package for the CPU, or for the GPU too; see `Runtime.load`."""
        self.check(options)
        ct = importlib.import_module("coremltools")
        shutil.unpack_archive(folder / FILE, folder / "unpacked")
        units = ct.ComputeUnit.CPU_AND_GPU if options.device == "gpu" else ct.ComputeUnit.CPU_ONLY
        return _Session(ct.models.MLModel(str(folder / "unpacked" / _PACKAGE), compute_units=units))


def converted(program: Any, precision: str) -> Any:
    """Return a program as an ML program that computes in float16 where that is the precision, otherwise in float32."""
    ct = importlib.import_module("coremltools")
    return ct.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,  # the first that has int8 activations
        compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
        skip_model_load=precision != "int8",  # whose calibration runs it
    )


def with_int8_weights(model: Any) -> Any:
    """Return the model with weights of 8 bits, symmetric, a scale for each output channel."""
    optimize = importlib.import_module("coremltools.optimize.coreml")
    settings = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel")
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=settings))


def _with_int8_activations(model: Any, samples: Sequence[Sequence[Array]]) -> Any:
    """Return the model with activations of 8 bits, their ranges from the samples, on which it is run."""
    if sys.platform != "darwin":
        raise RefusedError("int8 of Core ML is calibrated by running the model, which macOS alone does", "fp16")
    optimize = importlib.import_module("coremltools.optimize.coreml")
    experimental = importlib.import_module("coremltools.optimize.coreml.experimental")
    settings = experimental.OpActivationLinearQuantizerConfig(mode="linear_symmetric")
    feeds = [named(model, sample) for sample in samples]
    config = optimize.OptimizationConfig(global_config=settings)
    return experimental.linear_quantize_activations(model, config, feeds)


def named(model: Any, inputs: Sequence[Array]) -> dict[str, Array]:
    """Return inputs by name, floats as float32 and integers as int32, which Core ML takes."""
    names = [one.name for one in model.get_spec().description.input]
    return {
        name: array.astype("float32" if array.dtype.kind == "f" else "int32")
        for name, array in zip(names, inputs, strict=True)
    }


class _Session(Session):
    def __init__(self, model: Any) -> None:
        self._model = model
        self._outputs = [one.name for one in model.get_spec().description.output]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        found = self._model.predict(self.prepared(inputs))
        return [found[name] for name in self._outputs]

    def prepared(self, inputs: Sequence[Array]) -> Any:
        return named(self._model, inputs)

    def step(self, prepared: Any) -> None:
        self._model.predict(prepared)
