"""One-time experiments as `raycompress run` runs them, without Ray: checked, inspected, run, sealed, verified.

All experiments of one framework share a process that their trials are forked from, so that each costs seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycompress.bundle import bundle
from raycompress.config.checks import preflight
from raycompress.config.checks.preflight import check_extras
from raycompress.config.experiment import Experiment
from raycompress.config.trial_config import trial_config
from raycompress.results.folder import ExperimentFolder
from raycompress.runtime.client import WarmProcess, Worker
from raycompress.runtime.protocol import Ending, TrialSpec
from raycompress.session import prepare as preparing
from raycompress.session import script_run
from raycompress.states import TrialState


class Told:
    """Takes what the terminal would show."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def event(self, event: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment.

    Attributes
    ----------
    ending
        Of its trial, with the end of the log.
    candidate
        The folder of the saved model.
    verified
        What a fresh process says of it; None where there is no model.
    seen
        The file that the script found in ``sys.argv[1]``.
    """

    experiment: Experiment
    ending: Ending
    candidate: Path
    verified: dict[str, Any] | None
    seen: Path
    notes: list[str]


class Bench:
    """Runs experiments of one framework that lie in `home`, one after another.

    Parameters
    ----------
    home
        The folder of the experiments, which is their working directory as well.
    framework
        ``torch`` or ``tensorflow``.
    """

    def __init__(self, home: Path, framework: str) -> None:
        found = [preflight.load_checked(path) for path in sorted(home.glob("*.json"))]
        specs = [script_run.warm_spec(each) for each in found if each.compression.framework == framework]
        # what one of the scripts imports, or one of the engines, all of them find imported
        preload = tuple(dict.fromkeys(item for spec in specs for item in spec.preload))
        self._process = WarmProcess.start(replace(specs[0], preload=preload))
        self._worker = self._process.connect()

    @property
    def worker(self) -> Worker:
        """The client of the process."""
        return self._worker

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def run(self, file: Path, storage: Path) -> Outcome:
        """Run a one-time experiment, or the trial in the middle of an automatic one's ranges.

        Parameters
        ----------
        storage
            An empty folder for what is saved.
        """
        told = Told()
        experiment = preflight.load_checked(file)
        check_extras(experiment)
        preparing.report_preload(self._worker.wait_ready(), experiment, told)
        model = preparing.inspect(experiment, self._worker)
        space = preparing.checked_space(experiment, model, told)
        template = script_run.trial_template(experiment)
        folder = ExperimentFolder(storage)
        spec = TrialSpec(
            **template,
            mode="trial",
            config=trial_config(
                script_run.compression_config(experiment),
                space.build(space.centre()),
                number=1,
                saves_into=folder.candidate(1) if template["save_model"] else None,
            ),
            folder=str(folder.trial(1)),
            seed=experiment.seed,
        )
        *_, ending = self._worker.run(spec)
        assert isinstance(ending, Ending)
        ending = ending.with_tail()
        verified = None
        if ending.state is TrialState.FINISHED and ending.candidate is not None:
            bundle.seal(folder.candidate(1), {"trial": 1, "metrics": ending.values})
            config = {key: value for key, value in spec.config.items() if key != "folder_name"} | {"save_model": False}
            verified, verification = script_run.run_for_answer(
                self._worker, experiment, "verify", config, answer="verified", bundle=str(folder.candidate(1))
            )
            assert verified is not None, f"{verification.cause}\n{verification.tail}"
        return Outcome(experiment, ending, folder.candidate(1), verified, spec.config_path, told.notes)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return size, time of change and mode of each file below `folder`; Python's own caches are left out."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_mode)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }
