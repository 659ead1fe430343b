"""TensorBoard, MLflow and W&B, the real libraries: what they wrote of a search is read back with their own."""

import json
import threading

import pytest
from ray.tune.logger import LoggerCallback

from raycompress.backend.tune.loggers import set_up
from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.results.store import create
from raycompress.search.watch import loggers
from tests.support.launching import digits_experiment, number_experiment
from tests.support.outside import wandb_file
from tests.support.shared_ray import run_here

EPOCHS = """
import sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
for epoch in range(3):
    rc.report(accuracy=config.x + epoch)
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search that compresses: the dense model, a trial with a result, and one that fails after it."""
    folder = tmp_path_factory.mktemp("loggers")
    path = digits_experiment(
        folder,
        parameter_config=[{"name": "epochs", "type": "choice", "range": [1, "none"]}],
        compression={
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [
                {
                    "sparsity": {"range": [0.5], "type": "choice"},
                    "op_types": ["Conv2d"],
                    "op_names": ["conv1", "conv2"],
                    "expand_op_names": False,
                }
            ],
        },
        proposer="sequence",
        n_parallel=2,
        job_failure={"ignore_fail": True},
        loggers=["tensorboard", "mlflow", "wandb"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        done = run_here(folder, "launch", path)
    assert done.code == 0, done.err
    assert "logger" not in done.err
    return done.record


GROUP = "conv1 conv2.sparsity"


def expected(record):
    """What every logger has of the trial with a result, by name."""
    (good,) = [trial for trial in record.searched if trial.score is not None]
    measures = {f"{when}/{name}": n for when in ("before", "after") for name, n in getattr(good, when).items()}
    return good, {**good.values, **measures, "seconds": good.seconds}


def test_tensorboard_has_each_trial_and_its_hyperparameters(searched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = searched.folder.logs / "tensorboard"
    assert len([*folder.iterdir()]) == 3
    good, numbers = expected(searched)
    events = EventAccumulator(str(folder / f"trial-{good.number:04d}"))
    events.Reload()
    assert {tag.removeprefix("ray/tune/") for tag in events.Tags()["scalars"]} == set(numbers)
    for name, value in numbers.items():
        assert events.Scalars(f"ray/tune/{name}")[-1].value == pytest.approx(value)
    hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert GROUP.encode() in hparams
    dense = EventAccumulator(str(folder / "trial-0000-dense"))
    dense.Reload()
    assert dense.Scalars("ray/tune/accuracy")[0].value == pytest.approx(searched.baseline.values["accuracy"])


def test_mlflow_has_each_trial_and_how_it_ended(searched):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{searched.folder.logs / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == searched.header["name"]]
    runs = {run.data.tags["trial_name"]: run for run in client.search_runs([experiment.experiment_id])}
    good, numbers = expected(searched)
    assert len(runs) == 3
    run = runs[f"trial-{good.number:04d}"]
    assert {name: run.data.metrics[name] for name in numbers} == pytest.approx(numbers)
    assert run.data.params == {GROUP: "0.5", "epochs": "1"}
    assert run.data.tags["raycompress"] == searched.id
    assert sorted(run.info.status for run in runs.values()) == ["FAILED", "FINISHED", "FINISHED"]
    assert runs["trial-0000-dense"].data.params == {}


def test_wandb_has_each_trial(searched):
    written = searched.folder.logs.glob("wandb/offline-run-*/*.wandb")
    files = {path.stem.rpartition("trial-")[2]: path for path in written}
    good, numbers = expected(searched)
    assert len(files) == 3
    path = files[f"{good.number:04d}"]
    last = wandb_file.history(path)[-1]
    assert {name: last[name] for name in numbers} == pytest.approx(numbers)
    assert wandb_file.config(path).items() >= {GROUP: 0.5, "epochs": 1}.items()


def test_a_logger_that_fails_midway_is_left_out_with_a_note_and_the_others_go_on(tmp_path, launch):
    breaks = """
import pathlib, subprocess, time
for logs in pathlib.Path(HERE).glob("raycompress_results/*/logs"):  # none while the script is inspected
    if config.tid == 2:
        folder = logs / "tensorboard"
        while not (folder / "trial-0002").exists():  # by then nothing is made in it before the next trial
            time.sleep(0.05)
        # by another program: what the script itself writes stays in the trial's own folder
        subprocess.run(f"mv '{folder}' '{logs}/moved' && echo in its place > '{folder}'", shell=True, check=True)
"""
    path = number_experiment(
        tmp_path,
        EPOCHS + breaks.replace("HERE", repr(str(tmp_path))),
        parameter_config=[{"name": "x", "type": "float", "range": [0, 1]}],
        n_samples=4,
        resource_args={"track_intermediate_results": True},
        loggers=["tensorboard", "mlflow"],
    )
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    assert [str(trial.state) for trial in record.searched] == ["finished"] * 4
    (note,) = record.notes
    assert note.startswith('the logger "tensorboard" failed and is left out from here on: ')
    assert done.err.count("left out") == 1
    assert steps_in_mlflow(record, 4) == [0, 1, 2]
    resumed = run_here(tmp_path, "resume", "--n-samples", "5")
    assert resumed.code == 0, resumed.err
    assert steps_in_mlflow(resumed.record, 5) == [0, 1, 2]


def steps_in_mlflow(record, number):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{record.folder.logs / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    (run,) = [
        run for run in client.search_runs(experiments) if run.data.tags.get("trial_name") == f"trial-{number:04d}"
    ]
    x = record.records[number].sample["x"]
    history = client.get_metric_history(run.info.run_id, "accuracy")
    return sorted({round(point.value - x) for point in history})


@pytest.mark.parametrize(
    ("logger", "environment", "what"),
    [("mlflow", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "127.0.0.1"), ("wandb", {}, "API key")],
)
def test_a_logger_that_cannot_start_is_an_error(tmp_path, monkeypatch, logger, environment, what):
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key may lie
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    experiment = Experiment.load(number_experiment(tmp_path, EPOCHS, loggers=[logger]))
    with pytest.raises(ExperimentError) as raised:
        set_up(experiment, create(tmp_path, "x"))
    (problem,) = raised.value.problems
    assert f'the logger "{logger}" does not start' in problem.what
    assert what in problem.what
    assert "loggers" in problem.where
    assert problem.fix


class Hanging(LoggerCallback):
    def __init__(self):
        self.is_free = threading.Event()

    def log_trial_start(self, trial):
        self.is_free.wait()


def test_a_logger_that_hangs_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "PATIENCE_S", 0.1)
    folder = create(tmp_path, "x")
    journal, hanging = Journal(folder.journal), Hanging()
    with loggers.notified({"slow": hanging}, folder, journal):
        journal.append("started", trial=1, baseline=False, sample={}, config={}, attempt=1)
    hanging.is_free.set()
    journal.close()
    events = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", "note"]
    assert "slow did not take everything" in events[-1]["text"]


def test_long_and_strange_names_are_made_such_that_every_logger_takes_them():
    long = "[" + ",".join(f"layer{n}.conv" for n in range(60)) + "].sparsity"
    assert loggers._key("[conv1,conv2].sparsity") == GROUP
    assert loggers._key("acc %@k") == "acc __k"
    assert len(loggers._key(long)) <= 200
    assert loggers._key(long) != loggers._key(long.replace("layer59", "layer99"))


def test_notes_are_part_of_the_record(tmp_path):
    folder = create(tmp_path, "x")
    journal = Journal(folder.journal)
    words = dict.fromkeys(("id", "name", "file", "script", "compressor", "proposer", "host"), "x")
    numbers = dict.fromkeys(("n_trials", "n_parallel", "pid"), 1)
    journal.append("experiment", version=1, goal="max", dimensions=[], **words, **numbers)
    journal.append("note", text="something")
    journal.close()
    assert SearchRecord(folder).notes == ["something"]
