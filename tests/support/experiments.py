"""Experiments and models for the tests of this folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.model.info import BlockInfo, Layer, ModelInfo

BASE: dict[str, Any] = {
    "name": "digits",
    "script": "train.py",
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}],
    },
}


def experiment_with(
    folder: Path, entries: list[Any] | None = None, *, compression: Any = None, **keys: Any
) -> Experiment:
    """Write an experiment with these config_list entries and keys, beside a script, and load it."""
    data = copy.deepcopy(BASE)
    data.update(keys)
    data["compression"].update(compression or {})
    if entries is not None:
        data["compression"]["config_list"] = entries
    (folder / "train.py").write_text("print(1)\n")
    file = folder / "exp.json"
    file.write_text(json.dumps(data, indent=1))
    return Experiment.load(file)


def layer(name: str, kind: str = "Conv2d", channels: int = 16) -> Layer:
    return Layer(name, kind, channels, 100, 1000, (channels, 3, 3, 3))


def network(
    *layers: Layer, ties: Any = (), outputs: tuple[str, ...] = ("fc",), blocks: tuple[str, ...] = ()
) -> ModelInfo:
    """Return a model with these layers; its residual blocks change less, the later they come."""
    found = tuple(BlockInfo(name, "Block", 1 / place) for place, name in enumerate(blocks, start=1))
    return ModelInfo(layers, ties, outputs, 1000, 10000, 4000, ((1, 1, 8, 8),), blocks=found)
