"""Verification of the best bundle: reloaded in a fresh process, it must give the outputs that were saved with it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from raycompress.bundle.bundle import TOLERANCE
from raycompress.config.experiment import Experiment
from raycompress.errors import BundleError
from raycompress.results.record import SearchRecord
from raycompress.runtime.client import WarmProcess, Worker
from raycompress.search.watch.view import View
from raycompress.session.script_run import last_lines, run_for_answer, warm_spec


def verify(experiment: Experiment, worker: Worker, record: SearchRecord) -> dict[str, Any]:
    """Reload the best bundle into the script's own model, in a fresh process, and compare and measure it.

    Returns
    -------
    ``trial``, ``relative_difference`` of the outputs, ``before`` and ``after`` with their sizes and latency.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, or does not give the outputs that were saved with it.
    """
    best, bundle = record.best, record.bundle
    assert best is not None and bundle is not None
    # the folder of the saved model is not one that the script may write into again
    config = {**best.config, "save_model": False}
    config.pop("folder_name", None)
    found, ending = run_for_answer(worker, experiment, "verify", config, answer="verified", bundle=str(bundle))
    if found is None:
        raise BundleError(
            f"the best model cannot be verified: {ending.cause}",
            where=str(bundle),
            fix=last_lines(ending),
        )
    difference = found["relative_difference"]
    if not difference <= TOLERANCE:
        raise BundleError(
            f"the best model, reloaded, gives other outputs than the saved ones (relative difference {difference:.2g})",
            where=str(bundle),
            fix="set what the model computes with before create_compressor, or keep it in parameters and buffers",
        )
    return {"trial": best.number, **{name: value for name, value in found.items() if name != "type"}}


def verify_again(experiment: Experiment, record: SearchRecord, view: View) -> dict[str, Any]:
    """Verify the best bundle of an earlier search; see `verify`."""
    view.phase("loading the script's libraries")
    with closing(WarmProcess.start(warm_spec(experiment))) as process, closing(process.connect()) as worker:
        view.phase("verifying the best model in a fresh process")
        return verify(experiment, worker, record)
