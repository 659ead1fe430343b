"""Keys of NNI, Torch-Pruning, Optuna and the like: known by name, each with what is written for it here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from raycompress.catalog import CompressorEntry

Advice = Callable[[Any, CompressorEntry | None], str]
"""Makes the fix from the key's value and the experiment's compressor, where that is known."""


def foreign_entry_key(key: str, value: Any, compressor: CompressorEntry | None) -> str:
    """Return what to write for a key of another tool's entry of config_list; empty for keys that no tool has."""
    advice = _ENTRY.get(key)
    return "" if advice is None else advice(value, compressor)


def foreign_top_key(key: str) -> str:
    """Return what to write for a key of another tool's experiment; empty for keys that no tool has."""
    return _TOP.get(key, "")


def _share(value: Any, compressor: CompressorEntry | None) -> str:
    """The share to remove of each layer."""
    amount = _amount(compressor)
    if not amount:
        return _goes(compressor)
    is_share = isinstance(value, float) and 0 <= value < 1
    return f'write "{amount}": {value}' if is_share else f'write "{amount}": 0.5, the share of each layer that goes'


def _share_together(value: Any, compressor: CompressorEntry | None) -> str:
    """The share to remove of all layers together."""
    fix = _share(value, compressor)
    if compressor is None or not _amount(compressor):
        return fix
    if compressor.argument("global") is not None:
        return f'{fix}, and "arguments": {{"global": true}}, with which it counts over all layers together'
    return f"{fix}, which counts for each layer; {_TOGETHER}"


_TOGETHER = 'compressors with the argument "global", such as "group_l1", count it over all layers together'


def _amount(compressor: CompressorEntry | None) -> str:
    keys = ("sparsity",) if compressor is None else compressor.keys
    return next((key for key in ("sparsity", "final_sparsity") if key in keys), "")


def _goes(compressor: CompressorEntry | None) -> str:
    if compressor is None or not compressor.keys:
        return "remove it"
    return f"remove it; {compressor.name} has {', '.join(compressor.keys)}"


def _by_pattern(_value: Any, _compressor: CompressorEntry | None) -> str:
    return 'write "op_names" with the layers\' names in full, as model.named_modules() has them: no patterns are read'


def _excluding(key: str) -> Advice:
    def advice(value: Any, _compressor: CompressorEntry | None) -> str:
        names = value if isinstance(value, list) and all(isinstance(name, str) for name in value) else ["..."]
        return f"remove it, and add an entry after this one: {json.dumps({'exclude': True, key: names})}"

    return advice


def _layers(key: str) -> Advice:
    def advice(value: Any, _compressor: CompressorEntry | None) -> str:
        names = [value] if isinstance(value, str) else value
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return f'write "{key}": {json.dumps(names if known else ["..."], ensure_ascii=False)}'

    return advice


def _excluding_pattern(_value: Any, _compressor: CompressorEntry | None) -> str:
    return 'remove it, and add an entry after this one: {"exclude": true, "op_names": [...]}, with names in full'


def _bounded(_value: Any, compressor: CompressorEntry | None) -> str:
    amount = _amount(compressor)
    if not amount:
        return _goes(compressor)
    return f'remove it; a search range bounds each layer: "{amount}": {{"type": "float", "range": [0.1, 0.9]}}'


def _quantized(_value: Any, compressor: CompressorEntry | None) -> str:
    if compressor is not None and {"quant_types", "quant_bits"} <= set(compressor.keys):
        return 'remove it; "quant_types": ["weight"] and "quant_bits": 8 say what is quantized, and how finely'
    return _goes(compressor)


def _simply_goes(_value: Any, compressor: CompressorEntry | None) -> str:
    return _goes(compressor)


_ENTRY: Mapping[str, Advice] = {
    **dict.fromkeys(("sparsity_per_layer", "sparse_ratio"), _share),  # NNI
    **dict.fromkeys(("pruning_ratio", "prune_ratio", "ch_sparsity", "channel_sparsity"), _share),  # Torch-Pruning
    **dict.fromkeys(("amount", "target_sparsity", "pruning_rate", "prune_rate"), _share),  # torch, TFMOT
    "total_sparsity": _share_together,
    **dict.fromkeys(("op_names_re", "op_partial_names", "op_name_re", "module_names_re"), _by_pattern),
    "exclude_op_names": _excluding("op_names"),
    "exclude_op_types": _excluding("op_types"),
    "exclude_op_names_re": _excluding_pattern,
    **dict.fromkeys(("layers", "layer", "modules", "module_names", "layer_names", "names"), _layers("op_names")),
    **dict.fromkeys(("types", "layer_types", "module_types", "layer_type"), _layers("op_types")),
    **dict.fromkeys(("max_sparsity_per_layer", "max_sparse_ratio", "min_sparse_ratio"), _bounded),
    **dict.fromkeys(("target_names", "target_settings"), _quantized),
    **dict.fromkeys(("sparse_threshold", "granularity", "global_group_id", "dependency_group_id"), _simply_goes),
    **dict.fromkeys(("align", "apply_method", "internal_metric_block", "fuse_names", "block_sparse"), _simply_goes),
}
_TOP: Mapping[str, str] = {
    **dict.fromkeys(("experimentName", "experiment_name", "study_name"), 'write "name": "..."'),
    **dict.fromkeys(("trialCommand", "trial_command", "command"), 'write "script": "train.py"'),
    **dict.fromkeys(("trialCodeDirectory", "trial_code_directory"), 'write "workingdir": "..."'),
    **dict.fromkeys(("trialConcurrency", "trial_concurrency", "max_concurrent"), 'write "n_parallel": 2'),
    **dict.fromkeys(("max_concurrent_trials", "n_jobs"), 'write "n_parallel": 2'),
    **dict.fromkeys(("maxTrialNumber", "max_trial_number", "n_trials", "max_trials"), 'write "n_samples": 10'),
    **dict.fromkeys(("maxExperimentDuration", "max_experiment_duration"), 'write "time_budget_s": 3600, in seconds'),
    **dict.fromkeys(
        ("searchSpace", "search_space"), 'write "parameter_config": [{"name": ..., "type": ..., "range": ...}]'
    ),
    **dict.fromkeys(("tuner", "sampler", "search_alg"), 'write "proposer": "optuna", or another of its names'),
    **dict.fromkeys(("assessor", "pruner"), 'write "scheduler": {"type": "asha"}, or another of its types'),
    **dict.fromkeys(("optimize_mode", "mode", "direction"), 'write "target": "max" or "min"'),
    "directions": 'write "objectives": {"accuracy": "max", "flops": "min"}',
    "metric": 'write "objectives": {"accuracy": "max"}, by the name that the script reports',
    "seed": 'write "random_seed": 0',
}
