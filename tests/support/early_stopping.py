"""Experiments for the tests of schedulers, without a script that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raycompress.config.experiment import Experiment


def experiment_with(folder: Path, **keys: Any) -> Experiment:
    """Write an experiment with one search range and these keys, and load it."""
    data = {
        "name": "x",
        "script": "train.py",
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [{"op_names": ["c"], "sparsity": {"type": "float", "range": [0.1, 0.9]}}],
        },
        **keys,
    }
    (folder / "train.py").write_text("")
    path = folder / "exp.json"
    path.write_text(json.dumps(data))
    return Experiment.load(path)
