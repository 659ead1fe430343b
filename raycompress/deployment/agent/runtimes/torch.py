"""PyTorch itself: eager, and compiled by inductor."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session
from .programs import arrays_of, in_precision, load_program, module_of, tensors_of

FILE = "model.pt2"


class Torch(Runtime):
    """PyTorch, eager, on the CPU or a CUDA GPU.

    fp16 and bf16 compute in that precision between inputs and outputs of float32.
    """

    distributions: ClassVar[tuple[str, ...]] = ("torch",)
    modules: ClassVar[tuple[str, ...]] = ("torch",)

    def check(self, options: Options) -> None:
        """Refuse a GPU where there is none; see `Runtime.check`."""
        torch = importlib.import_module("torch")
        if options.device == "gpu" and not torch.cuda.is_available():
            raise RefusedError("torch sees no CUDA GPU", '"device": "cpu", or a machine and a torch with CUDA')

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the program in the precision asked for; see `Runtime.convert`."""
        if options.precision == "fp32":
            shutil.copyfile(source, folder / FILE)
            return
        program = in_precision(load_program(source), options.precision)
        importlib.import_module("torch").export.save(program, str(folder / FILE))

    def load(self, folder: Path, options: Options) -> Session:
        """Set the threads of the process, and run once; see `Runtime.load`."""
        torch = importlib.import_module("torch")
        torch.set_num_threads(options.threads)
        program = load_program(folder / FILE)
        device = "cuda" if options.device == "gpu" else "cpu"
        inputs = tuple(tensor.to(device) for tensor in program.example_inputs[0])
        if device == "cuda":
            program = importlib.import_module("torch.export.passes").move_to_device_pass(program, device)
        session = _Session(self._runnable(module_of(program)), device)
        session.step(inputs)
        return session

    def _runnable(self, module: Any) -> Any:
        return module


class TorchCompile(Torch):
    """PyTorch's inductor, by ``torch.compile``; it compiles while the model is loaded."""

    def check(self, options: Options) -> None:
        """Refuse where inductor lacks what it compiles with; see `Runtime.check`."""
        super().check(options)
        if options.device == "gpu" and not importlib.import_module("torch.utils._triton").has_triton():
            raise RefusedError("torch.compile needs triton on a GPU", "pip install triton")
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise RefusedError(
                f"torch.compile needs a C++ compiler, and there is no {compiler}",
                "apt install g++, or name one in the environment variable CXX",
            )

    def _runnable(self, module: Any) -> Any:
        return importlib.import_module("torch").compile(module, fullgraph=True, dynamic=False)


class _Session(Session):
    def __init__(self, module: Any, device: str) -> None:
        self._torch = importlib.import_module("torch")
        self._module, self._device = module, device

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        with self._torch.inference_mode():
            return arrays_of(self._module(*self.prepared(inputs)))

    def prepared(self, inputs: Sequence[Array]) -> Any:
        return tensors_of(inputs, self._device)

    def step(self, prepared: Any) -> None:
        with self._torch.inference_mode():
            self._module(*prepared)
        if self._device == "cuda":
            self._torch.cuda.synchronize()
