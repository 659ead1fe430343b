"""A search on a Ray cluster that runs already, named by the address of its Jobs API; left there, and gone on with.

The commands run in this process, but for a stranger's: Ray reads its token once a process.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from raycompress.results.record import SearchRecord
from tests.support.launching import REPOSITORY, command, number_experiment
from tests.support.shared_ray import run_here

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace of processes"),
]

SCRIPT = """
import sys
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rc.report(score=config.x)
"""

CLUSTER = """
import sys
from raycompress.backend.ray.local import LocalRay

with LocalRay(2, dashboard=True) as ray:
    print(ray.address["webui_url"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster():
    """Start a Ray with its Jobs API, whose token is the user's own; gives its address."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "token"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # jobs take the `python` that is on Ray's path
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    # Ray gives a job any Ray that it sees among the processes: here there is one
    taken = ("127.0.0.1", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT)  # as where another Ray runs on this machine
    alone = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another Ray has it already
            stack.enter_context(socket.create_server(taken))
        process = subprocess.Popen([*alone, sys.executable, "-c", CLUSTER], env=env, **pipes)
        try:
            yield f"http://{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.wait(60)


def test_a_search_at_an_address_is_run_left_alone_and_gone_on_with(cluster, tmp_path):
    more = {"parameter_config": [{"name": "x", "type": "float", "range": [0, 1]}], "random_seed": 5, "n_samples": 3}
    (tmp_path / "home").mkdir()
    path = number_experiment(tmp_path / "home", SCRIPT, **more, storage=str(tmp_path / "there"))
    done = run_here(tmp_path / "home", "launch", path.name, "--cluster", cluster)
    assert done.code == 0, done.err
    assert "1 node runs at" in done.err and "best of 3 trials" in done.out
    (there,) = (tmp_path / "there").iterdir()
    (here,) = (tmp_path / "home" / "raycompress_results").iterdir()
    assert here.name == there.name
    assert (here / "journal.jsonl").read_text() == (there / "journal.jsonl").read_text()

    again = ("resume", here.name, "--file", path.name, "--cluster", cluster)
    done = run_here(tmp_path / "home", *again)
    assert (done.code, done.out) == (0, "")
    assert "all 3 trials have ended; --n-samples adds some" in done.err

    done = run_here(tmp_path / "home", *again, "--n-samples", "5", "--detach")
    assert done.code == 0, done.err
    for verb in ("status", "logs --follow", "stop", "fetch"):
        assert f"raycompress {verb} raycompress_results/{here.name}" in done.out
    assert "cluster down" not in done.out, "it is not ours"
    done = run_here(tmp_path / "home", "logs", "--follow", here.name)
    assert done.code == 0, done.err
    assert "best of 5 trials" in done.out and "the cluster is still up" not in done.err
    for folder in (here, there):
        record = SearchRecord.open(folder)
        assert (record.state, len(record.searched)) == ("complete", 5)
        events = [json.loads(line)["event"] for line in record.folder.journal.read_text().splitlines()]
        assert (events.count("experiment"), events.count("resumed"), events.count("ended")) == (1, 1, 5)


def test_without_the_token_nobody_gets_in(cluster, tmp_path):
    path = number_experiment(tmp_path, SCRIPT, storage=str(tmp_path / "there"))
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another" * 6, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command("launch", path.name, "--cluster", cluster),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 3
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr and "Traceback" not in done.stderr
