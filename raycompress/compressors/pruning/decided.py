"""What a pruner decided, for another process of the trial: after a loss, from its checkpoint, and for other workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import containers
from raycompress.catalog import CompressorEntry
from raycompress.compressors.engine import PruningDecision, PruningSchedule
from raycompress.compressors.structure.coupling import SettledDecision
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.slicing import Slicing, make
from raycompress.compressors.targets.torch import Target
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
    return {
        **({} if slicing is None else removal_of(slicing)),
        "weights": dict(decision.weights),
        "rounds": None if schedule is None else schedule.rounds,
        "example": None if example is None or not _is_plain(example) else vars(example),
    }


def restored(state: Mapping[str, Any], model: nn.Module) -> PruningDecision | PruningSchedule:
    """Return what `state_of` was given; CompressionError where it is of another model."""
    if "channels" in state:
        decision: PruningDecision = _settled(state)
    else:
        modules = dict(model.named_modules())
        for layer, removed in state["weights"].items():
            if layer not in modules or modules[layer].weight.shape != removed.shape:
                raise SettledDecision.misfit(layer)
        device = next(model.parameters()).device
        decision = PruningDecision(weights={layer: one.to(device) for layer, one in state["weights"].items()})
    return decision if state["rounds"] is None else Settled(decision, state["rounds"])


def removal_of(slicing: Slicing) -> dict[str, Any]:
    """Return what a slicing removes, as plain data."""
    removal = slicing.removal
    return {"channels": removal.channels, "of": removal.of, "whole": dict(removal.whole), "notes": removal.notes}


def _settled(state: Mapping[str, Any]) -> SettledDecision:
    return SettledDecision(of=state["of"], channels=state["channels"], spared=state["whole"], notes=state["notes"])


def followed(
    state: Mapping[str, Any],
    model: nn.Module,
    example: Example,
    targets: Mapping[str, Target],
    compressor: CompressorEntry,
    graph: ChannelGraph,
) -> Slicing:
    """Return the slicing that the first worker of the trial has made and proved, its weights where it changed them."""
    made = make(model, example, _settled(state), targets, compressor, graph, proves=False)
    if state["weights"] is not None:
        model.load_state_dict(state["weights"])
    return made


def example_of(state: Mapping[str, Any], model: nn.Module) -> Example | None:
    """Return the input that the model had been seen with, on its device; None where that was not kept."""
    device = next(model.parameters()).device
    return None if state["example"] is None else Example(**state["example"]).map(lambda tensor: tensor.to(device))


def _is_plain(example: Example) -> bool:
    """Tell whether an input is of tuples, lists, dictionaries, tensors and numbers alone."""
    both = [example.args, example.kwargs]
    members = [member for one in containers(both) for member in (one.values() if isinstance(one, Mapping) else one)]
    return all(type(one) in (tuple, list, dict) or type(one) in _PLAIN for one in members)
