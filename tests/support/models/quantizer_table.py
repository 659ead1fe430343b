"""What each quantizer makes of each network: sizes of the files, and accuracy on digits that nothing was trained on."""

from __future__ import annotations

import copy
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import catalog, create_compressor, load
from raycompress.bundle import bundle
from raycompress.errors import RaycompressError
from tests.support.models.networks import NETWORKS, digits

QUANTIZERS = tuple(
    entry.name for entry in catalog.CATALOG if (entry.framework, entry.kind) == ("torch", "quantization")
)
TABLE = ("cnn", "resnet", "mobilenet", "vgg", "vit", "mlp", "sequences")
TRAINS = ("naive", "qat", "dorefa", "bnn", "lsq")
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
N_TRAIN = 1200


@dataclass(frozen=True)
class Row:
    """One quantizer on one network.

    Attributes
    ----------
    before, after
        Bytes of the float weights, and of the smallest file that holds the quantized model.
    dense, quantized, int8
        Accuracy on the held-out digits: of the float model, trained as long; of the model that is measured; of the int8
        file, where there is one (the same for quantizers that are measured as int8).
    refused
        The error, where the quantizer does not take the network.
    """

    quantizer: str
    network: str
    before: int = 0
    after: int = 0
    dense: float = 0.0
    quantized: float = 0.0
    int8: float | None = None
    refused: str = ""


def rows(quantizers: tuple[str, ...] = QUANTIZERS, networks: tuple[str, ...] = TABLE) -> list[Row]:
    """Return a row for each pair; seeded, and each network is trained once."""
    return [_row(quantizer, network) for network in networks for quantizer in quantizers]


def config_list(name: str, model: nn.Module) -> list[dict[str, Any]]:
    """Return what is quantized: all that the quantizer takes, save the ends of a binary network."""
    layers = [key for key, module in model.named_modules() if isinstance(module, LAYERS)]
    if name in ("ptq_dynamic", "int8_weight_only"):
        return [{"op_types": ["Linear"]}]
    if name == "ptq_static":
        return [{"op_names": layers}]
    if name == "bnn":
        return [{"quant_types": ["weight"], "quant_bits": 1, "op_names": layers[1:2]}]
    parts = ["weight"] if name in ("naive", "dorefa") else ["weight", "input"]
    return [{"quant_types": parts, "quant_bits": 8, "op_names": layers}]


def fit(model: nn.Module, steps: int, optimizer: torch.optim.Optimizer) -> None:
    """Train on the first digits only."""
    images, labels = digits()
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        batch = torch.randint(0, N_TRAIN, (64,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the share of the held-out digits that `model` reads rightly."""
    images, labels = digits()
    answers: Tensor = model.eval()(images[N_TRAIN:])
    return float((answers.argmax(1) == labels[N_TRAIN:]).float().mean())


@functools.cache
def _pretrained(network: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[network]()
    fit(model, 150, torch.optim.Adam(model.parameters(), 0.005))
    return model


@functools.cache
def _dense(network: str) -> float:
    model = copy.deepcopy(_pretrained(network))
    fit(model, 20, torch.optim.Adam(model.parameters(), 0.0005))
    return accuracy(model)


def _row(name: str, network: str) -> Row:
    model = copy.deepcopy(_pretrained(network))
    optimizer = torch.optim.Adam(model.parameters(), 0.0005)
    if name not in TRAINS:
        fit(model, 20, optimizer)  # as long as those that train while they quantize
    data = digits()[0][:256]
    try:
        config = {"compressor": name, "config_list": config_list(name, model)}
        compressor = create_compressor(model, config, optimizer=optimizer, calibration_data=data)
        model = compressor.compress()
        if name in TRAINS:
            fit(model, 20, optimizer)
        measured = accuracy(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "bundle")
            compressor.export_model("model.pth", folder_name=folder, bundle_path=str(path))
            assert accuracy(load(path, NETWORKS[network]())) == measured
            manifest, has_int8 = bundle.read(path), (path / bundle.INT8_ONNX).exists()
        int8 = accuracy(compressor.apply_speedup()) if has_int8 else None
    except RaycompressError as error:
        return Row(name, network, refused=error.problems[0].what)
    return Row(name, network, manifest.before.size_bytes, manifest.after.size_bytes, _dense(network), measured, int8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in rows():
        print(row)
