"""level, l1_filter, l2_filter, fpgm and slim: pruners that choose at once, by the weights as they are.

They choose what NNI 2.10's pruners of these names choose, but count by `removed_count`. NNI is imported for
``dependency_aware``, which ties layers as NNI ties them, and for ``slim`` with ``trainer=``, which NNI trains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raycompress.catalog.rounding import removed_count
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.dependency import ties_of
from raycompress.compressors.engines.nni.library import everything, positive
from raycompress.compressors.engines.nni.rounding import decided, rounded
from raycompress.compressors.engines.ranking import scores
from raycompress.compressors.engines.ranking.selection import first_of_equals, least, up_to_threshold

_SCORES = {"l1_filter": scores.l1, "l2_filter": scores.l2, "fpgm": scores.fpgm}


class Ranking:
    """level, slim, l1_filter, l2_filter and fpgm."""

    def choose(self, request: Request) -> PruningDecision:
        """Return what goes; see `raycompress.compressors.engine.Engine`."""
        name = request.compressor.name
        if name == "level":
            return level(request)
        if name == "slim":
            return slim(request)
        return filters(rounded(request))


def level(request: Request) -> PruningDecision:
    """Remove the single weights of smallest magnitude of each layer.

    Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
    """
    weights: dict[str, Tensor] = {}
    for name in positive(request.targets):
        magnitudes = _weight(request, name).abs()
        count = removed_count(magnitudes.numel(), request.targets[name].sparsity)
        removed = up_to_threshold(magnitudes, count) if count else torch.zeros_like(magnitudes, dtype=torch.bool)
        if removed.all() and removed.numel() > 1:
            raise everything(request, name, "weights")
        weights[name] = removed.cpu()
    return PruningDecision(weights=weights)


def filters(request: Request) -> PruningDecision:
    """Remove the filters of least score of each layer; see `raycompress.compressors.engines.ranking.scores`."""
    score = _SCORES[request.compressor.name]
    names = positive(request.targets)
    ties = ties_of(request)
    values = {name: score(_weight(request, name)) for name in names}
    pick = first_of_equals if score is scores.fpgm else up_to_threshold
    removed = least(values, {name: request.targets[name].sparsity for name in names}, pick, ties)
    for name in names:
        if removed[name].all():
            raise everything(request, name, "channels")
    return decided(request, removed)


def slim(request: Request) -> PruningDecision:
    """Remove the channels of smallest BatchNorm weight of all layers of an entry together; each keeps its strongest.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017.
    """
    if request.arguments.get("trainer") is not None:
        from raycompress.compressors.engines.nni.training.slimming import train_slim

        train_slim(request)
    channels: dict[str, tuple[int, ...]] = {}
    names = positive(request.targets)
    for entry in sorted({request.targets[name].entry for name in names}):
        channels |= _slim_entry(request, [name for name in names if request.targets[name].entry == entry])
    return PruningDecision(channels=channels)


def _slim_entry(request: Request, members: list[str]) -> dict[str, tuple[int, ...]]:
    magnitudes = {name: _weight(request, name).abs() for name in members}
    sparsity = request.targets[members[0]].sparsity
    together = torch.cat(list(magnitudes.values()))
    count = removed_count(len(together), sparsity)
    if count < 1:
        return {}
    threshold = torch.topk(together, count, largest=False)[0].max()
    removed = {
        # a layer that is too narrow to lose its share loses nothing, however small its weights
        name: ~(values > threshold)
        if removed_count(len(values), sparsity)
        else torch.zeros_like(values, dtype=torch.bool)
        for name, values in magnitudes.items()
    }
    gone = sum(int(mask.sum()) for mask in removed.values())
    for name, mask in removed.items():
        if mask.all():
            # all that are equal to the threshold go: then the weights do not rank the channels
            if gone > count:
                raise everything(request, name, "channels")
            mask[int(magnitudes[name].argmax())] = False
    return {name: tuple(torch.nonzero(mask).flatten().tolist()) for name, mask in removed.items()}


def _weight(request: Request, name: str) -> Tensor:
    weight = request.model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()
