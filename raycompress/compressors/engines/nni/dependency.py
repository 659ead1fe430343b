"""Which layers NNI ties together, for ``dependency_aware``: NNI's own analysis of the traced model."""

from __future__ import annotations

import importlib

import numpy as np

from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.library import aware_options, load_nni, positive, quiet
from raycompress.compressors.engines.ranking.selection import Tie
from raycompress.compressors.structure.graph import clean_copy


def ties_of(request: Request) -> list[Tie]:
    """Return the ties among the layers of a request; none without ``dependency_aware``, and NNI is not imported then.

    Raises
    ------
    CompressionError
        ``dependency_aware`` without an input, or a model that NNI cannot follow.
    """
    options = aware_options(request)
    if not options:
        return []
    load_nni()
    shapes = importlib.import_module("nni.compression.pytorch.utils.shape_dependency")
    traced = importlib.import_module("nni.common.graph_utils")
    model = clean_copy(request.model).eval()
    names = positive(request.targets)
    with quiet(request):
        trace = traced.TorchModuleGraph(model, options["dummy_input"]).trace
        sets = shapes.ChannelDependency(model, options["dummy_input"], traced_model=trace).dependency_sets
        parts = shapes.GroupDependency(model, options["dummy_input"], traced_model=trace).dependency_sets
        set_of = {name: members for members in sets for name in members}
        ties: dict[str, Tie] = {}
        for name in names:
            if name not in ties:
                tied = tuple(member for member in set_of[name] if member in names)
                together = int(np.lcm.reduce([parts[member] for member in tied]))
                ties.update(dict.fromkeys(tied, Tie(tied, len(tied) == len(set_of[name]), together)))
    return list(dict.fromkeys(ties.values()))
