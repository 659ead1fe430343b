"""Recipes: writes the experiment file for a script from the targets and the layers of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycompress.catalog import CompressorEntry, find
from raycompress.config.objective import Direction
from raycompress.model.costs import CostModel
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import ModelInfo

COMPRESSOR = "group_l1"
_SPARSITY = {"type": "float", "range": [0.0, 0.9]}
_MOST_PARALLEL = 4
_MULTIPLES = (8, 4, 2)
"""The first is the compressor's default."""
_CHOICES = 4
"""So many widths, at least, that each group is left to choose from."""
_WIDTH = 100

Data = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What a compressed model is to be.

    Attributes
    ----------
    ratios
        Measured metric, such as ``flops`` -> the most that may be left of the dense model's.
    metric
        What the script reports and the search looks at; None where its names are not known.
    direction
        Which end of the metric is wanted.
    max_drop
        By how much the metric may be worse than the dense model's; None where that is left open.
    trials
        How many samples are tried.
    deployment
        What the model will be deployed on, as the key ``target`` has it; None for nothing.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    metric: str | None = None
    direction: Direction = "max"
    max_drop: float | None = None
    trials: int = 16
    deployment: Any = None

    def keys(self) -> Data:
        """Return the keys of an experiment file that say so."""
        constraints: dict[str, dict[str, float]] = {name: {"max_ratio": ratio} for name, ratio in self.ratios.items()}
        if self.metric is not None and self.max_drop is not None:
            limit = "max_drop" if self.direction == "max" else "max_rise"
            constraints[self.metric] = {limit: self.max_drop}
        there = {} if self.deployment is None else {"target": self.deployment}
        if not self.ratios:  # how good the model must be is said, so that the smallest such model is wanted
            smallest = "latency_ms" if there else "flops"
            return {"objectives": {smallest: "min"}, "constraints": constraints, **there}
        goal = {"target": self.direction} if self.metric is None else {"objectives": {self.metric: self.direction}}
        return {**goal, "constraints": constraints, **there}


def to_inspect(name: str, script: str, gpus: int) -> Data:
    """Return an experiment that is good for learning the layers of a script's model, and what they cost."""
    return _experiment(name, script, [{"sparsity": _SPARSITY, "op_types": ["default"]}], {}, gpus)


def recipe(name: str, script: str, model: ModelInfo, costs: CostModel, wanted: Wanted, *, cpus: int, gpus: int) -> Data:
    """Return an experiment that prunes all of a model that can be pruned, as the keys of its file.

    Parameters
    ----------
    name, script
        As the file is to say.
    model, costs
        The model's layers, and what its groups of channels cost.
    cpus, gpus
        What the machine has.
    """
    round_to = _round_to(_prunable(model, costs))
    # what a deployment target is fastest at is measured, and kept to where the file leaves it open
    is_left_open = wanted.deployment is not None and round_to == _MULTIPLES[0]
    arguments = {} if is_left_open else {"round_to": round_to}
    return {
        **_experiment(name, script, _config_list(model, costs), arguments, gpus),
        **wanted.keys(),
        "n_samples": wanted.trials,
        "n_parallel": max(1, min(_MOST_PARALLEL, gpus or cpus)),
        "random_seed": 0,
        "job_failure": {"ignore_fail": True},
    }


def _experiment(name: str, script: str, config_list: Sequence[Data], arguments: Data, gpus: int) -> Data:
    return {
        "name": name,
        "script": script,
        "resource": "gpu" if gpus else "cpu",
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": COMPRESSOR,
            "config_list": list(config_list),
            "arguments": arguments,
            "slice": "before",
        },
        "proposer": "guided",
    }


def _config_list(model: ModelInfo, costs: CostModel) -> list[Data]:
    """Return an entry for all layers whose channels can go, and one that leaves the others of their types alone."""
    layers = prunable_layers(model, costs)
    types = list(dict.fromkeys(layer.type for layer in model.layers if layer.name in layers))
    rest = [layer.name for layer in model.layers if layer.type in types and layer.name not in layers]
    entry = {"sparsity": _SPARSITY, "op_types": types, "expand_op_names": "dependency"}
    return [entry, *([{"op_names": rest, "exclude": True}] if rest else [])]


def prunable_layers(model: ModelInfo, costs: CostModel) -> tuple[str, ...]:
    """Return the layers whose channels can go, in the model's order; none where nothing of the model can be pruned."""
    layers = {name for group in _prunable(model, costs) for name in _tied(model, group)}
    return tuple(layer.name for layer in model.layers if layer.name in layers)


def _prunable(model: ModelInfo, costs: CostModel) -> list[ChannelGroup]:
    """Return the groups all of whose layers have weights of their own, and are of types that the compressor takes."""
    compressor = _compressor()
    taken = {layer.name for layer in model.layers if compressor.takes(layer.type, layer.base) and not layer.is_computed}
    return [group for group in costs.groups if taken.issuperset(_tied(model, group))]


def _tied(model: ModelInfo, group: ChannelGroup) -> tuple[str, ...]:
    """Return the layers of a group, and those that follow it, such as a depthwise convolution."""
    types = {layer.name for layer in model.layers if layer.weight_shape}
    tied = dict.fromkeys(name for layer in group.layers for name in (layer, *model.tie_of(layer)))
    return tuple(name for name in tied if name in types)


def _round_to(groups: Sequence[ChannelGroup]) -> int:
    """Return the largest multiple, good for hardware, that leaves every group a choice of widths."""

    def leaves_choice(multiple: int) -> bool:
        return all(
            group.size >= _CHOICES * group.multiple(multiple)
            for group in groups
            if group.parts  # 0: heads, which are not rounded
        )

    return next((multiple for multiple in _MULTIPLES if leaves_choice(multiple)), 1)


def _compressor() -> CompressorEntry:
    entry = find(COMPRESSOR, "torch")
    assert entry is not None, "it is in the catalogue"
    return entry


def as_text(value: Any, margin: str = "") -> str:
    """Return JSON for people: what fits into one line stands in one."""
    line = json.dumps(value, ensure_ascii=False)
    is_short = len(margin) + len(line) <= _WIDTH and not (isinstance(value, dict) and len(value) > 3)
    if not isinstance(value, dict | list) or (margin and is_short):
        return line
    inner = f"{margin}  "
    if isinstance(value, dict):
        members = [f"{json.dumps(key, ensure_ascii=False)}: {as_text(each, inner)}" for key, each in value.items()]
        opener, closer = "{}"
    else:
        members = [as_text(each, inner) for each in value]
        opener, closer = "[]"
    return f"{opener}\n{inner}" + f",\n{inner}".join(members) + f"\n{margin}{closer}"
