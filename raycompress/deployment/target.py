"""A deployment target: the inference runtime, precision and device that a model is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
AWAY = "the device is away"
"""How the error of a device begins that did not come back in time: the cause lies outside of the trial."""


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
        The Python of the environment here that has the runtime, where that is another than the one of raycompress.
        Models for another machine are converted in it.
    device_python
        The Python of another machine, ``python3`` by default. It needs numpy and the runtime, and no converter.
    """

    runtime: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    python: str = ""
    device_python: str = ""

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

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.runtime}, {self.precision}, batch of {self.batch}, {threads}, {self.device}"

    @property
    def host(self) -> str:
        """``user@host[:port]`` of another machine; empty for this one."""
        return self.device.removeprefix("ssh://") if self.device.startswith("ssh://") else ""

    @property
    def is_one_thread(self) -> bool:
        """Whether one thread of a processor computes, so that its CPU time is what a pass takes undisturbed."""
        return self.threads == 1 and self.device != "gpu"

    @property
    def converting(self) -> DeploymentTarget:
        """The target in which models for this one are converted: on this machine, with all else as it is."""
        return replace(self, device="cpu", device_python="") if self.host else self

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
        """Rebuild what `to_json` returned, or read a ``target`` of an experiment; other keys are passed over."""
        known = [one.name for one in fields(cls)]
        return cls(**{key: value for key, value in data.items() if key in known and value is not None})
