"""Every compressor by its name: what it is, what it takes, which engine computes its masks.

Light: importing this loads no torch. The table that `raycompress compressors` prints comes from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Argument:
    """One argument of a compressor: a keyword of ``create_compressor``, or a key of ``compression.arguments``.

    Attributes
    ----------
    name, default
        The keyword and the value that it has when left out.
    summary
        What it does, in a line.
    from_script
        True for what only a script can pass (functions, optimizers, tensors): JSON cannot hold it.
    """

    name: str
    default: Any
    summary: str
    from_script: bool = False


@dataclass(frozen=True)
class CompressorEntry:
    """One compressor.

    Attributes
    ----------
    name, framework, kind
        The name in an experiment file, ``torch``, ``pruning``.
    engine
        ``module:name`` of the adapter that computes its masks.
    summary
        What it does, in a line.
    arguments
        What it takes beside the model, the config and ``dummy_input``.
    layer_types
        Class names of the layers that it works on; empty for any layer with a weight.
    removes_channels
        Whether whole channels go, so that ``apply_speedup`` can shrink the model.
    paper
        Where the method comes from.
    """

    name: str
    framework: str
    kind: str
    engine: str
    summary: str
    arguments: tuple[Argument, ...]
    layer_types: tuple[str, ...]
    removes_channels: bool
    paper: str


WEIGHTED_TYPES = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Bilinear",
    "PReLU",
    "Embedding",
    "EmbeddingBag",
)
"""What ``"op_types": ["default"]`` stands for where a compressor names no layer types of its own (NNI's list)."""

_ENGINE = "raycompress.compressors.nni:NniPruner"
_DEPENDENCY = Argument(
    "dependency_aware", False, "remove the same channels from layers that are added together; needs dummy_input"
)
_TRAINING = (
    Argument("trainer", None, "function (model, optimizer, criterion, epoch) that trains one epoch", from_script=True),
    Argument("criterion", None, "the loss that is handed to trainer", from_script=True),
    Argument("optimizer", None, "the optimizer that is handed to trainer", from_script=True),
    Argument("sparsifying_training_epochs", 10, "epochs of trainer with a penalty on the BatchNorm weights"),
    Argument("scale", 0.0001, "strength of that penalty"),
)


def _filter_pruner(name: str, summary: str, paper: str) -> CompressorEntry:
    return CompressorEntry(name, "torch", "pruning", _ENGINE, summary, (_DEPENDENCY,), ("Conv2d",), True, paper)


_ENTRIES = (
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
    ),
    CompressorEntry(
        "slim",
        "torch",
        "pruning",
        _ENGINE,
        "Removes the channels whose BatchNorm weight is smallest, compared across the layers of an entry.",
        _TRAINING,
        ("BatchNorm2d",),
        True,
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
    ),
    _filter_pruner(
        "l1_filter",
        "Removes the filters with the smallest sum of absolute weights.",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    _filter_pruner(
        "l2_filter",
        "Removes the filters with the smallest Euclidean norm.",
        "NNI's variant of Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    _filter_pruner(
        "fpgm",
        "Removes the filters nearest to the geometric median, those that others can best replace.",
        "He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks, CVPR 2019",
    ),
)

CATALOG: Mapping[str, CompressorEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The compressors of this version, by name."""

_TORCH_PRUNERS = (
    "activation_apoz_rank_filter",
    "activation_mean_rank_filter",
    "taylor_fo_weight_filter",
    "agp",
    "net_adapt",
    "simulated_annealing",
    "auto_compress",
    "amc",
    "admm",
    "lottery_ticket",
    "sensitivity",
    "group_l1",
    "group_l2",
    "group_taylor",
    "group_fpgm",
    "group_lamp",
    "group_hessian",
    "bn_scale",
    "random",
)
_TORCH_QUANTIZERS = (
    "naive",
    "qat",
    "dorefa",
    "bnn",
    "lsq",
    "observer",
    "ptq_dynamic",
    "ptq_static",
    "int8_weight_only",
)

COMING: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(_TORCH_PRUNERS, ("torch", "pruning")),
        **dict.fromkeys(_TORCH_QUANTIZERS, ("torch", "quantization")),
        **dict.fromkeys(("magnitude", "cluster"), ("tensorflow", "pruning")),
    }
)
"""Names that are known and not in this version: name -> (framework, kind). No compressor of tensorflow is in it."""
