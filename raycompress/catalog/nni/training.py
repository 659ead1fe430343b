"""NNI's pruners that act while a model trains, or that train it."""

from __future__ import annotations

from raycompress.catalog.entry import Argument, CompressorEntry
from raycompress.catalog.nni.pruners import ROUND_TO

_STATISTICS = "raycompress.compressors.engines.nni.training.statistics:StatisticsPruner"
_WHILE = "while the script trains after compress(); with trainer=, in compress()"
_TRAINER = Argument(
    "trainer",
    None,
    "function (model, optimizer, criterion, epoch) that trains one epoch; left out, the script's own training is used",
    from_script=True,
)
_CRITERION = Argument("criterion", None, "the loss that is handed to trainer", from_script=True)
_OPTIMIZER = Argument("optimizer", None, "the optimizer that trains the model", from_script=True)
_DEPENDENCY = Argument(
    "dependency_aware", False, "remove the same channels from layers that are added together; needs dummy_input"
)
_GATHERING = (
    _OPTIMIZER,
    _TRAINER,
    _CRITERION,
    Argument("statistics_batch_num", 1, "batches (steps of the optimizer) from which the filters are judged"),
    Argument("sparsifying_training_batches", None, "NNI 2.10's name of statistics_batch_num"),
    _DEPENDENCY,
    ROUND_TO,
)
_ACTIVATION = Argument("activation", "relu", "relu or relu6: what is applied to a layer's output to judge it")


def _statistics_pruner(name: str, summary: str, arguments: tuple[Argument, ...], paper: str) -> CompressorEntry:
    return CompressorEntry(
        name,
        "torch",
        "pruning",
        _STATISTICS,
        summary,
        arguments,
        ("Conv2d",),
        True,
        paper,
        acts=_WHILE,
        instead="group_taylor",
        trains=True,
    )


ENTRIES: tuple[CompressorEntry, ...] = (
    _statistics_pruner(
        "activation_apoz_rank_filter",
        "Removes the filters whose outputs are most often zero after the activation.",
        (*_GATHERING, _ACTIVATION),
        "Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, 2016",
    ),
    _statistics_pruner(
        "activation_mean_rank_filter",
        "Removes the filters whose outputs have the smallest mean after the activation.",
        (*_GATHERING, _ACTIVATION),
        "Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017",
    ),
    _statistics_pruner(
        "taylor_fo_weight_filter",
        "Removes the filters whose loss changes least without them, judged by weight times gradient.",
        _GATHERING,
        "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019",
    ),
    CompressorEntry(
        "agp",
        "torch",
        "pruning",
        "raycompress.compressors.engines.nni.training.schedules:AgpPruner",
        "Removes more from epoch to epoch, fast at first and slower towards the end.",
        (
            Argument(
                "pruning_algorithm",
                "level",
                "what chooses at each epoch: level, slim, l1, l2, fpgm, taylorfo, apoz or mean_activation",
            ),
            _OPTIMIZER,
            _TRAINER,
            _CRITERION,
            Argument("num_iterations", 10, "with trainer=: how many times the masks grow"),
            Argument("epochs_per_iteration", 1, "with trainer=: epochs of trainer between two of them"),
            _DEPENDENCY,
            ROUND_TO,
        ),
        (),
        False,
        "Zhu and Gupta, To Prune, or Not to Prune, ICLR 2018 workshop",
        keys=("sparsity", "initial_sparsity", "final_sparsity", "start_epoch", "end_epoch", "frequency"),
        needs=(("sparsity", "final_sparsity"),),
        acts="in update_epoch(epoch), called at each epoch of the script; with trainer=, in compress()",
        base="pruning_algorithm",
        instead="group_l1",
        trains=True,
    ),
    CompressorEntry(
        "lottery_ticket",
        "torch",
        "pruning",
        "raycompress.compressors.engines.nni.training.lottery:LotteryTicketPruner",
        "Prunes single weights in rounds; each round starts again from the first weights.",
        (
            _OPTIMIZER,
            Argument("lr_scheduler", None, "a scheduler of that optimizer, which starts again too", from_script=True),
            Argument("reset_weights", True, "put weights, optimizer and scheduler back at the start of each round"),
        ),
        (),
        False,
        "Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019",
        keys=("sparsity", "prune_iterations"),
        needs=("sparsity", "prune_iterations"),
        shared_keys=("prune_iterations",),
        acts="in prune_iteration_start(), called for each of get_prune_iterations()",
        trains=True,
    ),
    CompressorEntry(
        "admm",
        "torch",
        "pruning",
        "raycompress.compressors.engines.nni.training.admm:AdmmPruner",
        "Trains the weights towards what pruning would leave of them, then prunes.",
        (
            Argument(
                "trainer",
                None,
                "function (model, optimizer, criterion, epoch) that trains one epoch with the optimizer it is handed; "
                "a parameter callback is served too",
                from_script=True,
                required=True,
            ),
            Argument("criterion", None, "the loss that is handed to trainer; torch's cross entropy", from_script=True),
            Argument("num_iterations", 30, "iterations of training and projection"),
            Argument("epochs_per_iteration", 5, "epochs of trainer in each"),
            Argument("training_epochs", None, "the old name of epochs_per_iteration"),
            Argument("row", 1e-4, "strength of the pull towards the pruned weights"),
            Argument("base_algo", "l1", "what chooses: level, l1, l2 or fpgm"),
            _DEPENDENCY,
            ROUND_TO,
        ),
        ("Conv2d",),
        True,
        "Zhang et al., A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers, "
        "ECCV 2018",
        base="base_algo",
        instead="group_l1",
        trains=True,
    ),
)
