"""Two Optuna processes on one journal file, half of the trials each, in-process and with no isolation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STUDY = "digits"


def worker(journal: str, n_trials: int, seed: int) -> None:
    """Run `n_trials` trials; sparsities come from the range of the experiment, at random."""
    from tests.benchmarks.overhead import trial_config
    from tests.benchmarks.peers.body import run_body

    def objective(trial: optuna.Trial) -> float:
        return run_body(trial_config(lambda layer: trial.suggest_float(f"{layer}.sparsity", 0.1, 0.9)))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=STUDY,
        storage=JournalStorage(JournalFileBackend(journal)),
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    study.optimize(objective, n_trials=n_trials)


def main() -> None:
    n_trials = len(json.loads(Path(sys.argv[1]).read_text()))
    journal = str(Path("journal.log").absolute())
    storage = JournalStorage(JournalFileBackend(journal))
    study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    workers = []
    for seed in range(2):
        folder = Path(f"worker{seed}")
        folder.mkdir()
        share = n_trials // 2 + (seed < n_trials % 2)
        command = [sys.executable, "-m", "tests.benchmarks.peers.optuna_journal", "--worker", journal, str(share)]
        workers.append(subprocess.Popen([*command, str(seed)], cwd=folder, env=dict(os.environ)))
    codes = [process.wait() for process in workers]
    if any(codes):
        sys.exit("a worker failed")
    print(json.dumps({"trials": len(study.trials), "best": study.best_value}))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
