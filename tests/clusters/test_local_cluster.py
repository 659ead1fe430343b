"""Searches on real clusters: hosts in namespaces of this machine, with real sshd, brought up by Ray's own launcher."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from raycompress.bundle import bundle
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import REPOSITORY
from tests.support.outside.namespaces import SHARED, Lab, clean_environment, lab, missing

pytestmark = pytest.mark.timeout(1200)

if reason := missing():
    pytest.skip(f"no cluster on this machine: {reason}", allow_module_level=True)

SCRIPT = """
import os
import time
from pathlib import Path

import torch
import raycompress as rc


@rc.experiment
def main(config):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    compressor = rc.create_compressor(model, config)
    compressor.compress()
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    if Path("hold").exists():
        time.sleep(2)
    rc.report(score=1 - abs(config.config_list[0]["sparsity"] - 0.5))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main()
"""


GET = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1] + "/api/version")
if len(sys.argv) > 2:
    request.add_header("Authorization", "Bearer " + open(sys.argv[2]).read().strip())
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def write_search(lab: Lab, **changes: object) -> Path:
    """Write an experiment of one small network, of which a host runs one trial at a time."""
    home = lab.folder / "work"
    home.mkdir()
    (home / "train.py").write_text(SCRIPT)
    (home / "hold").touch()
    data = {
        "name": "tiny",
        "script": "train.py",
        "resource": {"cpu": 2},
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [
                {"sparsity": {"type": "float", "range": [0.2, 0.8]}, "op_types": ["Conv2d"], "op_names": ["0"]}
            ],
        },
        "n_samples": 6,
        "n_parallel": 3,
        "random_seed": 1,
        "storage": f"{SHARED}/results",
        **changes,
    }
    (home / "exp.json").write_text(json.dumps(data, indent=2))
    return home


def write_cluster(lab: Lab, home: Path) -> Path:
    """Write the shipped cluster file, with the lab's hosts in it."""
    data = yaml.safe_load((REPOSITORY / "cluster" / "local-ssh.yaml").read_text())
    workers = [host.address for name, host in lab.hosts.items() if name.startswith("worker")]
    data["provider"].update(head_ip=lab.hosts["head"].address, worker_ips=workers)
    data["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
    # a host that is gone is missed after some 15 seconds, not 65, and one that is to join is begun with at once
    quick = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 AUTOSCALER_UPDATE_INTERVAL_S=1"
    stop, start = data["head_start_ray_commands"]
    assert "export RAY_AUTH_MODE=token" in start
    data["head_start_ray_commands"] = [stop, start.replace("RAY_AUTH_MODE=token", f"RAY_AUTH_MODE=token {quick}")]
    path = home / "cluster.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def raycompress(*words: object) -> list[str]:
    return ["/root/venv/bin/python", "-m", "raycompress", *map(str, words)]


def ray_processes(lab: Lab) -> dict[str, list[str]]:
    """Return what is left of Ray, and of what we started, on each host."""
    marks = ("raylet", "gcs_server", "ray::", "ray start", "dashboard", "raycompress", "ssh -")
    return {
        name: left
        for name, host in lab.hosts.items()
        if host.first.is_running()
        and host.first.status() != psutil.STATUS_ZOMBIE
        and (left := [line for line in host.processes() if any(mark in line for mark in marks)])
    }


def wait_until(what: str, condition: object, seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


@pytest.fixture
def hosts(is_nightly: bool) -> Iterator[Lab]:
    """A head and one worker, in the night two."""
    with lab(2 if is_nightly else 1) as made:
        yield made


@pytest.fixture
def two_hosts() -> Iterator[Lab]:
    with lab(1) as made:
        yield made


def test_from_nothing_to_the_bundle_and_back_though_a_host_dies(hosts: Lab) -> None:
    home = write_search(hosts)
    *_, doomed = (host for name, host in hosts.hosts.items() if name.startswith("worker"))
    cluster = write_cluster(hosts, home)
    shared = hosts.folder / "shared" / "results"
    said = (hosts.folder / "said").open("w+")
    running = subprocess.Popen(
        hosts.here.command(raycompress("launch", "exp.json", "--cluster", cluster, "-y"), home),
        stdout=said,
        stderr=said,
        env=clean_environment(),
    )

    def told() -> str:
        said.seek(0)
        return said.read()

    def on_the_doomed() -> bool:
        assert running.poll() is None, told()
        return any(line.startswith("ray::trial") for line in doomed.processes())

    wait_until("no trial on it", on_the_doomed)
    doomed.kill()
    code = running.wait(500)
    assert code == 0, told()

    (copy,) = home.glob("raycompress_results/*/")
    record, there = SearchRecord.open(copy), SearchRecord.open(next(shared.iterdir()))
    assert len(record.searched) == 6 and all(trial.state == "finished" for trial in record.searched)
    assert record.state == "complete" and record.verified is not None
    assert record.best_number == there.best_number and record.bundle is not None
    bundle.check_hashes(record.bundle)
    assert f"{doomed.address} cannot be reached" in told()
    wait_until(f"left: {ray_processes(hosts)}", lambda: not ray_processes(hosts), 30)


TOGETHER = """
import os
import pathlib
import signal
import socket
import tempfile

import torch
import torch.distributed as dist
import raycompress as rc


@rc.experiment
def main(config):
    dist.init_process_group("gloo")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    compressor = rc.create_compressor(model, config, dummy_input=torch.randn(1, 1, 8, 8))
    compressor.compress()
    hosts = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    total = torch.ones(1)
    dist.all_reduce(total)
    lost = pathlib.Path(tempfile.gettempdir(), f"lost-{os.environ['TORCHELASTIC_RUN_ID']}")
    if dist.get_rank() == 1 and not lost.exists():
        lost.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    rc.report(score=len(set(hosts)), workers=total, local=int(os.environ["LOCAL_WORLD_SIZE"]))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main()
"""


@pytest.mark.night
def test_the_workers_of_a_trial_stand_on_two_hosts_and_one_that_is_lost_begins_it_again(two_hosts: Lab) -> None:
    """Each asks for all cores of a host."""
    home = write_search(two_hosts, resource={"cpu": 2, "workers": 2}, n_samples=1, n_parallel=1)
    (home / "train.py").write_text(TOGETHER)
    cluster = write_cluster(two_hosts, home)
    done = two_hosts.here.run(raycompress("launch", "exp.json", "--cluster", cluster, "-y"), folder=home, timeout=600)
    assert done.returncode == 0, done.stderr
    (copy,) = home.glob("raycompress_results/*/")
    (trial,) = SearchRecord.open(copy).searched
    assert trial.values == {"score": 2, "workers": 2, "local": 1}, trial.cause
    assert (trial.state, trial.attempts) == (TrialState.FINISHED, 2)


@pytest.mark.night
def test_left_alone_and_come_back_to(two_hosts: Lab) -> None:
    """Detached; asked how it stands; the wrong client refused; stopped; fetched; torn down by hand."""
    home = write_search(two_hosts, n_samples=100, n_parallel=2)
    cluster = write_cluster(two_hosts, home)
    here = two_hosts.here

    def told(*words: object, seconds: float = 400) -> str:
        done = here.run(raycompress(*words), folder=home, timeout=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = told("launch", "exp.json", "--cluster", cluster, "-y", "--detach")
    (copy,) = home.glob("raycompress_results/*/")
    for verb in ("status", "logs --follow", "stop", "fetch"):
        assert f"raycompress {verb} raycompress_results/{copy.name}" in said
    assert f"raycompress cluster down {cluster}" in said

    head = two_hosts.hosts["head"]
    status = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    assert head.run([*status, "http://127.0.0.1:8265/api/jobs/"]).stdout == "401"
    assert here.run([*status, f"http://{head.address}:8265/api/jobs/"]).returncode != 0  # not beyond its loopback

    seen = json.loads(told("cluster", "status", cluster, "--json"))
    assert (seen["expected"], sorted(seen["nodes"])) == (2, ["10.77.0.1", "10.77.0.2"])
    assert "CPU" in seen["status"]
    assert "2 of 2 nodes have joined" in told("cluster", "status", cluster)
    _dashboard_is_for_whoever_has_the_token(two_hosts, cluster)

    state = json.loads(told("status", copy, "--json"))
    assert state["state"] == "running" and len(state["trials"]) >= 1
    told("stop", copy)
    told("fetch", copy)
    assert SearchRecord.open(copy).state == "stopped"
    told("cluster", "down", cluster)
    wait_until(f"left: {ray_processes(two_hosts)}", lambda: not ray_processes(two_hosts), 30)
    gone = here.run(raycompress("cluster", "status", cluster), timeout=120)
    assert gone.returncode == 3 and "Traceback" not in gone.stderr


def _dashboard_is_for_whoever_has_the_token(hosts: Lab, file: Path) -> None:
    here = hosts.here
    opened = subprocess.Popen(
        here.command(raycompress("cluster", "dashboard", file)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    url = opened.stdout.readline().strip()
    told = opened.stderr.readline()
    assert url.startswith("http://127.0.0.1:"), opened.stderr.read()
    token = told.split("cat ")[1].strip()
    get = ["/root/venv/bin/python", "-c", GET, url]
    assert here.run(get).stdout.strip() == "401"
    assert here.run([*get, token]).stdout.strip() == "200"
    (command,) = psutil.Process(opened.pid).children()  # nsenter waits for what it runs in the host
    command.send_signal(signal.SIGINT)
    assert opened.wait(30) == 0
    assert not [line for line in here.processes() if "ssh " in line]


def test_a_cluster_that_does_not_come_up_is_torn_down(two_hosts: Lab) -> None:
    home = write_search(two_hosts)
    cluster = write_cluster(two_hosts, home)
    data = yaml.safe_load(cluster.read_text())
    data["setup_commands"] = ["echo nothing to drink >&2; exit 7"]
    cluster.write_text(yaml.safe_dump(data))
    done = two_hosts.here.run(raycompress("launch", "exp.json", "--cluster", cluster, "-y"), folder=home, timeout=300)
    assert done.returncode == 3
    assert "the cluster does not come up" in done.stderr and "nothing to drink" in done.stderr
    assert "none of its nodes is left" in done.stderr and "Traceback" not in done.stderr
    assert not list(home.glob("raycompress_results/*")) and not ray_processes(two_hosts)


def test_nothing_is_started_by_a_dry_run_nor_unasked(two_hosts: Lab) -> None:
    home = write_search(two_hosts)
    cluster = write_cluster(two_hosts, home)
    launch = raycompress("launch", "exp.json", "--cluster", cluster)
    shown = two_hosts.here.run([*launch, "--dry-run"], folder=home)
    assert shown.returncode == 0 and "answers on port 22" in shown.stderr and "tiny, random" in shown.stderr
    unasked = two_hosts.here.run(launch, folder=home)
    assert unasked.returncode == 2 and "agree to it with -y" in unasked.stderr
    two_hosts.hosts["worker-1"].kill()
    gone = two_hosts.here.run([*launch, "-y"], folder=home)
    assert gone.returncode == 3 and "10.77.0.2 does not answer on port 22" in gone.stderr
    assert not ray_processes(two_hosts)
