"""An experiment's record in a notebook: a table of its trials, a view in a cell, an Optuna study, the best model."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raycompress.bundle import bundle
from raycompress.errors import BundleError
from raycompress.results.report import comparison
from raycompress.results.study import to_optuna

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from raycompress.results.record import SearchRecord


class InNotebooks:
    """The methods of `SearchRecord` for notebooks."""

    @property
    def _record(self) -> SearchRecord:
        return cast("SearchRecord", self)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: number, state, score, seconds, the reported values and the sampled dimensions."""
        import pandas as pd

        rows = [
            {
                "trial": trial.number,
                "state": str(trial.state),
                "score": trial.score,
                "seconds": trial.seconds,
                **(trial.values or {}),
                **{f"after.{name}": value for name, value in (trial.after or {}).items()},
                **trial.sample,
            }
            for _, trial in sorted(self._record.records.items())
        ]
        return pd.DataFrame(rows)

    def load(self, model: Any) -> Any:
        """Turn `model`, a fresh instance of the class that was compressed, into the best model, and return it.

        Raises
        ------
        BundleError
            No trial has saved a model, or the bundle is broken or does not fit `model`.
        """
        folder = self._record.bundle
        if folder is None:
            raise BundleError(
                "no trial of this search has saved a model",
                where=self._record.folder.reference,
                fix="call rc.save_model(compressor.export_model, ...) in the script, after its last report",
            )
        return bundle.load(folder, model)

    def to_optuna(self, study_name: str | None = None, storage: str | Path | None = None) -> optuna.Study:
        """Copy the trials into a new Optuna study; see `raycompress.results.study.to_optuna`."""
        return to_optuna(self._record, study_name, storage)

    def _repr_html_(self) -> str:
        """Return its state and its best model beside the dense one."""
        record = self._record
        ended = sum(trial.seconds is not None for trial in record.records.values())
        state = (
            f"{record.state}, {ended} of {record.header['n_trials']} trials ended, {len(record.pareto)} on the front"
        )
        table = comparison.as_table(record)
        return f"<div><p><strong>{escape(record.id)}</strong>: {escape(state)}</p>{table}</div>"
