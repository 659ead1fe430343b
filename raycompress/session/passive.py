"""The proposer ``passive``: one trial in this very process, where a debugger, a profiler or a print reaches it.

No Ray, no fork, no log: the script prints to the terminal and reads from it. Everything else is as in a search: the
journal, the candidate, the verification of the best in a fresh process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycompress.config.checks.preflight import check_extras
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.results import store
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.runtime import child
from raycompress.runtime.protocol import Ending, TrialSpec, trial_config
from raycompress.runtime.trial_messages import TrialMessages
from raycompress.script import context
from raycompress.search.keeper import BestKeeper
from raycompress.search.outcome import delivered, facts_of, sealed
from raycompress.search.watch.view import SearchView
from raycompress.session.header import header
from raycompress.session.prepare import unexpanded
from raycompress.session.script_run import compression_config, trial_template
from raycompress.session.verify import verify_again
from raycompress.states import TrialState

NUMBER = 1
"""Of the trial; the dense model has none here."""


def launch_here(experiment: Experiment, view: SearchView) -> SearchRecord:
    """Run a passive experiment: one trial, every search range at its middle; return its record.

    Raises
    ------
    BundleError
        The saved model, reloaded, does not give the outputs that were saved with it.
    """
    check_extras(experiment)
    for note in experiment.accepted:
        view.note(note)
    store.check(experiment.storage)
    space = SearchSpace.of(unexpanded(experiment))
    sample = space.centre()
    view.note("passive: one trial in this process, " + ("every range at its middle" if sample else "without a search"))
    if experiment.loggers:
        view.note(f"a passive trial is not told to {' and '.join(experiment.loggers)}, which need Ray")
    folder = store.create(experiment.storage, experiment.name)
    journal = folder.open_journal()
    try:
        journal.listen(view.event)
        journal.append("experiment", **header(experiment, space, folder, n_trials=1, n_slots=1))
        folder.write(folder.experiment, experiment.text)
        state = _run_trial(experiment, space.build(sample), sample, folder, journal)
        record = SearchRecord(folder)
        if record.best_number is not None:
            journal.append("verified", **verify_again(experiment, record, view))
        stopped = state == TrialState.STOPPED
        journal.append("finished", reason="stopped" if stopped else "complete", detail="stopped by SIGINT" * stopped)
    finally:
        journal.close()
    return SearchRecord(folder)


def _run_trial(
    experiment: Experiment, built: dict[str, Any], sample: dict[str, Any], folder: ExperimentFolder, journal: Journal
) -> TrialState:
    """Run the only trial and write down what became of it."""
    template = trial_template(experiment)
    scratch = folder.scratch()
    saves_into = scratch.candidate(NUMBER) if template["save_model"] else None
    config = trial_config(compression_config(experiment), built, number=NUMBER, saves_into=saves_into)
    spec = TrialSpec(**template, mode="trial", config=config, folder=str(scratch.trial(NUMBER)), seed=experiment.seed)
    journal.append("started", trial=NUMBER, attempt=1, sample=sample, config=config, baseline=False, slot=0)
    ending = _run(spec)
    facts = facts_of(ending, experiment.objective, baseline=False, seconds=ending.seconds)
    if facts["saved"]:
        facts = sealed(scratch, {"number": NUMBER, "sample": sample, "seed": spec.seed}, facts)
    facts = delivered(scratch, NUMBER, facts)
    scratch.clear()
    journal.append("ended", trial=NUMBER, log=folder.place(folder.log(NUMBER)), **facts)
    if facts["saved"] and facts["score"] is not None:
        keeper = BestKeeper(folder, journal, experiment.objective)
        keeper.consider(NUMBER, facts["values"], facts["before"], facts["after"])
    else:
        folder.remove_candidate(NUMBER)
    return ending.state


def _run(spec: TrialSpec) -> Ending:
    """Run the script here, as a forked child would, and return how it ended."""
    spec.config_path.parent.mkdir(parents=True, exist_ok=True)
    spec.config_path.write_text(json.dumps(spec.config, indent=2) + "\n", encoding="utf-8")
    spec.log_path.write_text("a passive trial: what it printed went to the terminal\n", encoding="utf-8")
    received = TrialMessages(spec.mode)
    started = time.monotonic()
    with _process_left_as_it_was():
        code = child.run_script(spec, lambda message: received.add(dict(message)))
    failure = received.failure or {"frame": "", "error": ""}
    state, cause = received.verdict(code)
    if failure["error"] == "KeyboardInterrupt":
        state, cause = TrialState.STOPPED, "stopped by SIGINT"
    return Ending(
        state=state,
        cause=cause,
        log=spec.log_path,
        seconds=time.monotonic() - started,
        exit_code=code,
        frame=failure["frame"],
        values=received.values,
        candidate=received.candidate,
    )


@contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    folder, arguments, path, environment = Path.cwd(), sys.argv, list(sys.path), dict(os.environ)
    main, modules = sys.modules["__main__"], set(sys.modules)
    try:
        yield
    finally:
        context.enter(None)
        sys.modules["__main__"] = main
        for name in [name for name in set(sys.modules) - modules if name.partition(".")[0] == "aup"]:
            del sys.modules[name]
        sys.argv, sys.path[:] = arguments, path
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
