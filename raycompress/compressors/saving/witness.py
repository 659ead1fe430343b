"""Checks that the saved model is the measured one: the weights at the last report are those of the last export."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from raycompress.errors import CompressionError
from raycompress.script.context import Trial

Fingerprint = dict[str, tuple[float, float]]
"""Tensor name -> (sum, sum of squares), in float64."""

NOTE = "the script saved no model itself; this is the model of its last report, saved when the script had ended"


def same(one: Fingerprint, other: Fingerprint) -> bool:
    """Return whether two fingerprints are of the same weights, to a relative 1e-6 of each tensor's norm."""
    if one.keys() != other.keys():
        return False
    for name, (total, squares) in one.items():
        scale = 1e-6 * max(math.sqrt(squares), 1e-12)
        # the sum of squares shows a change of scale, the sum one of sign
        if abs(squares - other[name][1]) > 1e-6 * max(squares, 1e-12) or abs(total - other[name][0]) > scale:
            return False
    return True


ANOTHER = (
    "the model that the script evaluated before its last report is another model than the saved one (an average, a "
    "copy or a checkpoint with other weights): the metric is not the saved model's"
)


@dataclass(frozen=True)
class Stale:
    """A number that is reported though the model had it before its weights changed.

    Attributes
    ----------
    best, value
        The remembered number: as the script writes it, and what it is.
    last, last_value
        The number of the weights that the model has.
    """

    best: str
    value: float
    last: str
    last_value: float

    def error(self) -> CompressionError:
        """Return the error that says so."""
        return CompressionError(
            f"the script reports `{self.best}`, {self.value:.6g}, the number of an earlier epoch, and saves the "
            f"weights of the last one, whose `{self.last}` is {self.last_value:.6g}: "
            "the metric is not the saved model's",
            fix="keep the weights of the best epoch, best_weights = copy.deepcopy(model.state_dict()), and put them "
            "back before the report and the save, model.load_state_dict(best_weights); or report the last number",
        )


_LOAD = (
    "load those weights into the model that compress() returned, before apply_speedup, such as "
    "model.load_state_dict(ema.module.state_dict()); then evaluate that model, report and save"
)
CHANGED = (
    "the weights were changed between the script's last evaluation and its last report (as by an average that is put "
    "into the model for an evaluation and taken out again): the metric is not the saved model's"
)


class EvaluationsLike(Protocol):
    """Knows which model a script evaluated; see `raycompress.compressors.saving.evaluations`."""

    def other(self) -> Fingerprint | None:
        """Return the fingerprint of the model that was evaluated last, where that is another than the saved one."""

    def own(self) -> Fingerprint:
        """Return the fingerprint of the saved one."""

    def stale(self, value: float) -> Stale | None:
        """Return what is wrong where `value`, which is being reported, is the number of earlier weights."""

    def has_changed(self) -> bool:
        """Return whether its weights were changed since the last evaluation by anything but training."""

    def is_evaluated(self) -> bool:
        """Return whether it has weights that it had at an evaluation, or may have."""

    def carry_over(self, masked: Fingerprint, small: Fingerprint) -> None:
        """Note that `small` was proved to be the same function as `masked`."""


class SavedModelCheck:
    """Compares the model's fingerprints at the last report and at the last export of a trial, when it ends.

    Parameters
    ----------
    trial
        The trial; its hooks are used.
    fingerprint
        Returns the fingerprint of the compressor's model, masks applied.
    save
        Exports the compressor's model, for a script that did not, with a note of what happened.
    evaluations
        Which models the script has called; None where that is not known.
    """

    def __init__(
        self,
        trial: Trial,
        fingerprint: Callable[[], Fingerprint],
        save: Callable[[str], None],
        evaluations: EvaluationsLike | None = None,
    ) -> None:
        self._trial = trial
        self._fingerprint = fingerprint
        self._save = save
        self._reported: Fingerprint | None = None
        self._exported: Fingerprint | None = None
        self._evaluations = evaluations
        self._evaluated: Fingerprint | None = None  # of another model
        self._exported_plain: Fingerprint | None = None
        self._stale: Stale | None = None
        self._changed = False
        self.fix = "evaluate and report after the last change of the weights, then save, with nothing in between"
        """What to do where the saved model is another than the one of the last report."""
        trial.on_report.append(self._report)
        trial.on_finish.append(self._finish)

    @property
    def state(self) -> dict[str, Any]:
        """What is known of the last report, as a checkpoint of the trial holds it."""
        stale = None if self._stale is None else list(vars(self._stale).values())
        return {
            "reported": self._reported,
            "evaluated": self._evaluated,
            "exported_plain": self._exported_plain,
            "changed": self._changed,
            "stale": stale,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` was, in the process of a trial that goes on."""
        self._reported, self._evaluated = state["reported"], state["evaluated"]
        self._exported_plain, self._changed = state["exported_plain"], state["changed"]
        self._stale = None if state["stale"] is None else Stale(*state["stale"])

    def export(self) -> None:
        """Note that the model, as it is now, is being saved."""
        self._exported = self._fingerprint()
        if self._evaluations is not None and self._evaluated is not None:
            self._exported_plain = self._evaluations.own()
        if self._changed and self._evaluations is not None:
            self._changed = not self._evaluations.is_evaluated()
        self._trial.exported = True

    def carry_over(self, masked: Fingerprint, small: Fingerprint) -> None:
        """Note that `small` was proved to be the same function as `masked`."""
        if self._reported is not None and same(self._reported, masked):
            self._reported = small
        if self._evaluated is not None and same(self._evaluated, masked):
            self._evaluated = small
        if self._evaluations is not None:
            self._evaluations.carry_over(masked, small)

    def _report(self, values: Mapping[str, float]) -> None:
        objective = next(iter(values.values()))  # others may well be the best so far
        self._stale = None if self._evaluations is None else self._evaluations.stale(objective)
        self._changed = self._evaluations is not None and self._evaluations.has_changed()
        self._evaluated = None if self._evaluations is None else self._evaluations.other()
        self._reported = self._fingerprint()
        self._exported_plain = self._evaluations.own() if self._evaluations and self._evaluated else None

    def _finish(self) -> None:
        if self._reported is None or not self._trial.save_model:
            return  # a trial without a result fails by itself, which its supervisor reports
        if self._exported is None:
            self._save_what_was_reported(self._reported)
        if self._exported is None:
            raise CompressionError(
                "the script reported a result but saved no model",
                fix='call rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")',
            )
        if self._evaluated is not None:
            if self._exported_plain is not None and same(self._evaluated, self._exported_plain):
                return  # the script has loaded those weights into the saved model since
            raise CompressionError(ANOTHER, fix=_LOAD)
        if not same(self._reported, self._exported):
            raise CompressionError(
                "the model changed between the last report and the save: the metric is not the saved model's",
                fix=self.fix,
            )

        if self._changed:
            raise CompressionError(CHANGED, fix=_LOAD)
        if self._stale is not None:
            raise self._stale.error()

    def _save_what_was_reported(self, reported: Fingerprint) -> None:
        """Export the model, if it is still that of the last report and no other compressor of the trial saved one."""
        if not self._trial.exported and same(reported, self._fingerprint()):
            self._save(NOTE)
