"""NNI's `fix_mask_conflict`, for scripts of the old tool that call it themselves; no compressor of ours needs it."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from raycompress.compressors.engines.nni.library import load_nni


def fix_mask_conflict(masks: Any, model: nn.Module, dummy_input: Any, traced: Any = None) -> Any:
    """Return `masks`, NNI's or the path of a file with them, with tied layers masked alike; the arguments are NNI's."""
    load_nni()
    module = importlib.import_module("nni.compression.pytorch.utils.mask_conflict")
    return module.fix_mask_conflict(masks, model, dummy_input, traced)
