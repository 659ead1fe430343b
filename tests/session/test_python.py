"""`rc.launch` and `rc.resume`: searches from Python, as good as those from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import raycompress as rc
from raycompress.config.experiment import Experiment
from raycompress.errors import (
    ExperimentError,
    NoValidTrialError,
    RaycompressError,
    ScriptError,
    StorageError,
    UsageError,
)
from raycompress.script import context
from tests.support.launching import REPOSITORY

FAST = {"compressor": "level", "framework": "tensorflow"}
"""The engine that loads fastest, for scripts that compress nothing."""
REPORTS_X = "import json, sys, raycompress as rc\nrc.report(score=json.load(open(sys.argv[1]))['x'])\n"


@pytest.fixture(scope="module", autouse=True)
def _one_ray() -> Iterator[None]:
    with rc.local_ray():
        yield


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def numbers(script: str = "script.py", **changes: Any) -> dict[str, Any]:
    """Return an experiment of numbers, whose script stands in the current folder."""
    Path("script.py").write_text(REPORTS_X)
    layers = [{"sparsity": 0.5, "op_types": ["Conv2D"]}]
    compression = {**FAST, "type": "pruning", "config_list": layers}
    x = {"name": "x", "type": "float", "range": [0, 1]}
    more = {"n_samples": 2, "baseline": False, "random_seed": 1, "parameter_config": [x]}
    return {"name": "numbers", "script": script, "compression": compression, **more, **changes}


def compressing() -> tuple[Callable[[Any], None], type[nn.Module]]:
    """Return a script as a function that no trial could import: it, and its network, go by value."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
            self.head = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))

    batch = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def main(config: Any) -> None:
        torch.manual_seed(0)
        compressor = rc.create_compressor(Net(), config, dummy_input=batch)
        compressor.compress()
        small = compressor.apply_speedup()
        rc.report(size=float(sum(p.numel() for p in small.parameters())), out=small(batch).sum().item())
        rc.save_model(compressor.export_model, model_path="model.pth")

    return main, Net


def test_a_function_is_searched_resumed_and_its_best_model_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    main, net = compressing()
    arguments = {"round_to": 1}
    record = rc.launch(
        main,
        compressor="group_l1",
        sparsity=(0.2, 0.8),
        arguments=arguments,
        n_samples=2,
        seed=1,
        objectives={"size": "min"},
        constraints={"flops": {"max_ratio": 0.9}},
    )
    assert record.state == "complete" and record.best is not None and record.best in record.front
    assert list(record.trials["trial"]) == [0, 1, 2] and set(record.trials) >= {"size", "first.sparsity", "score"}
    small = record.load(net())
    assert sum(parameter.numel() for parameter in small.parameters()) == record.best.values["size"]
    assert "<table" in record._repr_html_() and record.id in record._repr_html_()
    lines = capfd.readouterr().err.splitlines()
    assert any("dense model: size" in line for line in lines) and any("best so far" in line for line in lines)
    assert len(lines) < 12

    more = rc.resume(record, n_samples=3, quiet=True)
    assert more.id == record.id and len(more.searched) == 3
    assert [more.records[n].sample for n in (1, 2)] == [record.records[n].sample for n in (1, 2)]
    assert not capfd.readouterr().err
    again = rc.launch(record.folder.experiment, n_samples=1, name="as a file", quiet=True)
    assert again.records[1].sample == record.records[1].sample, "its experiment is a file as any other"


def test_a_file_a_dict_and_an_experiment_are_the_same_search(tmp_path: Path) -> None:
    data = numbers()
    path = tmp_path / "exp.json"
    path.write_text(json.dumps(data))
    from_dict = rc.launch(data, quiet=True)
    from_file = rc.launch("exp.json", quiet=True)
    loaded = rc.launch(Experiment.load(path), quiet=True, storage=tmp_path / "elsewhere")
    samples = [[trial.sample for trial in record.searched] for record in (from_dict, from_file, loaded)]
    assert samples[0] == samples[1] == samples[2] and len(samples[0]) == 2
    assert from_file.header["file"] == str(path) and loaded.folder.root.parent == tmp_path / "elsewhere"
    assert from_dict.state == "complete" and from_dict.bundle is None
    with pytest.raises(RaycompressError, match="no trial of this search has saved a model"):
        from_dict.load(nn.Linear(1, 1))


def test_launched_from_a_thread_that_ends_and_inside_an_event_loop() -> None:
    data, found = numbers(n_samples=1), []

    async def inside() -> None:
        found.append(rc.launch(data, quiet=True))

    thread = threading.Thread(target=lambda: found.append(rc.launch(data, quiet=True)))
    thread.start()
    thread.join()
    asyncio.run(inside())
    thread = threading.Thread(target=lambda: found.append(rc.resume(found[0], n_samples=2, quiet=True)))
    thread.start()
    thread.join()
    assert [len(record.searched) for record in found] == [1, 1, 2] and found[1].best.score == found[0].best.score


def test_what_went_wrong_is_raised_with_the_record() -> None:
    def main(config: Any) -> None:
        if config["tid"]:  # 0 as the script is inspected
            raise ValueError("out of cheese")

    with pytest.raises(NoValidTrialError, match="out of cheese") as caught:
        rc.launch(main, **FAST, sparsity=0.5, baseline=False, quiet=True)
    record = caught.value.record
    assert record.state == "failure" and record.best is None
    log = record.folder.log(1).read_text()
    assert "in main" in log and 'raise ValueError("out of cheese")' in log
    assert "rc.resume(" in str(caught.value)


