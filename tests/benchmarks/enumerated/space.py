"""The enumerated space as an experiment has it, and the look-up of its points in place of trials."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.file_bytes import file_bytes
from raycompress.compressors.depth.inspecting import inspect_blocks
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.inspection import inspect
from raycompress.config.experiment import Experiment
from raycompress.config.objective import Judgement, Objective
from raycompress.config.search_space import SearchSpace
from raycompress.model.info import ModelInfo
from tests.benchmarks.enumerated.subject import (
    BITS,
    BLOCK,
    KINDS,
    LAYERS,
    SPARSITIES,
    TIED,
    Shape,
    data,
    dense,
    quantizer,
)
from tests.benchmarks.enumerated.table import EVERY, Point, Row, Table, read

Sample = Mapping[str, Any]
WORST = 0.5
"""The accuracy of the reference point; its bytes are those of the dense network in float."""

_FIT_S = 120.0
"""Enough to make all files that bytes are predicted by, so that searches are the same on any machine."""


@functools.cache
def experiment(seed: int = 0) -> Experiment:
    """Return the experiment whose search space this is: accuracy against bytes."""
    entries = [
        {"op_names": list(TIED.get(layer, (layer,))), "expand_op_names": False, "sparsity": _choice(SPARSITIES)}
        for layer in LAYERS
    ]
    shared = {"framework": "torch"}
    stage = quantizer([_choice(BITS)] * len(KINDS))
    stage["config_list"] = [{**entry, "expand_op_names": False} for entry in stage["config_list"]]
    text = {
        "name": "enumerated",
        "script": "train.py",
        "compression": [
            {
                **shared,
                "type": "pruning",
                "compressor": "group_l1",
                "config_list": entries,
                "arguments": {"round_to": 1},
                "depth": {"blocks": [BLOCK]},
            },
            {**shared, "type": "quantization", **stage},
        ],
        "objectives": {"accuracy": "max", "size_bytes": "min"},
        "proposer": "guided",
        "n_samples": len(EVERY) * 2 * len(SPARSITIES) ** len(LAYERS) // 10,
        "random_seed": seed,
    }
    return Experiment.from_text(json.dumps(text), Path("enumerated.json"))


def _choice(values: Iterable[Any]) -> dict[str, Any]:
    return {"type": "choice", "range": list(values)}


@functools.cache
def model_info() -> ModelInfo:
    """Return what the inspection before a guided search finds in the dense network."""
    model, stage = dense(), experiment().later[-1]
    example = Example.for_model(data()[0][0][:1], model)
    blocks = inspect_blocks(model, example, None)
    costs = cost_model(model, example, [block.name for block in blocks])
    asked = {"compressor": stage.compressor, "config_list": stage.config_list, "arguments": stage.arguments}
    known = replace(inspect(model, example), has_evaluator=True, blocks=blocks, costs=costs)
    return replace(known, file_bytes=file_bytes(model, example, costs, asked, budget_s=_FIT_S))


@functools.cache
def space() -> SearchSpace:
    """Return the dimensions: the width of each of `LAYERS`, the bits of each of `KINDS`, whether the block stays."""
    return SearchSpace.of(experiment(), model_info())


@dataclass(frozen=True, eq=False)
class Task:
    """A search of the space, whose trials are looked up.

    Attributes
    ----------
    space
        What is searched.
    table
        What each point of it comes to.
    """

    space: SearchSpace
    objective: Objective
    table: Table

    @classmethod
    @functools.cache
    def whole(cls) -> Task:
        """Return the search of the whole space."""
        return cls(space(), experiment().objective, read())

    def row(self, sample: Sample) -> Row:
        """Return what the trial of a sample finds."""
        return self.table[point_of(sample)]

    def judge(self, row: Row) -> Judgement:
        """Return the costs of a row by the objectives of the search."""
        found = self.objective.judge({"accuracy": row.accuracy, "size_bytes": row.size_bytes}, {})
        assert found is not None
        return found

    def within(self, fixed: Sample) -> SearchSpace:
        """Return the dimensions that are left where some have fixed values."""
        return SearchSpace(tuple(one for one in self.space.dimensions if one.name not in fixed), {})

    @property
    def bits(self) -> tuple[str, ...]:
        """The names of the dimensions of bits, in the order of `KINDS`."""
        return tuple(one.name for one in self.space.bits)


def point_of(sample: Sample) -> Point:
    """Return the key of the table that a sample stands for."""
    config = space().build(sample)
    sparsities = tuple(float(entry["sparsity"]) for entry in config["config_list"])
    (later,) = config["stages"]
    bits = tuple(int(entry["quant_bits"]) for entry in later["config_list"])
    return Shape(sparsities, BLOCK not in config["depth"]["drop"]), bits


def hypervolume(rows: Iterable[Row], largest: int) -> float:
    """Return the area that rows dominate: of accuracy above `WORST` by the logarithm of bytes below `largest`."""
    volume, best = 0.0, WORST
    front: list[Row] = []
    for row in sorted(rows, key=lambda one: (one.size_bytes, -one.accuracy)):
        if row.accuracy > best and row.size_bytes < largest:
            front.append(row)
            best = row.accuracy
    for row, after in itertools.zip_longest(front, front[1:]):
        end = largest if after is None else after.size_bytes
        volume += (row.accuracy - WORST) * math.log(end / row.size_bytes)
    return volume


def front_of(table: Table) -> list[Point]:
    """Return the points that no other beats in both accuracy and bytes, the smallest first."""
    found, best = [], -1.0
    for point, row in sorted(table.items(), key=lambda one: (one[1].size_bytes, -one[1].accuracy)):
        if row.accuracy > best:
            found.append(point)
            best = row.accuracy
    return found


def largest_of(table: Table) -> int:
    """Return the bytes of the dense network in float."""
    return max(row.size_bytes for row in table.values())
