"""Every inference runtime that a model can be deployed in, by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from raycompress.catalog.catalogue import Catalogue
from raycompress.catalog.plugins import Plugin, missing_methods
from raycompress.errors import PluginError

Form = Literal["onnx", "program"]
_AGENT = "raycompress.deployment.agent.runtimes"


@dataclass(frozen=True)
class RuntimeEntry:
    """One inference runtime.

    Attributes
    ----------
    name
        The name in an experiment's ``target``.
    summary
        What it is, in a line.
    make
        ``module:Class`` of the `raycompress.deployment.agent.runtime.Runtime`; of a plug-in it is filled in.
    form
        What its converter reads: an ONNX file, or a program of ``torch.export``.
    precisions
        What it can compute in.
    devices
        Where it runs: ``cpu``, ``gpu``; a machine that is reached by ssh counts as ``cpu``.
    libraries
        The modules that must be installed for it.
    install
        What installs them, as pip takes it.
    reads_four_bits
        Whether it reads ONNX files in which layers have 4 bits: onnxruntime's own operators, and constants of INT4.
    tells_memory
        Whether it tells how much memory a pass takes: its `memory_mb` returns a number.
    distribution
        Name and version of the distribution that a plug-in comes with; empty for our own.
    """

    name: str
    summary: str
    make: str
    form: Form
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    libraries: tuple[str, ...] = ()
    install: str = ""
    reads_four_bits: bool = False
    tells_memory: bool = False
    distribution: str = ""

    def of_plugin(self, plugin: Plugin, found: type) -> RuntimeEntry:
        """Return the entry of a plug-in's class, complete.

        Raises
        ------
        PluginError
            A method is missing.
        """
        if what := missing_methods(found, ("convert", "load", "missing")):
            raise PluginError(
                f"{plugin} cannot be used: {what}",
                where=plugin.where,
                fix="its author mends the class; see docs/plugins.md",
            )
        return replace(self, make=plugin.value, distribution=plugin.distribution)


_BUILT_IN = (
    RuntimeEntry(
        "onnxruntime",
        "ONNX Runtime, on its CPU or CUDA provider.",
        f"{_AGENT}.onnxruntime:OnnxRuntime",
        "onnx",
        ("fp32", "fp16", "int8"),
        ("cpu", "gpu"),
        ("onnxruntime", "onnx"),
        "raycompress[onnx]",
        reads_four_bits=True,
    ),
    RuntimeEntry(
        "openvino",
        "OpenVINO, on its CPU or GPU plug-in.",
        f"{_AGENT}.openvino:OpenVino",
        "onnx",
        ("fp32", "fp16", "bf16", "int8"),
        ("cpu", "gpu"),
        ("openvino", "onnx", "onnxruntime"),
        "raycompress[openvino]",
        reads_four_bits=True,
    ),
    RuntimeEntry(
        "executorch",
        "ExecuTorch, with its XNNPACK backend.",
        f"{_AGENT}.executorch:ExecuTorch",
        "program",
        ("fp32", "fp16", "int8"),
        ("cpu",),
        ("executorch", "torch", "torchao"),
        "raycompress[executorch]",
    ),
    RuntimeEntry(
        "litert",
        "LiteRT (TensorFlow Lite), with its XNNPACK delegate.",
        f"{_AGENT}.litert:LiteRt",
        "program",
        ("fp32", "fp16", "int8"),
        ("cpu",),
        ("ai_edge_litert", "litert_torch", "torch"),
        "raycompress[litert]",
    ),
    RuntimeEntry(
        "torch",
        "PyTorch, eager.",
        f"{_AGENT}.torch:Torch",
        "program",
        ("fp32", "fp16", "bf16"),
        ("cpu", "gpu"),
        ("torch",),
        "torch",
    ),
    RuntimeEntry(
        "torch.compile",
        "PyTorch, compiled by inductor, which needs a C++ compiler.",
        f"{_AGENT}.torch:TorchCompile",
        "program",
        ("fp32", "fp16", "bf16"),
        ("cpu", "gpu"),
        ("torch",),
        "torch",
    ),
    RuntimeEntry(
        "tensorrt",
        "TensorRT, on a CUDA GPU; written to its documentation, run by nobody yet.",
        f"{_AGENT}.tensorrt:TensorRt",
        "onnx",
        ("fp32", "fp16", "int8"),
        ("gpu",),
        ("tensorrt", "torch", "onnx", "onnxruntime"),
        "raycompress[tensorrt]",
    ),
    RuntimeEntry(
        "coreml",
        "Core ML, on macOS; converted here, run by nobody yet.",
        f"{_AGENT}.coreml:CoreMl",
        "program",
        ("fp32", "fp16", "int8"),
        ("cpu", "gpu"),
        ("coremltools", "torch"),
        "raycompress[coreml]",
    ),
)

RUNTIMES = Catalogue("raycompress.runtimes", RuntimeEntry, _BUILT_IN)
"""All inference runtimes, those of plug-ins too."""
