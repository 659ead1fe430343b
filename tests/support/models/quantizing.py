"""What the tests of quantizers share: models that are quantized and trained, and bundles of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.interface import Compressor
from tests.support.models.networks import digits, train, trained
from tests.support.models.quantizer_table import config_list

FAKE = ("naive", "qat", "dorefa", "bnn", "lsq", "observer")
HELD_OUT = Example.from_dummy(digits()[0][1200:])
ALL_8 = [{"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
FORMS = ("qat", "ptq_static", "int8_weight_only")


def needs_torchao(name: str) -> None:
    if name == "int8_weight_only":
        pytest.importorskip("torchao")


def quantizer(model: nn.Module, name: str, entries: list[dict[str, Any]] | None = None, **more: Any) -> Compressor:
    needs_torchao(name)
    if name == "lsq":
        more.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    if name not in FAKE or name == "observer":
        more.setdefault("calibration_data", digits()[0][:100])
    compressor: Compressor = create_compressor(
        model, {"compressor": name, "config_list": entries or config_list(name, model)}, **more
    )
    return compressor


def quantized(name: str, network: str = "cnn", steps: int = 8, **more: Any) -> tuple[nn.Module, Compressor]:
    model = trained(network, 60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    compressor = quantizer(model, name, **{"optimizer": optimizer, **more})
    assert compressor.compress() is model
    if name in FAKE and name != "observer":
        train(model, steps, optimizer=optimizer)
    return model, compressor


def saved(compressor: Compressor, folder: Path, **more: Any) -> Path:
    compressor.export_model("m.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"), **more)
    return folder / "bundle"
