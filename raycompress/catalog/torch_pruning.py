"""Torch-Pruning's methods, which prune whole groups of tied layers."""

from __future__ import annotations

from raycompress.catalog.entry import Argument, CompressorEntry

_ENGINE = "raycompress.compressors.engines.torch_pruning.engine:TorchPruning"
_OBS = "raycompress.compressors.engines.torch_pruning.obs:OptimalBrainSurgeon"
_CALIBRATED = "raycompress.compressors.engines.torch_pruning.calibrated:Calibrated"
_LAYERS = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Conv1D",
    "Experts",
)
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
_COMMON = (
    Argument("round_to", 8, "the channels that stay in a layer are a multiple of it; 1 for any number"),
    Argument("global", False, "compare the channels of all layers of an entry with one another, not layer by layer"),
    Argument("isomorphic", False, "compare the channels of those groups of layers that are built alike"),
    Argument("uniform", False, "repeated blocks stay alike: their layers keep equally many channels, block by block"),
    Argument("steps", 1, "remove the channels in so many steps inside compress(), ranked anew after each"),
)
_GRADIENTS = (
    Argument("statistics_batch_num", 10, "batches whose gradients are gathered"),
    Argument(
        "trainer",
        None,
        "function (model, optimizer, criterion, epoch) that trains one epoch: compress() runs it on a copy whose "
        "weights stay, for the gradients; without it they are gathered while the script trains after compress()",
        from_script=True,
    ),
    Argument("criterion", None, "the loss that is handed to trainer", from_script=True),
)
_SEEN = (
    Argument(
        "calibration",
        None,
        "a loader of inputs, or of tuples that begin with them; nothing is trained",
        from_script=True,
        required=True,
    ),
    Argument("samples", 128, "how many inputs of it are looked at", type="int"),
)
_CRITERION = Argument(
    "criterion",
    None,
    "criterion(outputs, labels), the loss, where calibration yields (inputs, labels); without it the loss is that of "
    "answers drawn from the model's own distribution",
    from_script=True,
)
_DEPGRAPH = "Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023"


def _entry(
    name: str,
    summary: str,
    paper: str = _DEPGRAPH,
    arguments: tuple[Argument, ...] = (),
    layer_types: tuple[str, ...] = _LAYERS,
    acts: str = "in compress()",
    engine: str = _ENGINE,
) -> CompressorEntry:
    return CompressorEntry(
        name,
        "torch",
        "pruning",
        engine,
        summary,
        (*_COMMON, *arguments),
        layer_types,
        True,
        paper,
        acts=acts,
        takes_groups=True,
        takes_subclasses=True,
        trains=arguments is _GRADIENTS,
    )


ENTRIES: tuple[CompressorEntry, ...] = (
    _entry("group_l1", "Removes the channels with the smallest absolute weights in all layers that they are tied to."),
    _entry("group_l2", "Removes the channels with the smallest squared weights in all layers that they are tied to."),
    _entry(
        "group_taylor",
        "Removes the channels whose removal changes the loss least, to the first order: weight times gradient.",
        "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019",
        _GRADIENTS,
        acts="after statistics_batch_num steps of training, or in compress() with trainer=",
    ),
    _entry(
        "group_fpgm",
        "Removes the channels nearest to the geometric median of their layers, those that others can best replace.",
        "He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks, CVPR 2019",
    ),
    _entry(
        "group_lamp",
        "Removes the channels with the smallest squared weights, each measured against those that are larger.",
        "Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021",
    ),
    _entry(
        "group_hessian",
        "Removes the channels with the least squared weight times curvature of the loss, the latter estimated by "
        "squared gradients of whole batches.",
        "LeCun et al., Optimal Brain Damage, NeurIPS 1989",
        _GRADIENTS,
        acts="after statistics_batch_num steps of training, or in compress() with trainer=",
    ),
    _entry(
        "group_wanda",
        "Removes the channels that the layers which read them get least from: absolute weight times size of the input.",
        "Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024",
        _SEEN,
        engine=_CALIBRATED,
    ),
    _entry(
        "group_flap",
        "Removes the channels that vary least: variance of the input times squared weights of the layers that read it.",
        "An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024",
        _SEEN,
        engine=_CALIBRATED,
    ),
    _entry(
        "group_fisher",
        "Removes the channels of least Fisher information: the squared gradient of each sample's loss by a factor on "
        "the channel, shared by all layers that read it.",
        "Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021",
        (*_SEEN, _CRITERION),
        engine=_CALIBRATED,
    ),
    _entry(
        "group_obs",
        "Removes the channels without which the layers that read them have least error once these are refitted, one "
        "after the other: the first choice for a model that is compensated and fine-tuned little or not at all. With "
        "global, of all layers what changes the model's outputs least for the multiply-adds that it saves.",
        "Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992; Kurtic et al., ZipLM, NeurIPS 2023",
        _SEEN,
        engine=_OBS,
    ),
    _entry(
        "bn_scale",
        "Removes the channels whose BatchNorm weights are smallest in all layers that they are tied to.",
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
        layer_types=_NORMS,
    ),
    _entry(
        "random",
        "Removes channels by chance: what every method should do better than.",
        _DEPGRAPH,
        (Argument("seed", 0, "makes the chance repeatable"),),
    ),
)
