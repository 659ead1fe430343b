"""`count_flops_params` of the old tool: what a model computes and holds, without a compressor."""

from __future__ import annotations

from typing import Any

from torch import nn

from raycompress.compressors.interface import Compressor


def count_flops_params(model: nn.Module, x: Any, *_ignored: Any, **_more: Any) -> tuple[int, int, list[dict[str, Any]]]:
    """Return (multiply-adds, parameters, one row a layer); see `Compressor.count_flops_params`.

    Parameters
    ----------
    model
        It is left as it is.
    x
        Shape of an input, batch first, or an input. What NNI's function takes beside it has no meaning here.
    """
    return Compressor(model).count_flops_params(x)