SHIPPED = {"compressor": "group_l1", "sparsity": 0.5, "quiet": True}


def reports(config: Any) -> None:
    rc.report(score=1.0)


@pytest.mark.parametrize(
    ("keywords", "where", "what"),
    [
        ({"n_sample": 3}, "n_sample", "n_samples"),
        ({"sparsity": (0.1, 1.5)}, "sparsity.range[1]", "below 1"),
        ({"sparsity": {"first": 2.0}}, "sparsity['first']", "below 1"),
        ({"compressor": "group_l9"}, "compressor", "group_l"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"config_list": []}, "sparsity", "again"),
        ({"arguments": {"roundto": 8}}, "arguments", "round_to"),
        ({"storage": threading.Lock()}, "storage", "lock"),
        ({"constraints": {"flops": {"max_ration": 0.5}}}, "constraints.flops", "max_ratio"),
    ],
)
def test_a_mistake_names_the_keyword(keywords: dict[str, Any], where: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as caught:
        rc.launch(reports, **{**SHIPPED, **keywords})
    assert any(problem.where.startswith(f"rc.launch  {where}") for problem in caught.value.problems), caught.value
    assert what in str(caught.value) and not list(tmp_path.iterdir())


def test_a_mistake_that_only_the_model_shows_names_the_keyword(tmp_path: Path) -> None:
    main, _ = compressing()
    with pytest.raises(ExperimentError, match="Conv9d") as caught:
        rc.launch(main, compressor="group_l1", sparsity=0.5, op_types=["Conv9d"], quiet=True)
    assert caught.value.problems[0].where == "rc.launch  op_types[0]" and not list(tmp_path.iterdir())


def test_mistakes_come_all_at_once() -> None:
    with pytest.raises(ExperimentError) as caught:
        rc.launch(reports, **{**SHIPPED, "n_samples": 0, "target": "maximum"})
    assert len(caught.value.problems) == 2
    with pytest.raises(ExperimentError, match="no compressor is named"):
        rc.launch(reports, sparsity=0.5)
    with pytest.raises(UsageError, match="not int"):
        rc.launch(3)  # type: ignore[arg-type]


def test_what_a_function_cannot_take_along_is_named(tmp_path: Path) -> None:
    lock, much = threading.Lock(), torch.zeros(17 << 20)

    def holds(config: Any) -> None:
        with lock:
            rc.report(score=1.0)

    def carries(config: Any) -> None:
        rc.report(score=float(much.sum()))

    for function, what in (
        (holds, "it uses lock, which cannot be pickled"),
        (carries, "most of it much; 64 MiB are the most"),
        (lambda: None, "cannot be called with one argument"),
    ):
        with pytest.raises(ScriptError, match=what):
            rc.launch(function, **SHIPPED)
    assert not list(tmp_path.iterdir())


def test_no_search_inside_a_trial_nor_beside_another(tmp_path: Path) -> None:
    context.enter(context.Trial("trial", tmp_path, print))
    try:
        with pytest.raises(UsageError, match="this is a trial"):
            rc.launch(reports, **SHIPPED)
    finally:
        context.enter(None)
    with pytest.raises((UsageError, StorageError)):
        rc.resume("nothing-here")


def run(folder: Path, script: str, *, until: str = "", number: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a Python script in `folder` to its end, with a signal when it has printed `until`."""
    (folder / "launching.py").write_text(f"FAST = {FAST}\n{textwrap.dedent(script)}")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-u", "launching.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if until and until in line:
            process.send_signal(number)
            until = ""
    return subprocess.CompletedProcess(process.args, process.wait(), "".join(printed), "")


def test_a_script_that_launches_its_own_main_uses_a_ray_that_it_had_and_leaves_it(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import ray

        import raycompress as rc

        def main(config):
            rc.report(score=config["x"])

        if __name__ == "__main__":
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            x = {"name": "x", "type": "float", "range": [0, 1]}
            asked = {**FAST, "sparsity": 0.5, "baseline": False, "quiet": True}
            record = rc.launch(main, parameter_config=[x], n_samples=2, n_parallel=2, seed=0, **asked)
            print("best", record.best.score, "connected", ray.is_initialized())
        """,
    )
    assert done.returncode == 0 and "connected True" in done.stdout, done.stdout


def test_ctrl_c_stops_a_search_that_can_be_resumed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import time

        import ray  # before raycompress has set what Ray reads as it is imported

        import raycompress as rc
        from raycompress.errors import StoppedError

        def main(config):
            rc.report(score=config["x"])
            time.sleep(0 if config["x"] < 0.5 else 60)

        if __name__ == "__main__":
            try:
                x = {"name": "x", "type": "choice", "range": [0.25, 0.75]}
                asked = {**FAST, "sparsity": 0.5, "baseline": False, "proposer": "sequence"}
                rc.launch(main, parameter_config=[x], **asked)
            except StoppedError as error:
                print(error)
                print(error.record.state, "of", len(error.record.trials), "trials")
        """,
        until="best so far",
        number=signal.SIGINT,
    )
    assert done.returncode == 0 and "rc.resume(" in done.stdout, done.stdout
    assert re.search(r"^stopped of [12] trials$", done.stdout, re.M), "the second would run for a minute"
