"""A search that is killed anywhere is resumed until it is done: nothing is lost, nothing made twice."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from raycompress.bundle import bundle
from raycompress.bundle.manifest import listed
from raycompress.config.objective import Objective
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal import journal
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.search.keeper import BestKeeper
from raycompress.search.outcome import NOTHING
from raycompress.states import TrialState
from tests.support.launching import command
from tests.support.shared_ray import run_here

TRIALS, KILLS = 8, 2
MORE_TRIALS, MORE_KILLS = 40, 20
"""In the night."""
SCRIPT = """
import sys, time
import torch
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
example = torch.randn(1, 1, 8, 8)
compressor = rc.create_compressor(model, config, dummy_input=example)
model = compressor.compress()
model(example)
time.sleep(0.1)
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
sparsity = config.config_list[0]["sparsity"]
rc.report(score=1 - (sparsity - 0.4) ** 2)
"""
RANGES = {
    "random": {"type": "float", "range": [0.15, 0.9]},
    "sequence": {"type": "choice", "range": [round(0.15 + 0.02 * number, 2) for number in range(MORE_TRIALS)]},
}


def experiment(folder, proposer, trials=TRIALS):
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    entry = {"op_types": ["Conv2d"], "sparsity": RANGES[proposer]}
    data = {
        "name": "killed",
        "script": "script.py",
        "proposer": proposer,
        "n_samples": trials,
        "n_parallel": 2,
        "random_seed": 11,
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [entry],
        },
    }
    (folder / "exp.json").write_text(json.dumps(data))
    return folder


class Shot:
    """Runs a command and kills it at a random moment, a little further than the one before."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = 0

    def journal_size(self):
        return sum(path.stat().st_size for path in self.folder.glob("raycompress_results/*/journal.jsonl"))

    def __call__(self, *words):
        """Return whether the command was killed before it ended by itself."""
        with (self.folder / "output").open("ab") as output:
            driver = subprocess.Popen(command(*words), cwd=self.folder, stdout=output, stderr=output)
        before = self.journal_size()
        further = before + self.random.randrange(1, 1500)
        while driver.poll() is None and self.journal_size() < further:
            time.sleep(0.005)
        time.sleep(self.random.uniform(0, 0.3))
        was_running = driver.poll() is None
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        self.kills += was_running
        return was_running


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("proposer", "kills"), [("random", KILLS), pytest.param("sequence", 1, marks=pytest.mark.night)]
)
def test_an_experiment_is_done_by_resuming_however_often_its_driver_is_killed(tmp_path, proposer, kills, is_nightly):
    trials, kills = (MORE_TRIALS, MORE_KILLS) if is_nightly else (TRIALS, kills)
    unkilled = run_here(experiment(tmp_path / "unkilled", proposer, trials), "launch", "exp.json")
    assert unkilled.code == 0, unkilled.err
    shot = Shot(experiment(tmp_path / "killed", proposer, trials), seed=proposer)
    shot("launch", "exp.json")
    while shot.kills < kills and shot("resume"):
        (folder,) = shot.folder.glob("raycompress_results/*/")
        states = {trial.state for trial in SearchRecord.open(folder).searched}
        assert states <= {TrialState.FINISHED, TrialState.RUNNING}
    done = run_here(shot.folder, "resume")
    assert done.code == 0, done.err
    assert shot.kills == kills
    record, expected = done.record, unkilled.record
    assert record.state == "complete"
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert [trial.sample for trial in record.searched] == [trial.sample for trial in expected.searched]
    assert [trial.score for trial in record.searched] == [trial.score for trial in expected.searched]
    ends = Counter(event["trial"] for event in journal.read(record.folder.journal) if event["event"] == "ended")
    assert ends == dict.fromkeys(range(trials + 1), 1)  # none lost, none twice
    assert record.best.number == expected.best.number
    assert record.folder.candidates() == [record.best.number]
    assert record.verified["trial"] == record.best.number
    bundle.check_hashes(record.bundle)


def begin(writer):
    """Write the beginning of a journal."""
    words = dict.fromkeys(("id", "name", "file", "script", "compressor", "proposer", "host"), "x")
    numbers = dict.fromkeys(("n_trials", "n_parallel", "pid"), 1)
    writer.append("experiment", version=1, goal="max", dimensions=[], **words, **numbers)


