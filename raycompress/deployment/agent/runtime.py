"""What an inference runtime is to the agent: one class that can tell whether it runs here, convert, load and run."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from .frames import Array


class RefusedError(Exception):
    """What a runtime cannot do, with the remedy.

    Parameters
    ----------
    what, fix
        As in `raycompress.errors.Problem`.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True)
class Options:
    """How a model is converted and run.

    Attributes
    ----------
    precision
        ``fp32``, ``fp16``, ``bf16`` or ``int8``.
    threads
        Threads of one pass.
    device
        ``cpu`` or ``gpu``.
    """

    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"


class Session(ABC):
    """A model that a runtime has loaded."""

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the outputs of one pass, in the order of the model's own."""

    def prepared(self, inputs: Sequence[Array]) -> Any:
        """Return the inputs as the runtime takes them, so that a timed pass copies nothing twice."""
        return inputs

    def step(self, prepared: Any) -> None:
        """Compute one pass of what `prepared` returned; this is what is timed."""
        self.run(prepared)


class Runtime(ABC):
    """One inference runtime; `raycompress.catalog.runtimes` says what is known of it without loading it."""

    distributions: ClassVar[tuple[str, ...]]
    """What is asked for the runtime's version, the first that is installed."""
    modules: ClassVar[tuple[str, ...]]
    """What running needs."""
    converters: ClassVar[tuple[str, ...]] = ()
    """What converting needs on top of them."""

    def missing(self, *, converting: bool) -> str:
        """Return the first module that is not installed; an empty string where all are."""
        for name in (*self.modules, *(self.converters if converting else ())):
            try:
                importlib.import_module(name)
            except ImportError as error:
                return f"{name} ({error})" if name != getattr(error, "name", name) else name
        return ""

    def version(self) -> str:
        """Return name and version of the runtime."""
        for name in self.distributions:
            try:
                return f"{name} {metadata.version(name)}"
            except metadata.PackageNotFoundError:
                continue
        return self.distributions[0]

    def check(self, options: Options) -> None:  # noqa: B027 - most run wherever they are installed
        """Raise what keeps the runtime, installed as it is, from running here with such options.

        Raises
        ------
        RefusedError
            The device, the system or a tool that it needs is not there.
        """

    @abstractmethod
    def convert(self, source: Path, folder: Path, options: Options, samples: Sequence[Sequence[Array]]) -> None:
        """Write the model at `source` into `folder`, as the runtime reads it.

        Parameters
        ----------
        source
            In the form that the catalogue names: an ONNX file, or a program of ``torch.export``.
        samples
            Inputs to calibrate with, for int8.
        """

    @abstractmethod
    def load(self, folder: Path, options: Options) -> Session:
        """Load what `convert` wrote."""

    def memory_mb(self, folder: Path) -> float | None:
        """Return the memory that the runtime plans for one pass, in MiB; None where it does not tell."""
        return None


def require_samples(samples: Sequence[Sequence[Array]]) -> None:
    """Raise RefusedError where there is nothing to calibrate int8 with."""
    if not samples:
        raise RefusedError("int8 needs inputs to calibrate with", "create_compressor(..., calibration=loader)")
