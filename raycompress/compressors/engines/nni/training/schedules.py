"""NNI's agp: the share that is removed grows from epoch to epoch, while the script trains or while trainer does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from raycompress.compressors.engine import PruningDecision, PruningSchedule, Request
from raycompress.compressors.engines.nni.library import config_of, everything, load_nni, positive
from raycompress.compressors.engines.nni.masks import FILTERS, check_aware, final_masks, masks_at, only_grow
from raycompress.compressors.engines.nni.rounding import chosen, rounded
from raycompress.compressors.engines.nni.training.gathering import ALGORITHMS, Gathering
from raycompress.compressors.engines.nni.training.trainer import (
    check_epochs,
    optimizer_for_trainer,
    optimizer_of,
    train,
)
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError, ExperimentError

__all__ = ["AgpPruner", "Schedule", "load_library"]

load_library = load_nni


@dataclass(frozen=True)
class Schedule:
    """How the sparsity of one layer grows: a cubic from `initial` to `final` (Zhu and Gupta, equation 1).

    Attributes
    ----------
    initial, final
        Sparsities.
    start, end
        It begins at epoch `start`, and is at `final` before epoch `end`.
    frequency
        Epochs from one change to the next.
    """

    initial: float
    final: float
    start: int
    end: int
    frequency: int

    @property
    def last(self) -> int:
        """The epoch of the last change."""
        return self.start + (self.end - self.start - 1) // self.frequency * self.frequency

    def at(self, epoch: int) -> float:
        """Return the sparsity at `epoch`."""
        if epoch < self.start:
            return 0.0
        if epoch >= self.last:
            return self.final
        changed = epoch - (epoch - self.start) % self.frequency
        left = 1 - (changed - self.start) / (self.last - self.start)
        return self.final + (self.initial - self.final) * left**3

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str) -> Schedule:
        """Read an entry of the config_list; raises ExperimentError."""
        both = [settings[key] for key in ("sparsity", "final_sparsity") if key in settings]
        initial = settings.get("initial_sparsity", 0.0)
        start, end, frequency = (
            settings.get(key, default) for key, default in (("start_epoch", 0), ("end_epoch", 1), ("frequency", 1))
        )
        whole = all(type(number) is int for number in (start, end, frequency))
        if len(set(both)) > 1:
            what, fix = "sparsity and final_sparsity are the same thing and differ", "keep one of the two"
        elif initial > both[0]:
            what, fix = f"the schedule falls from {initial:g} to {both[0]:g}", "initial_sparsity is the smaller one"
        elif not whole or not 0 <= start < end or frequency < 1:
            what = f"start_epoch {start!r}, end_epoch {end!r}, frequency {frequency!r} are no schedule"
            fix = "whole numbers: 0 <= start_epoch < end_epoch, frequency from 1 on"
        else:
            return cls(float(initial), float(both[0]), start, end, frequency)
        raise ExperimentError(what, where=where, fix=fix)


class AgpPruner:
    """agp."""

    def choose(self, request: Request) -> PruningDecision | PruningSchedule:
        """Return what NNI would mask, epoch by epoch; see `raycompress.compressors.engine.Engine`."""
        request = rounded(request)
        algorithm, known = request.arguments["pruning_algorithm"], ("level", "slim", *FILTERS, *ALGORITHMS)
        if algorithm not in known:
            raise CompressionError(
                f'agp has no pruning_algorithm "{algorithm}"',
                where="create_compressor",
                fix=f"it has {', '.join(known)}",
            )
        load_nni()
        if request.arguments.get("trainer") is not None:
            check_aware(request, algorithm, FILTERS)
            return self._train(request, algorithm)
        check_aware(request, algorithm, (*FILTERS, *ALGORITHMS))
        for argument in ("num_iterations", "epochs_per_iteration"):
            default = request.compressor.argument(argument)
            if default is not None and request.arguments[argument] != default.default:
                raise CompressionError(
                    f"agp takes {argument} together with trainer= only",
                    where="create_compressor",
                    fix="pass trainer=, or write start_epoch, end_epoch and frequency into the config_list",
                )
        optimizer_of(request)
        return _Epochs(request, algorithm)

    def _train(self, request: Request, algorithm: str) -> PruningDecision:
        """Let NNI run the trainer; its schedule is num_iterations times epochs_per_iteration epochs long."""
        arguments, names = request.arguments, positive(request.targets)
        iterations, epochs = check_epochs(request, "num_iterations", "epochs_per_iteration")
        for name in names:
            own = [key for key in request.targets[name].settings if key not in ("sparsity", "final_sparsity")]
            if own:
                raise ExperimentError(
                    f"with trainer= num_iterations and epochs_per_iteration make the schedule, not {', '.join(own)}",
                    where=f"config_list[{request.targets[name].entry}]",
                    fix="remove these keys; or leave trainer out, and call update_epoch(epoch) at each epoch",
                )
        if iterations == 1 and epochs > 1:
            raise CompressionError(
                "agp cannot grow its masks in one iteration",
                where="create_compressor",
                fix="num_iterations from 2 on, or epochs_per_iteration=1",
            )
        if algorithm == "slim" and len({request.targets[name].sparsity for name in names}) > 1:
            raise ExperimentError(
                "agp with slim and trainer= compares all layers together: it takes one sparsity for all of them",
                where="config_list",
                fix="write one sparsity; or leave trainer out, where each entry is compared by itself",
            )
        optimizer = optimizer_for_trainer(request)
        config_list = [config_of(name, request.targets[name]) for name in names]

        def make(trainer: Any) -> Any:
            criterion = arguments.get("criterion")
            pruner = load_nni().AGPPruner(
                request.model, config_list, optimizer, trainer, criterion, iterations, epochs, algorithm
            )
            return only_grow(pruner) if algorithm in FILTERS else pruner

        return _choice(request, final_masks(request, algorithm, train(request, make)), final=True)


def _schedule(target: Target) -> Schedule:
    """Return the schedule of the layer's entry, its final sparsity replaced by the rounded one."""
    asked = Schedule.of(target.settings, f"config_list[{target.entry}]")
    return replace(asked, initial=min(asked.initial, target.sparsity), final=target.sparsity)


