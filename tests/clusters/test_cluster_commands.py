"""`raycompress cluster status`, `dashboard` and `down`, of a real cluster on hosts in namespaces of this machine."""

import json
import signal
import subprocess

import psutil
import pytest

from tests.clusters.namespaces import clean_environment, lab, missing
from tests.clusters.test_local_cluster import ray_processes, raycompress, wait_until, write_cluster

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

if reason := missing():
    pytest.skip(f"no cluster on this machine: {reason}", allow_module_level=True)

UP = """
import sys
from pathlib import Path
from raycompress.clusters import files
from raycompress.clusters.running import FileCluster
from raycompress.tuning.relay import RelayView
cluster = FileCluster(files.load(Path(sys.argv[1])))
cluster.up(RelayView())
cluster.close()
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


def test_a_cluster_is_seen_and_taken_down():
    with lab(1) as hosts:
        home = hosts.folder / "work"
        home.mkdir()
        file = write_cluster(hosts, home)
        here = hosts.here

        def ran(*words):
            done = here.run(raycompress("cluster", *words), timeout=240)
            assert done.returncode == 0, done.stderr
            return done.stdout

        up = here.run(["/root/venv/bin/python", "-c", UP, str(file)], timeout=300)
        assert up.returncode == 0, up.stderr

        seen = json.loads(ran("status", file, "--json"))
        assert seen["expected"] == 2
        assert sorted(seen["nodes"]) == ["10.77.0.1", "10.77.0.2"]
        assert "CPU" in seen["status"]
        assert "2 of 2 nodes have joined" in ran("status", file)

        _dashboard_is_for_whoever_has_the_token(here, file)

        ran("down", file)
        wait_until("Ray is gone", lambda: not ray_processes(hosts), 60)
        again = here.run(raycompress("cluster", "status", file), timeout=120)
        assert again.returncode == 3
        assert "Traceback" not in again.stderr


def _dashboard_is_for_whoever_has_the_token(here, file):
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
