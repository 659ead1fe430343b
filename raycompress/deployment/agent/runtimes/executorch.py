"""ExecuTorch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..frames import Array
from ..runtime import Options, RefusedError, Runtime, Session, require_samples
from .programs import arrays_of, in_precision, load_program, module_of, tensors_of

FILE = "model.pte"
_XNNPACK = "executorch.backends.xnnpack"
_LIBRARY = "executorch.extension.pybindings.portable_lib"


class ExecuTorch(Runtime):
    """ExecuTorch with its XNNPACK backend; what XNNPACK does not know runs in the portable kernels.

    fp16 computes in half precision between inputs and outputs of float32; int8 is static quantization by torchao's
    pt2e with XNNPACK's quantizer, weights by output channel. The memory that the program plans is not told: XNNPACK
    allocates its workspace outside that plan.
    """

    distributions: ClassVar[tuple[str, ...]] = ("executorch",)
    modules: ClassVar[tuple[str, ...]] = ("torch", "executorch.runtime")
    converters: ClassVar[tuple[str, ...]] = ("executorch.exir", "torchao")

    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the program, lowered to XNNPACK; see `Runtime.convert`."""
        if options.precision == "int8":
            require_samples(samples)
        exir = importlib.import_module("executorch.exir")
        partition = importlib.import_module(f"{_XNNPACK}.partition.xnnpack_partitioner")
        program = load_program(source)
        if options.precision == "fp16":
            program = in_precision(program, "fp16")
        elif options.precision == "int8":
            program = _quantized(program, samples)
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[partition.XnnpackPartitioner()])
        (folder / FILE).write_bytes(lowered.to_executorch().buffer)

    def load(self, folder: Path, options: Options) -> Session:
        """Load the program's method, and set the threads of the process; see `Runtime.load`."""
        library = importlib.import_module(_LIBRARY)
        if library._threadpool_get_thread_count() != options.threads:
            library._unsafe_reset_threadpool(options.threads)
        found = library._threadpool_get_thread_count()
        if found != options.threads:
            raise RefusedError(
                f"ExecuTorch runs with {found} threads, not with {options.threads}", f'"threads": {found}'
            )
        runtime = importlib.import_module("executorch.runtime").Runtime.get()
        program = runtime.load_program((folder / FILE).read_bytes())
        return _Session(program, program.load_method("forward"))


def _quantized(program: Any, samples: Sequence[Sequence[Array]]) -> Any:
    torch = importlib.import_module("torch")
    pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    xnnpack = importlib.import_module(f"{_XNNPACK}.quantizer.xnnpack_quantizer")
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    inputs = tuple(program.example_inputs[0])
    with torch.no_grad():
        observed = pt2e.prepare_pt2e(module_of(program), xnnpack.XNNPACKQuantizer().set_global(config))
        for sample in samples:
            observed(*tensors_of(sample))
        return torch.export.export(pt2e.convert_pt2e(observed), inputs)


class _Session(Session):
    def __init__(self, program: Any, method: Any) -> None:
        self._program = program  # the method runs in its memory
        self._method = method

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return arrays_of(self._method.execute(self.prepared(inputs)))

    def prepared(self, inputs: Sequence[Array]) -> Any:
        return tensors_of(inputs)

    def step(self, prepared: Any) -> None:
        self._method.execute(prepared)