class _Epochs(PruningSchedule):
    """Removes channels or weights at the epochs given to `update_epoch`."""

    needs = "update_epoch"

    def __init__(self, request: Request, algorithm: str) -> None:
        self._request, self._algorithm = request, algorithm
        self._schedules = {name: _schedule(request.targets[name]) for name in positive(request.targets)}
        self._gathering = Gathering(request, algorithm, 1) if algorithm in ALGORITHMS else None
        self._epoch = 0
        self._reported = False
        self._sparsities: dict[str, float] = {}

    def start(self) -> PruningDecision | None:
        """Return what goes before anything is trained."""
        return self._at(0)

    def at_epoch(self, epoch: int) -> PruningDecision | None:
        """Return what goes from this epoch on; None where that is what went before."""
        self._reported = True
        return self._at(epoch)

    def _at(self, epoch: int) -> PruningDecision | None:
        self._epoch = max(self._epoch, int(epoch))  # the masks only grow
        sparsities = {name: schedule.at(self._epoch) for name, schedule in self._schedules.items()}
        if sparsities == self._sparsities or not any(sparsities.values()):
            return None
        self._sparsities = sparsities
        if self._gathering is not None:
            self._gathering.start()
            return None
        return self._choice(masks_at(self._request, self._algorithm, sparsities))

    def after_step(self) -> PruningDecision | None:
        """Return what goes by the batch that was just seen, for algorithms that judge by one."""
        masks = None if self._gathering is None else self._gathering.after_step(self._sparsities)
        return None if masks is None else self._choice(masks)

    def missing(self) -> tuple[str, str]:
        """Return how far the schedule came, unless it is at its end."""
        if self._gathering is not None and not self._gathering.done:
            return self._gathering.missing, "train the model after update_epoch(epoch), before this"
        if self._final:
            return "", ""
        name, schedule = next((name, one) for name, one in self._schedules.items() if one.at(self._epoch) < one.final)
        never = "" if self._reported else "the script never calls update_epoch: "
        return (
            f"{never}the schedule is at epoch {self._epoch}, with a sparsity of {schedule.at(self._epoch):.3g} of "
            f'{schedule.final:g} for "{name}"',
            f"call update_epoch(epoch) at the start of each epoch, up to epoch {schedule.last}; "
            "or write a smaller end_epoch",
        )

    @property
    def _final(self) -> bool:
        return all(schedule.at(self._epoch) >= schedule.final for schedule in self._schedules.values())

    def _choice(self, masks: Mapping[str, Tensor]) -> PruningDecision:
        return _choice(self._request, masks, self._final)


def _choice(request: Request, masks: Mapping[str, Tensor], final: bool) -> PruningDecision:
    for name, mask in masks.items():
        if not mask.any():
            raise everything(request, name, "channels" if request.compressor.removes_channels else "weights")
    if not request.compressor.removes_channels:
        return PruningDecision(weights={name: mask == 0 for name, mask in masks.items()})
    choice = chosen(request, masks)
    if not final:  # on the way, tied layers may not agree yet
        return replace(choice, asked=dict.fromkeys(choice.asked, 0), round_to=1)
    return replace(choice, asked={}) if request.arguments["pruning_algorithm"] == "slim" else choice
