"""NNI's pruners that search how much to remove from each layer."""

from __future__ import annotations

from raycompress.compressors.catalog.entry import Argument, CompressorEntry

_SEARCHER = "raycompress.compressors.nni.searching:NniSearcher"
_EVALUATOR = Argument(
    "evaluator", None, "function (model) that returns one number, such as the accuracy", from_script=True, required=True
)
_MODE = Argument("optimize_mode", "maximize", "maximize or minimize what the evaluator returns")
_BASE = Argument("base_algo", "l1", "what ranks filters: l1, l2 or fpgm; level removes single weights instead")
_FOLDER = Argument("experiment_data_dir", None, "folder for the history of the search; none is kept without one")
_TIMEOUT = Argument("search_timeout_s", 600, "seconds after which a search that has not ended is an error")
_LONG_TIMEOUT = Argument("search_timeout_s", 3600, _TIMEOUT.summary)
_ANNEALING = (
    Argument("start_temperature", 100, "temperature of the simulated annealing at its start"),
    Argument("stop_temperature", 20, "temperature at which it ends; the nearer to the start, the shorter"),
    Argument("cool_down_rate", 0.9, "the temperature is multiplied by this after each step"),
    Argument("perturbation_magnitude", 0.35, "largest change of a layer's sparsity in the first step"),
)
_PAPER_AUTO = "Liu et al., AutoCompress: An Automatic DNN Structured Pruning Framework, AAAI 2020"

