"""Pruners that rank filters by statistics of a few training batches: of activations, or of gradients.

NNI is imported with ``trainer=``, by which it trains the model itself, and for ``dependency_aware``.
"""

from __future__ import annotations

from raycompress.compressors.engine import PruningDecision, PruningSchedule, Request
from raycompress.compressors.engines.nni.library import load_nni
from raycompress.compressors.engines.nni.rounding import chosen, rounded
from raycompress.compressors.engines.nni.training.gathering import Gathering, make_pruner
from raycompress.compressors.engines.nni.training.trainer import optimizer_for_trainer, optimizer_of, train
from raycompress.errors import CompressionError

_ALGORITHMS = {
    "activation_apoz_rank_filter": "apoz",
    "activation_mean_rank_filter": "mean_activation",
    "taylor_fo_weight_filter": "taylorfo",
}


class StatisticsPruner:
    """activation_apoz_rank_filter, activation_mean_rank_filter and taylor_fo_weight_filter."""

    def choose(self, request: Request) -> PruningDecision | PruningSchedule:
        """Return what goes after some batches; see `raycompress.compressors.engine.Engine`."""
        request = rounded(request)
        algorithm, batches = _ALGORITHMS[request.compressor.name], batches_of(request)
        if request.arguments.get("trainer") is not None:
            return self._train(request, algorithm, batches)
        optimizer_of(request)
        return _Gathered(request, Gathering(request, algorithm, batches))

    def _train(self, request: Request, algorithm: str, batches: int) -> PruningDecision:
        load_nni()
        optimizer, criterion = optimizer_for_trainer(request), request.arguments.get("criterion")
        steps: list[int] = []
        handle = optimizer.register_step_post_hook(lambda *_: steps.append(1))
        try:
            pruner = train(
                request,
                lambda trainer: make_pruner(request, request.model, algorithm, batches, optimizer, trainer, criterion),
            )
        finally:
            handle.remove()
        wrappers = pruner.get_modules_wrapper()
        if len(steps) < batches or not all(wrapper.if_calculated for wrapper in wrappers):
            raise CompressionError(
                f"{request.compressor.name} needs {batches} batches, and trainer made {len(steps)} steps of the "
                "optimizer that it was handed",
                where="compress",
                fix="train the model that trainer is handed with that optimizer, or lower statistics_batch_num",
            )
        return chosen(request, {wrapper.name: wrapper.weight_mask for wrapper in wrappers})


class _Gathered(PruningSchedule):
    """Decides once enough batches were seen."""

    def __init__(self, request: Request, gathering: Gathering) -> None:
        self._request = request
        self._gathering = gathering

    def start(self) -> None:
        """Begin to gather; nothing is removed yet."""
        self._gathering.start()

    def after_step(self) -> PruningDecision | None:
        """Return the channels to remove, at the step after which enough was seen."""
        masks = self._gathering.after_step()
        return None if masks is None else chosen(self._request, masks)

    def missing(self) -> tuple[str, str]:
        """Return how many batches are still to come."""
        if self._gathering.done:
            return "", ""
        return self._gathering.missing, "train the model after compress(), before this; or lower statistics_batch_num"


def batches_of(request: Request) -> int:
    """Return how many batches to see; raises CompressionError where that is no number of batches."""
    given = {
        key: request.arguments[key]
        for key in ("statistics_batch_num", "sparsifying_training_batches")
        if request.arguments.get(key) is not None
    }
    if given.get("statistics_batch_num") == 1 and len(given) == 2:
        del given["statistics_batch_num"]  # the default, under the older of the two names
    batches = set(given.values())
    if len(batches) != 1 or not all(type(number) is int and number > 0 for number in batches):
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise CompressionError(
            f"how many batches to see is not clear: {shown}",
            where="create_compressor",
            fix="pass one of the two, a whole number from 1 on",
        )
    return int(batches.pop())
