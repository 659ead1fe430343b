"""What a pruner decided, as a checkpoint of the trial holds it: a trial that goes on removes exactly the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import containers
from raycompress.compressors.engine import PruningDecision, PruningSchedule
from raycompress.compressors.structure.coupling import SettledDecision
from raycompress.compressors.structure.slicing import Slicing
from raycompress.errors import CompressionError

_PLAIN = (bool, int, float, str, type(None), Tensor)


@dataclass
class Settled(PruningSchedule):
    """A schedule that had come to its end when the checkpoint was saved.

    Attributes
    ----------
    decision
        Its last one.
    n_rounds
        How many rounds it offered the script.
    """

    decision: PruningDecision
    n_rounds: int

    @property
    def rounds(self) -> int:
        """How many rounds `get_prune_iterations` offers the script."""
        return self.n_rounds

    def start(self) -> PruningDecision:
        """Return the decision, which does not change any more."""
        return self.decision


def state_of(
    name: str,
    decision: PruningDecision | None,
    schedule: PruningSchedule | None,
    slicing: Slicing | None,
    example: Example | None,
) -> dict[str, Any]:
    """Return a decision as plain data and tensors.

    Raises
    ------
    CompressionError
        It is not final, or not known in full.
    """
    waits = "" if schedule is None else schedule.missing()[0]
    if waits or decision is None or not (decision.weights or slicing is not None):
        raise CompressionError(f"{name} has not decided yet what goes: {waits or 'the model was not called'}")
    removal = {} if slicing is None else {"channels": slicing.removal.channels, "of": slicing.removal.of}
    return {
        **removal,
        "whole": {} if slicing is None else dict(slicing.removal.whole),
        "weights": dict(decision.weights),
        "rounds": None if schedule is None else schedule.rounds,
        "example": None if example is None or not _is_plain(example) else vars(example),
    }


def restored(state: Mapping[str, Any], model: nn.Module) -> PruningDecision | PruningSchedule:
    """Return what `state_of` was given; CompressionError where it is of another model."""
    if "channels" in state:
        decision: PruningDecision = SettledDecision(of=state["of"], channels=state["channels"], spared=state["whole"])
    else:
        modules = dict(model.named_modules())
        for layer, removed in state["weights"].items():
            if layer not in modules or modules[layer].weight.shape != removed.shape:
                raise SettledDecision.misfit(layer)
        device = next(model.parameters()).device
        decision = PruningDecision(weights={layer: one.to(device) for layer, one in state["weights"].items()})
    return decision if state["rounds"] is None else Settled(decision, state["rounds"])


def example_of(state: Mapping[str, Any], model: nn.Module) -> Example | None:
    """Return the input that the model had been seen with, on its device; None where that was not kept."""
    device = next(model.parameters()).device
    return None if state["example"] is None else Example(**state["example"]).map(lambda tensor: tensor.to(device))


def _is_plain(example: Example) -> bool:
    """Tell whether an input is of tuples, lists, dictionaries, tensors and numbers alone."""
    both = [example.args, example.kwargs]
    members = [member for one in containers(both) for member in (one.values() if isinstance(one, Mapping) else one)]
    return all(type(one) in (tuple, list, dict) or type(one) in _PLAIN for one in members)
