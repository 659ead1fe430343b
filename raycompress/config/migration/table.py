"""Table of every key of the old tool's experiment file and what became of it.

A key stands here once; a value that has a fate of its own, such as ``"resource": "node"``, has a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from raycompress.config.text.reader import JsonPath

Fate = Literal["as it was", "renamed", "read as", "more than it was", "no meaning", "refused"]


@dataclass(frozen=True)
class OldKey:
    """One key of the old tool's file, or one value of it.

    Attributes
    ----------
    path
        Where it stands, dots between, ``[]`` for the members of a list: ``compression.config_list[].sparsity``.
    fate
        What became of it, in a word.
    became
        The same in a line.
    value
        The value that this row is about; empty for all that have no row of their own.
    """

    path: str
    fate: Fate
    became: str
    value: str = ""


_ENTRY = "compression.config_list[]"
_RAY = "Ray does what it was for"
_BRACKETS = "n_samples trials, on budgets that grow by eta up to max_iter"


def _as_it_was(prefix: str, **keys: str) -> tuple[OldKey, ...]:
    return tuple(OldKey(f"{prefix}.{key}" if prefix else key, "as it was", became) for key, became in keys.items())


def _without_meaning(prefix: str, keys: Iterable[str], why: str) -> tuple[OldKey, ...]:
    return tuple(OldKey(f"{prefix}.{key}" if prefix else key, "no meaning", why) for key in keys)


_FILE = (
    *_as_it_was(
        "",
        name="results go to raycompress_results/, into a folder of this name and the time",
        script="a Python script, arguments after it allowed; it needs no shebang and no run bit",
        workingdir="where trials find the script's files; a relative path starts at the file's folder",
    ),
    OldKey("cwd", "renamed", '"workingdir"'),
    OldKey("resource", "as it was", "one CPU core a trial, no GPU", "cpu"),
    OldKey("resource", "as it was", 'one GPU a trial; {"gpu": 0.5} lets two share one', "gpu"),
    OldKey("resource", "read as", '"cpu": which machine runs a trial is for Ray to say', "node"),
    OldKey("resource", "read as", '"cpu": which machine runs a trial is for Ray to say', "aws"),
    OldKey("resource", "read as", '"cpu"; "proposer": "passive" runs one trial in this very process', "passive"),
    *_as_it_was(
        "compression",
        framework="torch or tensorflow; only the one that is named is imported",
        type="pruning or quantization",
        compressor="every name of the old tool, and more; `raycompress compressors` lists them",
        config_list="NNI's list; of two entries for a layer the last one counts",
    ),
    OldKey("compression.config_list", "read as", "the entry that the compressor has for all layers, if any", "[]"),
)
_ENTRIES = (
    *_as_it_was(
        _ENTRY,
        op_names="names as in model.named_modules(); one that the model lacks is an error before the first trial",
        op_types='"default" too; searched without op_names, each layer of these types is a dimension of its own',
        exclude="true leaves the layers alone; false is as if it was not there",
        expand_op_names='true or false; new is "dependency", one dimension per set of tied layers',
        sparsity="a value or a search range, as every value of an entry",
        initial_sparsity="of agp",
        final_sparsity="of agp",
        start_epoch="of agp",
        end_epoch="of agp",
        frequency="of agp",
        prune_iterations="of lottery_ticket",
        quant_types="weight, input, output; what the quantizer cannot is an error",
        quant_bits='a number, or one for each part: {"weight": 8}',
        quant_start_step="of qat",
    ),
    *(
        OldKey("parameter_config", "as it was", "further hyperparameters of the script"),
        OldKey("parameter_config[].name", "as it was", "what the script finds the value under"),
        OldKey("search range: type", "as it was", "float, int (both ends included) or choice"),
        OldKey("search range: range", "as it was", "[low, high], or the values of a choice"),
        OldKey("search range: interval", "as it was", "of sequence, the step"),
        OldKey("search range: n", "as it was", "of sequence, how many values"),
    ),
)
_SEARCH = (
    OldKey("proposer", "as it was", "Ray Tune's own sampling", "random"),
    OldKey(
        "proposer",
        "more than it was",
        "the first n_samples points of the grid; the whole grid without n_samples",
        "sequence",
    ),
    OldKey("proposer", "as it was", "hyperopt's TPE, through Ray Tune", "hyperopt"),
    OldKey("proposer", "read as", "a Gaussian process, Optuna's, through Ray Tune", "spearmint"),
    OldKey("proposer", "more than it was", _BRACKETS, "hyperband"),
    OldKey("proposer", "more than it was", f"{_BRACKETS}; needs pip install 'raycompress[bohb]'", "bohb"),
    OldKey("proposer", "read as", "one trial in this very process, for debugging", "passive"),
    OldKey("proposer", "refused", "it grows architectures, and here they shrink", "eas"),
    *_as_it_was(
        "",
        n_samples="how many trials, with every proposer; the dense model is run beside them, as trial 0",
        n_parallel="how many at a time; where the machine has less, fewer run, with a note",
        target="max or min, of the first number that the script reports",
        random_seed="the same seed, the same proposals, whatever the speed of single trials",
    ),
    OldKey("engine", "as it was", "of hyperopt", "tpe"),
    OldKey("engine", "read as", '"proposer": "random"', "random"),
    OldKey("engine", "read as", '"proposer": "random"', "rand"),
    OldKey("engine", "read as", '"tpe", the one that Ray Tune runs of hyperopt', "anneal"),
    OldKey("engine", "read as", '"tpe", the one that Ray Tune runs of hyperopt', "mix"),
    *_as_it_was(
        "",
        eta="of hyperband and bohb: one trial of so many goes on",
        max_iter="of hyperband and bohb: the largest budget, which the script finds as n_iterations",
        num_samples="of bohb: how many candidates its model is asked about",
        min_points_in_model="of bohb: how many results its model needs",
        top_n_percent="of bohb: which share of the results counts as good",
        random_fraction="of bohb: share of random proposals",
        bandwidth_factor="of bohb: how far its model reaches out",
        min_bandwidth="of bohb: how narrow its model may become",
    ),
    *_without_meaning("", ("min_budget", "max_budget", "n_iterations"), "budgets follow from eta and max_iter"),
)
_AROUND = (
    *_as_it_was(
        "job_failure",
        job_retries="how often a failed trial is run again",
        ignore_fail="true: the search goes on; by default the first failure ends it",
    ),
    *_as_it_was(
        "resource_args",
        save_model="true is the default now: the best model is kept; false keeps none",
        multi_res_labels="names of the numbers in a reported list, the objective's first",
        track_intermediate_results="every result is recorded, not only the last",
    ),
    *_as_it_was(
        "resource_args.early_stop",
        aup_policy='bandit, truncation, median, curve_fitting; new is "asha"',
        aup_policy_steps="look at every so many results of a trial",
        warmup="so many first results are never looked at",
        bandit_factor="of bandit",
        truncation_percentage="of truncation",
        curve_fitting_threshold="of curve_fitting",
        curve_fitting_timeout="of curve_fitting, seconds",
        curve_fitting_max_iters="of curve_fitting: how many results a trial reports",
    ),
    *_without_meaning(
        "resource_args",
        ("reconn_wait_time", "max_retries", "async_run", "async_reconnect", "async_timeout"),
        _RAY,
    ),
    *_without_meaning("resource_args", ("shutdown", "connection_retry", "retry"), _RAY),
    *_as_it_was(
        "runtime_args",
        prescript="shell commands before the script, on every resource; what they export, the script finds",
        postscript="shell commands after the script, whether it failed or not",
        env="environment variables of the script",
    ),
    *_without_meaning("runtime_args", ("overwrite",), "every trial has a folder of its own"),
)
OLD_KEYS: tuple[OldKey, ...] = (*_FILE, *_ENTRIES, *_SEARCH, *_AROUND)
"""The table, in the order in which a file is written."""

NEW_KEYS = (
    *(
        "$schema",
        "storage",
        "export",
        "loggers",
        "baseline",
        "trial_timeout_s",
        "time_budget_s",
        "compression.arguments",
        "compression.slice",
        "compression.depth.blocks",
        "compression.depth.drop",
    ),
    *("objectives", "constraints", "on_budget", "pareto_size", "repeats", "finalists", "exploration", "scheduler"),
    *("target.runtime", "target.precision", "target.batch", "target.threads", "target.device"),
    *("target.python", "target.device_python"),
    *("resource.cpu", "resource.gpu", "resource.memory_gb", "resource.accelerator_type", "search range: log"),
    *("resource.workers", "resource.placement"),
    *(f"{_ENTRY}.quant_scheme", f"{_ENTRY}.quant_dtype", "runtime_args.own_folder"),
)
"""Keys that the old tool did not have."""


def pattern(path: JsonPath) -> str:
    """Return a path into a file as the table writes it: ``compression.config_list[].sparsity``."""
    text = ""
    for part in path:
        text += "[]" if isinstance(part, int) else f".{part}" if text else part
    return text


def old_key(path: JsonPath, value: Any) -> OldKey | None:
    """Return the row of the key at `path` with this value; None for a key that the old tool did not have."""
    where = pattern(path)
    written = "[]" if value == [] else value
    rows = [row for row in OLD_KEYS if row.path == where]
    return next((row for row in rows if row.value == written), next((row for row in rows if not row.value), None))
