"""The fingerprint of a torch model; what it is for is in `raycompress.compressors.saving.witness`."""

from __future__ import annotations

import torch
from torch import nn

from raycompress.compressors.saving.witness import Fingerprint, SavedModelCheck, same

__all__ = ["Fingerprint", "SavedModelCheck", "fingerprint", "same"]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the fingerprint of all floating-point parameters and buffers."""
    result = {}
    with torch.inference_mode(False):
        for name, tensor in model.state_dict().items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                values = tensor.detach().double()
                result[name] = (float(values.sum()), float(values.square().sum()))
    return result
