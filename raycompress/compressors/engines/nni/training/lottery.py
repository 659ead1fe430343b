"""NNI's lottery_ticket: rounds of train and prune, each from the first weights again."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from raycompress.compressors.engine import PruningDecision, PruningSchedule, Request
from raycompress.compressors.engines.nni.library import config_of, load_nni, positive, quiet, with_contiguous_weights
from raycompress.compressors.engines.nni.training.trainer import optimizer_of
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, ExperimentError

__all__ = ["LotteryTicketPruner", "load_library"]

load_library = load_nni


class LotteryTicketPruner:
    """lottery_ticket."""

    def choose(self, request: Request) -> PruningSchedule:
        """Return what NNI would mask, round by round; see `raycompress.compressors.engine.Engine`."""
        wanted = {target.entry: target.settings["prune_iterations"] for target in request.targets.values()}
        rounds = wanted[min(wanted)]
        for entry, number in sorted(wanted.items()):
            if type(number) is not int or number < 1 or number != rounds:
                raise ExperimentError(
                    f"prune_iterations is {number!r}",
                    where=f"config_list[{entry}].prune_iterations",
                    fix="a whole number from 1 on, the same in every entry",
                )
        first = _First(request) if request.arguments["reset_weights"] else None
        return _Rounds(request, rounds, first)


class _First:
    """What a model, its optimizer and its scheduler were at first.

    Parameters
    ----------
    request
        Its arguments hold ``optimizer`` and, where there is one, ``lr_scheduler``.
    """

    def __init__(self, request: Request) -> None:
        if optimizer_of(request) is None:
            raise CompressionError(
                "lottery_ticket starts each round with the first weights, and with the optimizer as it was then",
                where="create_compressor",
                fix="pass optimizer=, the one that trains the model; or reset_weights=False to go on with the weights",
            )
        scheduler = request.arguments.get("lr_scheduler")
        if scheduler is not None and not hasattr(scheduler, "load_state_dict"):
            raise CompressionError(
                f"lr_scheduler is a scheduler of torch, not {type(scheduler).__name__}",
                where="create_compressor",
                fix="pass lr_scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 10), or leave it out",
            )
        holders: list[Any] = [request.model, request.arguments["optimizer"], scheduler]
        self._states = [(holder, copy.deepcopy(holder.state_dict())) for holder in holders if holder is not None]

    def restore(self) -> None:
        """Put all of them back."""
        for holder, state in self._states:
            holder.load_state_dict(copy.deepcopy(state))


class _Rounds(PruningSchedule):
    """The first round trains the dense model; each further one begins with more weights removed."""

    needs = "prune_iteration_start"

    def __init__(self, request: Request, rounds: int, first: _First | None) -> None:
        self._model: nn.Module = request.model
        self._first = first
        self._begun = 0
        self._last = rounds
        self._request = request
        config_list = [
            {**config_of(name, request.targets[name]), "prune_iterations": rounds} for name in positive(request.targets)
        ]
        self._pruner: Any = None
        if config_list:
            with quiet(request):
                model = with_contiguous_weights(clean_copy(request.model))
                self._pruner = load_nni().LotteryTicketPruner(model, config_list, None, None, reset_weights=False)

    @property
    def rounds(self) -> int:
        """One round for the dense model, then one for each of prune_iterations."""
        return self._last + 1

    def at_round(self) -> PruningDecision | None:
        """Return the weights to remove, by those that the round before trained; put the model back to its first."""
        if self._begun == self.rounds:
            raise CompressionError(
                f"prune_iteration_start() was called more often than the {self.rounds} rounds that there are",
                where="prune_iteration_start",
                fix="for _ in compressor.get_prune_iterations(): compressor.prune_iteration_start(); train(model)",
            )
        weights = self._removed() if self._pruner is not None else {}
        self._begun += 1
        if self._first is not None:
            self._first.restore()
        return PruningDecision(weights=weights) if self._begun > 1 else None

    def missing(self) -> tuple[str, str]:
        """Return how many rounds are still to begin."""
        if self._begun == self.rounds:
            return "", ""
        return (
            f"{self._begun} of {self.rounds} rounds were begun",
            "for _ in compressor.get_prune_iterations(): compressor.prune_iteration_start(); train(model)",
        )

    def _removed(self) -> dict[str, Any]:
        wrappers, live = self._pruner.get_modules_wrapper(), dict(self._model.named_modules())
        for wrapper in wrappers:
            wrapper.module.weight.data.copy_(live[wrapper.name].weight.data)
        with quiet(self._request):
            self._pruner.prune_iteration_start()
        return {wrapper.name: wrapper.weight_mask.cpu() == 0 for wrapper in wrappers}
