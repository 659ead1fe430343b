"""What is known of the bytes of a quantized file before a model is trained: predicted against written.

For each network a `FileBytes` is fitted to files at random widths and bits, and without some residual blocks, as at the
start of a search, and asked about others that it has not seen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.file_bytes import file_bytes, stored_files, stored_layers
from raycompress.compressors.analysis.fits.latency_model import Networks
from raycompress.compressors.depth.inspecting import inspect_blocks
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.structure.costing import cost_model
from tests.benchmarks.compression import networks
from tests.benchmarks.compression.tasks import TASKS
from tests.benchmarks.outcome import Outcome, Target
from tests.support.models.decoders import Llama, ids

WITHIN = 0.01
"""The relative error that a file's bytes are to be known to."""


@dataclass(frozen=True)
class Case:
    """A network, one input of it, and what quantizes it."""

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    compressor: str


def _input(name: str) -> Callable[[], Any]:
    return lambda: TASKS[name](0).dummy


CASES: Mapping[str, Case] = {
    **{name: Case(networks.NETWORKS[name], _input(name), "ptq_static") for name in ("resnet", "mobilenet", "vit")},
    "resnet56": Case(networks.NETWORKS["resnet56"], _input("resnet56"), "ptq_static"),
    "bert": Case(networks.NETWORKS["bert"], _input("bert"), "ptq_dynamic"),
    "llama": Case(Llama, ids, "ptq_dynamic"),
}


def _as_trained(model: nn.Module) -> nn.Module:
    """Return the model with vectors unlike each other: equal ones, such as biases of zero, are stored once."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return model


def _prepared(name: str, bits: Sequence[int]) -> tuple[Networks, dict[str, Any]]:
    """Return a network with its cost model, and the stage that quantizes each layer to some of `bits`."""
    case = CASES[name]
    torch.manual_seed(0)
    model, example = _as_trained(case.make().eval()), Example.from_dummy(case.example())
    entry = {"op_types": ["default"], "quant_bits": {"type": "choice", "range": [*bits]}}
    stage = {"compressor": case.compressor, "config_list": [entry], "arguments": {}}
    blocks = [block.name for block in inspect_blocks(model, example, None) if not block.why_not]
    return Networks(model, example, cost_model(model, example, blocks)), stage


def errors(name: str, unseen: int, bits: Sequence[int] = (32, 8, 4)) -> list[float]:
    """Return the relative errors of the bytes of `unseen` files, with their sign."""
    networks, stage = _prepared(name, bits)
    known = file_bytes(networks.model, networks.example, networks.costs, stage)
    files = stored_files(networks, stage, known.layers, unseen, seed=1)
    return [known.predict(stored) / size - 1 for stored, size in files]


def difference(name: str, bits: Sequence[int] = (32, 8, 4)) -> float:
    """Return by how much the outputs of a deployed file differ from those of the model that was measured.

    The file is the bundle's, in a session of its own; layers have each of the bits in turn.
    """
    networks, stage = _prepared(name, bits)
    model, example = networks.narrow([0] * len(networks.costs.groups)), networks.example
    layers = stored_layers(model, networks.costs, stage)
    asked = [{"op_names": [one.name], "quant_bits": bits[at % len(bits)]} for at, one in enumerate(layers)]
    given = {"calibration_data": example.args[0], "dummy_input": example.args[0]}
    compressor = rc.create_compressor(model, {**stage, "config_list": asked}, **given)
    measured = compressor.compress()
    with tempfile.TemporaryDirectory(prefix="stored-") as folder:
        compressor.export_model("model.pth", folder_name=folder, bundle_path=f"{folder}/bundle")
        session = onnxruntime.InferenceSession(
            f"{folder}/bundle/{bundle.INT8_ONNX}", providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: example.args[0].numpy()}
        deployed = [torch.from_numpy(one) for one in session.run(None, feed)]
    return relative_difference(example.outputs(measured), deployed)


def measure(unseen: int, names: Sequence[str], say: Callable[[str], None]) -> Outcome:
    """Predict the bytes of `unseen` files of each network."""
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    raw: dict[str, list[float]] = {}
    for name in names:
        started = time.process_time()
        found = np.abs(errors(name, unseen))
        raw[name] = found.tolist()
        share = float((found <= WITHIN).mean())
        errors_of = [f"{np.median(found):.2%}", f"{found.max():.2%}", f"{share:.0%}"]
        rows.append([name, CASES[name].compressor, *errors_of, f"{difference(name):.0e}"])
        say(f"{name}: median {np.median(found):.2%}, {time.process_time() - started:.0f} CPU s")
    columns = ("network", "quantizer", "median error", "largest", "within 1 %", "outputs differ by")
    every = [one for of_network in raw.values() for one in of_network]
    targets = [Target("bytes of a file, largest median error", max(map(np.median, raw.values())), WITHIN)]
    notes = [f"{np.mean(np.array(every) <= WITHIN):.0%} of all files are within 1 %"]
    return Outcome("Bytes of quantized files, predicted and written", columns, rows, targets, notes, raw)