def candidate(folder, number):
    """Write what stands for a trial's model: files of some size, and a manifest with their hashes."""
    path = folder.candidate(number)
    path.mkdir(parents=True)
    for name in bundle.FILES[1:]:
        (path / name).write_bytes(random.Random(number).randbytes(20_000))
    size = {"params": 1, "flops": 1, "size_bytes": 1}
    manifest = {
        "format": bundle.FORMAT,
        "before": size,
        "after": size,
        "model": "Net",
        **{name: {} for name in ("versions", "compressor", "removed", "aliases", "inputs")},
        "files": listed(path, [path / name for name in bundle.FILES[1:]]),
    }
    (path / bundle.MANIFEST).write_text(json.dumps(manifest))


def promote(folder, begun):
    """Let one trial after another end, every second better than all before."""
    with_journal = folder.open_journal()
    record = SearchRecord(folder)
    keeper = BestKeeper(folder, with_journal, Objective.of_score("max"))
    keeper.restore(record)
    number = max(record.records, default=0)
    begun.set()
    while True:
        number += 1
        with_journal.append("started", trial=number, attempt=1, sample={}, config={}, baseline=False)
        candidate(folder.scratch(), number)
        folder.scratch().deliver(number, saved=True)
        score = float(number if number % 2 else number - 3)
        facts = {
            **NOTHING,
            "state": TrialState.FINISHED,
            "cause": "",
            "values": {"accuracy": score},
            "score": score,
            "seconds": 1.0,
            "saved": True,
        }
        with_journal.append("ended", trial=number, log="", **facts)
        keeper.add(number, {"accuracy": score})


def test_a_kill_at_any_moment_of_promotion_leaves_the_old_or_the_new_best_whole(tmp_path, is_nightly):
    folder = ExperimentFolder(tmp_path)
    (tmp_path / "trials").mkdir()
    writer = Journal(folder.journal)
    begin(writer)
    writer.close()
    moments = random.Random(5)
    pointed = []
    fork = multiprocessing.get_context("fork")
    for _ in range(100 if is_nightly else 30):
        begun = fork.Event()
        process = fork.Process(target=promote, args=(folder, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if folder.best_number() is None:
            continue
        record = SearchRecord(folder)
        best = record.best
        pointed.append(best.number)
        bundle.check_hashes(folder.candidate(best.number))
        ended = [trial.score for trial in record.searched if trial.state is TrialState.FINISHED]
        later = [score for score in ended if score > best.score]
        assert len(later) <= 1  # the one whose promotion the kill was in the middle of
    assert pointed == sorted(pointed)
    assert len(set(pointed)) > 10
    assert len(folder.candidates()) <= 3


def test_what_a_kill_left_is_settled(tmp_path):
    folder = ExperimentFolder(tmp_path)
    (tmp_path / "trials").mkdir()
    writer = Journal(folder.journal)
    begin(writer)
    keeper = BestKeeper(folder, writer, Objective.of_score("max"))
    for number, score in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8), (5, 0.1)):
        writer.append("started", trial=number, attempt=1, sample={}, config={}, baseline=False)
        candidate(folder, number)
        if number < 5:
            facts = {
                **NOTHING,
                "state": TrialState.FINISHED,
                "cause": "",
                "values": {"accuracy": score},
                "score": score,
                "seconds": 1.0,
                "saved": True,
            }
            writer.append("ended", trial=number, log="", **facts)
        if number == 1:
            keeper.add(number, {"accuracy": score})
    (folder.candidate(3) / bundle.WEIGHTS).write_bytes(b"lost with the machine")
    # 2 was never considered; 3 is broken, but no better; 5 had not ended
    again = BestKeeper(folder, writer, Objective.of_score("max"))
    assert again.restore(SearchRecord(folder)) == []
    assert folder.best_number() == again.number == 2
    assert folder.candidates() == [2]
    assert not folder.candidate(5).exists()
    # and now the best itself is broken: its trial must be made again
    (folder.candidate(2) / bundle.WEIGHTS).write_bytes(b"rotten")
    third = BestKeeper(folder, writer, Objective.of_score("max"))
    assert third.restore(SearchRecord(folder)) == [2]
    assert folder.best_number() is None
    assert folder.candidates() == []
    writer.close()
