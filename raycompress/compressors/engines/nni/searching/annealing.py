"""NNI's simulated annealing over the shares of layers; Liu et al., AutoCompress, AAAI 2020."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from torch import nn

from raycompress.compressors.engines.nni.searching.bounds import Bound
from raycompress.compressors.engines.nni.searching.prunable import Prunable
from raycompress.compressors.engines.nni.searching.search import Goal, between, own_folder
from raycompress.compressors.masking.masks import Masks
from raycompress.errors import CompressionError, ExperimentError

_DRAWS = 100_000
"""Spreads drawn without one that fits, after which the sparsity is given up as out of reach."""

_FIRST_DRAWS = 1_000
"""Random first spreads, after which the search starts from the even one."""

_PATCHING = threading.Lock()


class BasePruner:
    """Replaces one of NNI's base pruners inside its searches: it masks a model with `prunable`.

    Parameters
    ----------
    model
        Copy that the search made, or the model itself; it is masked in place.
    config_list
        NNI's: one entry a leader, with its share.
    """

    def __init__(self, prunable: Prunable, model: nn.Module, config_list: list[dict[str, Any]]) -> None:
        self._prunable, self._model, self._masks = prunable, model, Masks(model)
        self._shares = {entry["op_names"][0]: float(entry["sparsity"]) for entry in config_list}

    def compress(self) -> nn.Module:
        """Mask, and hold the masks while the model trains."""
        self._masks.hold(self._prunable.removed(self._model, self._shares))
        return self._model

    def get_modules_wrapper(self) -> list[Any]:
        """Return nothing: no layer is wrapped."""
        return []

    def _unwrap_model(self) -> None:
        self._masks.apply()
        self._masks.release()


def entries_of(goal: Goal, prunable: Prunable) -> list[dict[str, Any]]:
    """Return NNI's config_list for a search over all leaders."""
    types = sorted({goal.targets[name].type for name in prunable.sizes})
    return [{"sparsity": goal.sparsity, "op_types": types, "op_names": list(prunable.sizes)}]


@contextlib.contextmanager
def folder_of(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the folder for what NNI writes: the user's ``experiment_data_dir``, or one that goes afterwards."""
    given = arguments.get("experiment_data_dir")
    if given is not None:
        yield str(own_folder(given))
        return
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        yield folder


def check_annealing(arguments: Mapping[str, Any]) -> None:
    """Raise ExperimentError for temperatures with which the annealing would not begin, or not end."""
    start = between(arguments, "start_temperature", 0, math.inf)
    stop = between(arguments, "stop_temperature", 0, math.inf)
    between(arguments, "cool_down_rate", 0, 1)
    between(arguments, "perturbation_magnitude", 0, math.inf)
    if stop >= start:
        raise ExperimentError(
            f"stop_temperature {stop:g} is not below start_temperature {start:g}: nothing would be searched",
            where="compression.arguments.stop_temperature",
            fix="lower stop_temperature",
        )


def anneal(
    pruning: ModuleType,
    bound: Bound,
    model: nn.Module,
    goal: Goal,
    prunable: Prunable,
    evaluator: Callable[[nn.Module], float],
    arguments: Mapping[str, Any],
) -> dict[str, float]:
    """Return the best spread that NNI's search finds: leader -> share.

    NNI sees one layer of each tied group, which counts with the weights of all.

    Raises
    ------
    CompressionError
        No spread reaches the sparsity.
    """
    with folder_of(arguments) as folder, _base(pruning, goal, prunable):
        search = pruning.SimulatedAnnealingPruner(
            copy.deepcopy(model),
            entries_of(goal, prunable),
            evaluator=evaluator,
            optimize_mode="maximize" if goal.sign > 0 else "minimize",
            base_algo=goal.base,
            start_temperature=arguments["start_temperature"],
            stop_temperature=arguments["stop_temperature"],
            cool_down_rate=arguments["cool_down_rate"],
            perturbation_magnitude=arguments["perturbation_magnitude"],
            experiment_data_dir=folder,
        )
        spread = _Spread(bound, goal, prunable, search)
        search._rescale_sparsities = spread.rescale
        search._init_sparsities = spread.start
        search._sparsities_2_config_list = spread.entries
        best = search.compress(return_config_list=True)
    return {entry["op_names"][0]: float(entry["sparsity"]) for entry in best}


class _Spread:
    """NNI's arithmetic of spreads, with groups for layers and an end.

    As in NNI, a larger group never loses a smaller share than a smaller one.
    """

    def __init__(self, bound: Bound, goal: Goal, prunable: Prunable, search: Any) -> None:
        self._bound, self._goal, self._search = bound, goal, search
        self._leaders = sorted(prunable.sizes, key=prunable.sizes.__getitem__)
        self._weights = np.array([prunable.sizes[name] for name in self._leaders], dtype=float)
        self._draws, self._evaluations = 0, -1

    def start(self) -> None:
        """Draw a first spread; the even one where chance finds none."""
        count = len(self._leaders)
        self._search._sparsities = np.full(count, self._goal.sparsity)
        for _ in range(_FIRST_DRAWS):
            drawn = self.rescale(np.random.uniform(0, 1, count), self._goal.sparsity)
            if drawn is not None and drawn[-1] < 1:
                self._search._sparsities = drawn
                return

    def rescale(self, sparsities: Any, target_sparsity: float) -> NDArray[np.float64] | None:
        """Scale shares to the sparsity of the whole; None where all are zero."""
        self._bound.check()
        if self._bound.evaluations != self._evaluations:
            self._draws, self._evaluations = 0, self._bound.evaluations
        self._draws += 1
        if self._draws > _DRAWS:
            raise CompressionError(
                f"sparsity {self._goal.sparsity:g} is out of reach: {_DRAWS} random spreads over "
                f"{len(self._leaders)} layers each had a layer lose everything",
                where="config_list",
                fix="a smaller sparsity, or a smaller perturbation_magnitude",
            )
        ordered = np.sort(np.asarray(sparsities, dtype=float))
        share = float((ordered * self._weights).sum() / self._weights.sum())
        return None if share <= 0 else ordered * (target_sparsity / share)

    def entries(self, sparsities: Any) -> list[dict[str, Any]]:
        """Return NNI's config_list of one spread."""
        shares = zip(self._leaders, np.sort(np.asarray(sparsities)), strict=True)
        return [
            {"sparsity": float(share), "op_types": [self._goal.targets[name].type], "op_names": [name]}
            for name, share in shares
            if share > 1e-6
        ]


@contextlib.contextmanager
def _base(pruning: ModuleType, goal: Goal, prunable: Prunable) -> Iterator[None]:
    """Let NNI's searches find `BasePruner` under the name of the base algorithm, for as long as the block runs."""
    from nni.algorithms.compression.pytorch.pruning.constants_pruner import PRUNER_DICT

    def base(model: nn.Module, config_list: list[dict[str, Any]]) -> BasePruner:
        return BasePruner(prunable, model, config_list)

    with _PATCHING, mock.patch.dict(PRUNER_DICT, {goal.base: base}):
        yield