ENTRIES = (
    CompressorEntry(
        "sensitivity",
        "torch",
        "pruning",
        _SEARCHER,
        "Removes most from the layers whose pruning costs least accuracy, measured anew after each round.",
        (
            Argument(
                "evaluator",
                None,
                "function that returns one number, larger is better; called with the model, or with eval_args and "
                "eval_kwargs of compress()",
                from_script=True,
                required=True,
            ),
            Argument(
                "finetuner",
                None,
                "function that trains the model after each round; called with the model, or with finetune_args and "
                "finetune_kwargs of compress()",
                from_script=True,
            ),
            _BASE,
            Argument(
                "sparsity_proportion_calc",
                None,
                "function (accuracy, threshold, sensitivities) that returns the shares of the layers",
                from_script=True,
            ),
            Argument("sparsity_per_iter", 0.1, "share of all weights that one round removes"),
            Argument("acc_drop_threshold", 0.05, "drop of the accuracy at which a layer counts as pruned too far"),
            Argument("checkpoint_dir", None, "folder for the model and the sensitivities after each round"),
            _TIMEOUT,
        ),
        ("Conv2d",),
        True,
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (the sensitivity of layers); NNI's iteration",
        base="base_algo",
        per_layer=False,
        instead="group_l1",
    ),
    CompressorEntry(
        "net_adapt",
        "torch",
        "pruning",
        _SEARCHER,
        "Step by step prunes the layer whose loss the evaluator notices least after a short training.",
        (
            Argument(
                "short_term_fine_tuner",
                None,
                "function (model) that trains a candidate for a short while",
                from_script=True,
                required=True,
            ),
            _EVALUATOR,
            _MODE,
            _BASE,
            Argument("sparsity_per_iteration", 0.05, "share of all weights that one step removes"),
            _FOLDER,
            _TIMEOUT,
        ),
        ("Conv2d",),
        True,
        "Yang et al., NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications, ECCV 2018",
        base="base_algo",
        per_layer=False,
        instead="group_l1",
    ),
    CompressorEntry(
        "simulated_annealing",
        "torch",
        "pruning",
        _SEARCHER,
        "Searches the spread of the sparsity over the layers by simulated annealing; larger layers lose more.",
        (_EVALUATOR, _MODE, _BASE, *_ANNEALING, _FOLDER, _TIMEOUT),
        ("Conv2d",),
        True,
        _PAPER_AUTO,
        base="base_algo",
        per_layer=False,
        instead="group_l1",
    ),
    CompressorEntry(
        "auto_compress",
        "torch",
        "pruning",
        "raycompress.compressors.nni.auto_compress:AutoCompressPruner",
        "Rounds of annealing, training towards what is left (ADMM) and slicing; compress() returns the small model.",
        (
            Argument(
                "trainer",
                None,
                "function (model, optimizer, criterion, epoch) that trains one epoch with the optimizer it is given; "
                "callback= is passed where it takes one",
                from_script=True,
                required=True,
            ),
            Argument("criterion", None, "the loss handed to trainer; cross entropy where left out", from_script=True),
            _EVALUATOR,
            _MODE,
            Argument("base_algo", "l1", "what ranks filters: l1, l2 or fpgm"),
            Argument("num_iterations", 3, "rounds; each removes the same share of what is left"),
            *_ANNEALING,
            Argument("admm_num_iterations", 30, "iterations of ADMM in a round"),
            Argument("admm_epochs_per_iteration", 5, "epochs of trainer in each of them"),
            Argument("admm_training_epochs", None, "the old name of admm_epochs_per_iteration"),
            Argument("row", 1e-4, "how strongly ADMM pulls the weights towards what is left"),
            _FOLDER,
            _LONG_TIMEOUT,
        ),
        ("Conv2d",),
        True,
        _PAPER_AUTO,
        returns_small=True,
        per_layer=False,
        instead="group_l1",
    ),
    CompressorEntry(
        "amc",
        "torch",
        "pruning",
        "raycompress.compressors.nni.amc:AmcPruner",
        "An agent learns which share of each layer's channels stays, within a share of the FLOPs.",
        (
            Argument(
                "evaluator",
                None,
                "function (val_loader, model), or (model), that returns the accuracy in percent",
                from_script=True,
                required=True,
            ),
            Argument("val_loader", None, "batches (inputs, targets)", from_script=True, required=True),
            Argument("flops_ratio", 0.5, "share of the FLOPs that may stay"),
            Argument("lbound", 0.2, "smallest share of a layer's channels that stays"),
            Argument("rbound", 1.0, "largest share that stays"),
            Argument("reward", "acc_reward", "acc_reward or acc_flops_reward"),
            Argument("n_calibration_batches", 60, "batches of val_loader for the least squares fit"),
            Argument("n_points_per_layer", 10, "positions of a feature map for it"),
            Argument("channel_round", 8, "the number of channels that stay is rounded up to a multiple of this"),
            Argument("hidden1", 300, "width of the agent's first layer"),
            Argument("hidden2", 300, "width of its second layer"),
            Argument("lr_c", 1e-3, "learning rate of its critic"),
            Argument("lr_a", 1e-4, "learning rate of its actor"),
            Argument("warmup", 100, "episodes with random actions before it learns"),
            Argument("discount", 1.0, "discount of later rewards"),
            Argument("bsize", 64, "batch size of its training"),
            Argument("rmsize", 100, "size of its memory, for each layer"),
            Argument("window_length", 1, "steps that one observation spans"),
            Argument("tau", 0.01, "how fast its target networks follow"),
            Argument("init_delta", 0.5, "noise of the actions at first"),
            Argument("delta_decay", 0.99, "the noise is multiplied by this after each episode"),
            Argument("train_episode", 800, "episodes; each evaluates one candidate"),
            Argument("max_episode_length", 1e9, "has no effect in NNI either: an episode is as long as the model"),
            Argument("epsilon", 50000, "has no effect in NNI either"),
            Argument("seed", None, "seed of numpy and torch for the search"),
            Argument("output_dir", None, "folder for the agent's weights; they are not kept without one"),
            Argument("model_type", "mobilenet", "taken for old scripts; which layers are tied is read off the model"),
            Argument("dataset", "cifar10", "taken for old scripts; NNI names a folder after it"),
            Argument("suffix", None, "taken for old scripts; NNI names a folder after it"),
            Argument("debug", False, "taken for old scripts"),
            _LONG_TIMEOUT,
        ),
        ("Conv2d", "Linear"),
        True,
        "He et al., AMC: AutoML for Model Compression and Acceleration on Mobile Devices, ECCV 2018",
        keys=(),
        needs=(),
        without_entries=({"op_types": ["default"]},),
        per_layer=False,
        instead="group_l1",
    ),
)
