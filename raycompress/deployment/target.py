"""A deployment target: the inference runtime, precision and device that a model is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class DeploymentTarget:
    """Where a model will run.

    Attributes
    ----------
    runtime
        A name of `raycompress.catalog.runtimes.RUNTIMES`.
    precision
        What it computes in.
    batch
        Samples of one pass.
    threads
        Threads of one pass.
    device
        ``cpu``, ``gpu``, or ``ssh://user@host[:port]`` for the CPU of another machine.
    python
        The Python of the environment that has the runtime, where that is another than the one of raycompress; on
        another machine ``python3`` by default.
    """

    runtime: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    python: str = ""

    @property
    def name(self) -> str:
        """A short name, which a folder may have: ``openvino``, ``onnxruntime-int8-4threads``."""
        parts = [self.runtime]
        parts += [self.precision] if self.precision != "fp32" else []
        parts += [f"batch{self.batch}"] if self.batch != 1 else []
        parts += [f"{self.threads}threads"] if self.threads != 1 else []
        parts += [self.host.rpartition("@")[2].replace(":", "_")] if self.host else []
        parts += ["gpu"] if self.device == "gpu" else []
        return "-".join(parts)

    @property
    def host(self) -> str:
        """``user@host[:port]`` of another machine; empty for this one."""
        return self.device.removeprefix("ssh://") if self.device.startswith("ssh://") else ""

    def options(self) -> dict[str, Any]:
        """Return what the agent's `Options` are made of."""
        return {
            "precision": self.precision,
            "threads": self.threads,
            "device": "gpu" if self.device == "gpu" else "cpu",
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data: what is not as by default."""
        default = DeploymentTarget(self.runtime)
        return {k: v for k, v in asdict(self).items() if k == "runtime" or v != getattr(default, k)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DeploymentTarget:
        """Rebuild what `to_json` returned."""
        return cls(**data)
