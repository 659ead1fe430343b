"""The pruners of NNI that choose at once, which are our own code; see `raycompress.compressors.engines.ranking`."""

from __future__ import annotations

from raycompress.catalog.entry import Argument, CompressorEntry

_ENGINE = "raycompress.compressors.engines.ranking.engine:Ranking"
_DEPENDENCY = Argument(
    "dependency_aware", False, "remove the same channels from layers that are added together; needs dummy_input"
)
ROUND_TO = Argument("round_to", 1, "the channels that stay in a layer are a multiple of it; 1 for any number")
"""Of NNI's pruners; not of those that search or compare layers (slim, sensitivity, net_adapt, simulated_annealing,
auto_compress): what a layer loses is what they found, and rounded afterwards it would be another model than the one
that they judged. amc rounds while it searches, by channel_round."""
_TRAINING = (
    Argument("trainer", None, "function (model, optimizer, criterion, epoch) that trains one epoch", from_script=True),
    Argument("criterion", None, "the loss that is handed to trainer", from_script=True),
    Argument("optimizer", None, "the optimizer that is handed to trainer", from_script=True),
    Argument("sparsifying_training_epochs", 10, "epochs of trainer with a penalty on the BatchNorm weights"),
    Argument("scale", 0.0001, "strength of that penalty"),
)


def _filter_pruner(name: str, summary: str, paper: str, instead: str) -> CompressorEntry:
    return CompressorEntry(
        name,
        "torch",
        "pruning",
        _ENGINE,
        summary,
        (_DEPENDENCY, ROUND_TO),
        ("Conv2d",),
        True,
        paper,
        instead=instead,
        takes_subclasses=True,
    )


ENTRIES = (
    CompressorEntry(
        "level",
        "torch",
        "pruning",
        _ENGINE,
        "Sets the single weights of smallest magnitude to zero; the model keeps its size.",
        (),
        (),
        False,
        "Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
        takes_subclasses=True,
    ),
    CompressorEntry(
        "slim",
        "torch",
        "pruning",
        _ENGINE,
        "Removes the channels whose BatchNorm weight is smallest, compared across the layers of an entry, each of "
        "which keeps at least one.",
        _TRAINING,
        ("BatchNorm2d",),
        True,
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
        per_layer=False,
        instead="bn_scale",
        trains=True,
    ),
    _filter_pruner(
        "l1_filter",
        "Removes the filters with the smallest sum of absolute weights.",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
        "group_l1",
    ),
    _filter_pruner(
        "l2_filter",
        "Removes the filters with the smallest Euclidean norm.",
        "NNI's variant of Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
        "group_l2",
    ),
    _filter_pruner(
        "fpgm",
        "Removes the filters nearest to the geometric median, those that others can best replace.",
        "He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks, CVPR 2019",
        "group_fpgm",
    ),
)
