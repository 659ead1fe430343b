"""What the searching pruners share: their goal and arguments, checked, and the first evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.searching.prunable import SCORES, Prunable, SingleWeights, TiedChannels
from raycompress.compressors.masking.masks import FirstCall
from raycompress.compressors.structure import slicing
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError, ExperimentError, Problem
from raycompress.script import context

MODES = ("maximize", "minimize")


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Attributes
    ----------
    sparsity
        Share of the weights of all layers of the config_list, together, that is to go.
    targets
        Those layers; one with a sparsity of its own of 0 is not among them.
    base
        How weights are ranked: a key of `SCORES`, or ``level``.
    sign
        1 where a larger answer of the evaluator is better, -1 where a smaller one is.
    """

    sparsity: float
    targets: Mapping[str, Target]
    base: str
    sign: int

    def prunable(self, request: Request, model: nn.Module, example: Example | None) -> Prunable:
        """Return what can be pruned of `model`; `example` may be missing for single weights only."""
        if self.base == "level":
            return SingleWeights(model, self.targets)
        assert example is not None
        channels = TiedChannels(model, example, self.targets, request.compressor, self.base)
        rehearse(request, model, example, channels, self.targets)
        return channels


def goal_of(request: Request, bases: tuple[str, ...]) -> Goal:
    """Read what `request` asks for.

    Raises
    ------
    ExperimentError
        Entries with several sparsities, none above 0, or an unknown ``base_algo`` or ``optimize_mode``.
    """
    name, arguments = request.compressor.name, request.arguments
    problems = []
    for key, known in (("base_algo", bases), ("optimize_mode", MODES)):
        value = arguments.get(key, known[0])
        if value not in known:
            fix = "use one of " + ", ".join(f'"{one}"' for one in known)
            problems.append(Problem(f"{name} knows no {key} {value!r}", f"compression.arguments.{key}", fix))
    targets = {layer: target for layer, target in request.targets.items() if target.sparsity > 0}
    sparsities = sorted({target.sparsity for target in targets.values()})
    if len(sparsities) != 1:
        found = "several sparsities, " + ", ".join(f"{one:g}" for one in sparsities) if sparsities else "none above 0"
        fix = "write one sparsity for all; a layer that must not be pruned is left out, or excluded"
        problems.append(
            Problem(f"{name} spreads one sparsity over all layers, and there are {found}", "config_list", fix)
        )
    if problems:
        raise ExperimentError.of(problems)
    sign = -1 if arguments.get("optimize_mode") == "minimize" else 1
    return Goal(sparsities[0], targets, arguments.get("base_algo", bases[0]), sign)


BASES = (*SCORES, "level")


def first_evaluation(model: nn.Module, evaluate: Callable[[], Any], given: Example | None) -> Example:
    """Call the evaluator once, before anything is searched: it shows an input of the model, and that it works.

    Raises
    ------
    CompressionError
        It did not call the model, and there is no dummy_input either.
    """
    seen: list[Example] = []
    hook = FirstCall(seen.append).watch(model)
    try:
        evaluate()
    finally:
        hook.cancel()
    if not seen and given is None:
        raise CompressionError(
            "the evaluator did not call the model that it was given",
            where="create_compressor(evaluator=)",
            fix="evaluate the argument: def evaluator(model): ...",
        )
    return given if given is not None else seen[0]


def rehearse(
    request: Request, model: nn.Module, example: Example, prunable: TiedChannels, targets: Mapping[str, Target]
) -> None:
    """Slice a copy with half of everything gone, so that what cannot be sliced is an error before the search.

    Raises
    ------
    SpeedupError
        As `raycompress.compressors.structure.slicing.make`.
    """
    half = prunable.choice(model, dict.fromkeys(prunable.sizes, 0.5))
    slicing.make(model, example, half, targets, request.compressor)


def own_folder(given: Any) -> Path:
    """Return the folder for what a search writes.

    Trials share their working directory: a relative path is one in the trial's own folder instead.
    """
    trial, folder = context.current(), Path(given)
    is_inside = not folder.is_absolute() and ".." not in folder.parts
    return trial.candidate.parent / folder if trial is not None and is_inside else folder


def between(arguments: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Return an argument that must be a number with low < number < high; raises ExperimentError where it is not."""
    value = arguments[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise ExperimentError(
            f"{name} is a number above {low:g} and below {high:g}, not {value!r}",
            where=f"compression.arguments.{name}",
            fix=f"change {name}",
        )
    return value


def whole(arguments: Mapping[str, Any], name: str) -> int:
    """Return an argument that must be a whole number above 0; raises ExperimentError where it is not."""
    value = arguments[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ExperimentError(
            f"{name} is a whole number above 0, not {value!r}",
            where=f"compression.arguments.{name}",
            fix=f"change {name}",
        )
    return value
