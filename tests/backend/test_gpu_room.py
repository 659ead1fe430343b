"""Trials that share a GPU: one that exhausts its memory is made again alone."""

import json
import os
import subprocess
import sys
import threading
import time

from raycompress.backend.tune.trainable import room
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import REPOSITORY, number_experiment


def test_who_is_alone_waits_for_the_others_and_lets_nobody_in():
    environment = {"CUDA_VISIBLE_DEVICES": "7,8"}
    order = []

    def be_there(name, alone, leave, device="8"):
        with room({"CUDA_VISIBLE_DEVICES": device}, alone=alone):
            order.append(f"{name} in")
            leave.wait(30)
            order.append(f"{name} out")

    leave = threading.Event()
    gone = threading.Event()
    gone.set()
    first = threading.Thread(target=be_there, args=("shared", False, leave))
    with room(environment, alone=False):
        first.start()
        wait_for(lambda: order == ["shared in"])
        alone = threading.Thread(target=be_there, args=("alone", True, gone))
        alone.start()
        time.sleep(0.3)
        late = threading.Thread(target=be_there, args=("late", False, gone))
        late.start()
        elsewhere = threading.Thread(target=be_there, args=("elsewhere", True, gone, "9"))
        elsewhere.start()
        elsewhere.join(30)
        assert order == ["shared in", "elsewhere in", "elsewhere out"]
        leave.set()
        first.join(30)
        assert order[3:] == ["shared out"]  # and still in here: nobody is alone
    alone.join(30)
    late.join(30)
    assert order[4:] == ["alone in", "alone out", "late in", "late out"]


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# three of these fit on the GPU, as if each took what its x says of its memory: a file stands for what is taken
SCRIPT = """
import fcntl, json, os, sys, time
from pathlib import Path
import torch
import raycompress as rc

config = rc.BasicConfig().load(sys.argv[1])
book = open(Path(__file__).with_name("taken.json"), "a+")
refused = Path(__file__).with_name("refused")  # made when trial 2 has met the others


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def taken_by_others():
    book.seek(0)
    return json.loads(book.read() or "0") > 0


def take(share):
    fcntl.flock(book, fcntl.LOCK_EX)
    book.seek(0)
    taken = json.loads(book.read() or "0")
    fits = taken + share <= 1
    if fits:
        book.truncate(0)
        book.write(json.dumps(taken + share))
        book.flush()
    fcntl.flock(book, fcntl.LOCK_UN)
    if not fits:
        refused.touch()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


if config.job_id != 0:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    share = {1: 0.2, 2: 0.9, 3: 0.2, 4: 1.5}[config.job_id]
    if config.job_id == 2 and not refused.exists():
        wait_until(taken_by_others)
    take(share)
    if config.job_id in (1, 3):
        wait_until(refused.exists)
    take(-share)
rc.report(score=config.x)
"""

DRIVER = """
import os, sys
from raycompress.cli.view.live import LiveView
from raycompress.config.experiment import Experiment
from raycompress.backend.ray import local as local_ray
from raycompress.session.launch import launch

os.environ.update(local_ray.ENVIRONMENT)
import ray


class OneGpu:
    def __enter__(self):
        ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)

    def __exit__(self, *error):
        ray.shutdown()

    def nodes(self):
        return [ray.cluster_resources()]


with LiveView() as view:
    print(launch(Experiment.load(sys.argv[1]), view, ray=OneGpu()).folder.root)
"""


def test_out_of_memory_beside_others_is_tried_alone(tmp_path):
    more = {
        "parameter_config": [{"name": "x", "type": "float", "range": [0, 1]}],
        "resource": {"cpu": 0.25, "gpu": 0.25},
        "job_failure": {"ignore_fail": True},
        "n_samples": 4,
        "n_parallel": 3,
        "runtime_args": {"own_folder": False},  # the book is one for all trials
    }
    path = number_experiment(tmp_path, SCRIPT, **more)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    record = SearchRecord.open(done.stdout.strip().splitlines()[-1])
    states = {trial.number: trial.state for trial in record.searched}
    assert states == {**dict.fromkeys((1, 2, 3), TrialState.FINISHED), 4: TrialState.OUT_OF_MEMORY}
    assert {trial.number: trial.attempts for trial in record.searched} == {1: 1, 2: 2, 3: 1, 4: 2}
    lines = record.folder.journal.read_text().splitlines()
    causes = {event["trial"]: event["cause"] for event in map(json.loads, lines) if event["event"] == "retried"}
    assert causes[2].endswith("; once more, alone on its GPU")
