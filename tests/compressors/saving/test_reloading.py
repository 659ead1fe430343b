"""Bundles of classes that look at what they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raycompress
from raycompress import create_compressor


class Versioned(nn.Module):
    """Loads states of its own version alone, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())  # type: ignore[no-any-return]

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError(f"version {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("sliced", [True, False])
def test_a_class_that_looks_for_its_version_loads_its_bundle(tmp_path: Path, sliced: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 8)
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    compressor = create_compressor(Versioned(), config, dummy_input=inputs)
    model = compressor.compress()
    if sliced:
        compressor.apply_speedup()
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    torch.testing.assert_close(raycompress.load(tmp_path / "bundle", Versioned())(inputs), model(inputs))
