"""Ray's dashboard and metrics of a search that runs: who may look, what is there, and whether it is true."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import REPOSITORY, command, number_experiment, raycompress
from tests.support.outside.browser import CHROMIUM, browser

# the first two end, one of them badly; the next two run until they are told to go on
SCRIPT = """
import pathlib, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
while config.x > 2 and config.tid > 0 and not pathlib.Path("go").exists():
    time.sleep(0.1)
if config.x == 2:
    raise ValueError("on purpose")
rc.report(accuracy=0.25 * config.x)
"""


@dataclass
class Running:
    process: subprocess.Popen
    folder: Path
    told: str

    @property
    def url(self):
        return re.search(r"Ray's dashboard: (\S+),", self.told)[1]

    @property
    def metrics(self):
        return re.search(r"metrics for Prometheus: (\S+)", self.told)[1]

    @property
    def record(self):
        (only,) = self.folder.glob("raycompress_results/*/")
        return SearchRecord.open(only)

    @property
    def processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)


def until(found, seconds=60, seen=None):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{seen or found}"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    path = number_experiment(
        folder,
        SCRIPT,
        parameter_config=[{"name": "x", "type": "choice", "range": [1, 2, 3, 4, 5]}],
        proposer="sequence",
        n_parallel=2,
        job_failure={"ignore_fail": True},
        runtime_args={"own_folder": False},
    )
    environment = {**os.environ, "RAY_metrics_report_interval_ms": "500", "COLUMNS": "80"}
    with socket.socket() as taken, (folder / "err").open("w") as err:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: bound(taken, 8265), 120)
        taken.listen()
        process = subprocess.Popen(
            command("launch", path, "--dashboard"), cwd=folder, stdout=subprocess.DEVNULL, stderr=err, env=environment
        )
        until(lambda: "trial 2" in (folder / "err").read_text() and "trial 1" in (folder / "err").read_text(), 120)
    try:
        yield Running(process, folder, (folder / "err").read_text())
    finally:
        (folder / "go").touch()
        assert process.wait(120) == 0, (folder / "err").read_text()


def bound(listener, port):
    """Bind a port of this machine; False while another search's dashboard has it."""
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def token():
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def get(url, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return json.load(answer)


def test_where_it_is_is_told_within_80_columns(running):
    assert "another program has port 8265" in running.told
    assert "its token: cat ~/.ray/auth_token" in running.told
    assert all(len(line) <= 80 for line in running.told.splitlines() if "Ray's" in line or "metrics" in line)


def test_only_who_has_the_token_may_look(running):
    actors = f"{running.url}/api/v0/actors?detail=true"
    for wrong, status in ((None, 401), ("0" * 64, 403)):
        with pytest.raises(urllib.error.HTTPError) as raised:
            get(actors, wrong)
        assert raised.value.code == status
    listed = get(actors, token())["data"]["result"]["result"]
    assert {(actor["class_name"], actor["repr_name"]) for actor in listed if actor["state"] == "ALIVE"} == {
        ("TrialActor", "slot-0"),
        ("TrialActor", "slot-1"),
    }


def test_nothing_listens_beyond_this_machine(running):
    listening = {
        connection.laddr.ip
        for process in running.processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_the_actors_processes_carry_the_names_of_their_trials(running):
    def named():
        names = [" ".join(process.cmdline()).rstrip("\0 ") for process in running.processes]
        return {"ray::trial-0003", "ray::trial-0004"} <= set(names)

    until(named)


def scraped(running):
    """Metric's name and labels that are of interest -> value."""
    with urllib.request.urlopen(running.metrics, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, sample.labels.get("state"), sample.labels.get("le")): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("experiment") == running.record.id
    }


def test_the_metrics_are_those_of_the_journal(running):
    seconds = sum(trial.seconds for trial in running.record.searched if trial.seconds)
    states = {"finished": 1, "failed": 1, "running": 2, "waiting": 1}
    expected = {
        **states,
        "best_objective": 0.25,
        "trial_seconds_count": 2,
        "script_seconds_total": pytest.approx(seconds),
    }
    seen = {}  # counters are in every scrape, but of an earlier report, perhaps

    def served():
        values = scraped(running)
        seen.update(
            {(state or name).removeprefix("ray_raycompress_"): values[name, state, le] for name, state, le in values}
        )
        return all(seen.get(name) == value for name, value in expected.items()) and seen["overhead_seconds_total"] > 0

    until(served, seen=seen)
    assert not any(seen.get(state) for state in TrialState if state not in states)


def test_gauges_stay_while_nothing_changes(running):
    """Ray drops a gauge that is not set again within two intervals of a second."""

    def states():
        return {state for name, state, _ in scraped(running) if name == "ray_raycompress_trials"}

    every = {*map(str, TrialState), "waiting"}
    for _ in range(2):
        until(lambda: states() == every)
        time.sleep(5)  # longer than Ray keeps one, whatever the machine does


def test_grafana_and_the_documentation_speak_of_the_metrics_that_there_are(running):
    board = json.loads((REPOSITORY / "docs" / "clusters" / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_raycompress_\w+", target["expr"])
    }
    filters = re.findall(
        r'state=~?"([^"]+)"', " ".join(t["expr"] for panel in board["panels"] for t in panel["targets"])
    )
    asked_states = {state for one in filters for state in one.split("|")}
    assert asked_states
    names, states = set(), set()

    def served():
        for name, state, _ in scraped(running):
            names.add(name)
            states.add(state)
        return asked <= names and asked_states <= states

    until(served, seen=(names, states))
    told = set(re.findall(r"^\| `(ray_raycompress_\w+)`", (REPOSITORY / "docs" / "watching.md").read_text(), re.M))
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in names} == told
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in asked} == told


def test_prometheus_finds_them_by_rays_own_file(running):
    def discovered():
        files = Path(tempfile.gettempdir(), "ray").glob("session_*/prom_metrics_service_discovery.json")
        found = {
            target for file in files for entry in json.loads(file.read_text() or "[]") for target in entry["targets"]
        }
        return running.metrics.removeprefix("http://").removesuffix("/metrics") in found

    until(discovered)


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_person_signs_in_and_sees_the_trials(running):
    with browser() as page:
        page.open(f"{running.url}/#/actors")
        page.wait_for_text("Authentication Token Required")
        page.ask("document.querySelector('[role=dialog] input').focus()")
        page.call("Input.insertText", text=token())
        submit = "[...document.querySelectorAll('[role=dialog] button')].find(b => /submit/i.test(b.innerText))"
        page.wait(f"{submit} && !{submit}.disabled")
        page.ask(f"{submit}.click()")
        page.wait_for_text("TrialActor")
        assert {"slot-0", "slot-1"} <= set(page.text().split())
        page.open(f"{running.url}/#/cluster")
        page.wait_for_text("ray::trial-0003")
        page.wait_for_text("ray::trial-0004")


def test_a_passive_trial_has_no_dashboard(tmp_path):
    done = raycompress(tmp_path, "launch", number_experiment(tmp_path, SCRIPT, proposer="passive"), "--dashboard")
    assert done.code == 2
    assert "--dashboard" in done.err
    assert not (tmp_path / "raycompress_results").exists()
