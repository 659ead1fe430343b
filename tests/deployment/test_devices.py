"""Another machine as a target's device, by real sshd in namespaces: cut off, restarted, locked, mistaken."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from raycompress.deployment import package
from raycompress.results.record import SearchRecord
from raycompress.search.outcome import is_outside
from tests.support.outside.device import PORT, PYTHON, Device, Inside, device, trust
from tests.support.outside.namespaces import Lab, clean_environment, lab, missing

pytestmark = pytest.mark.timeout(600)

if reason := missing():
    pytest.skip(f"no device on this machine: {reason}", allow_module_level=True)

CACHE = "/root/.cache/raycompress"
OLD = "import sys; sys.version_info = (3, 8, 0); sys.argv = sys.argv[2:]; exec(sys.argv[0])"
AWAY_S = 4.0
SCRIPT = """
import torch
import raycompress as rc


@rc.experiment
def main(config):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    compressor = rc.create_compressor(model, config)
    compressor.compress()
    compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    rc.report(score=1 - abs(config.config_list[0]["sparsity"] - 0.5))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    with lab(1) as made:
        yield made


@pytest.fixture
def board(hosts: Lab) -> Iterator[Device]:
    """A device that has nothing of ours yet."""
    with device(hosts, hosts.hosts["head"]) as made:
        made.shell(f"rm -rf {CACHE} /root/.bashrc")
        yield made


@pytest.fixture
def other(hosts: Lab, board: Device) -> Iterator[Device]:
    """A second device."""
    with device(hosts, hosts.hosts["worker-1"]) as made:
        trust(hosts, board, made)
        yield made


def target(board: Device, **changes: str) -> dict[str, str]:
    return {"runtime": "onnxruntime", "device": board.url, "device_python": PYTHON, **changes}


def started(hosts: Lab, board: Device, **changes: str) -> dict[str, str]:
    """Start an agent on the device, and return its facts, or what the error says."""
    (found,) = Inside(hosts, "start", [target(board, **changes)]).rest()
    return found.get("facts") or {name: str(found[name]) for name in ("error", "what", "fix")}


@pytest.mark.night
def test_every_measurement_ends_with_a_value_though_the_device_restarts(hosts: Lab, board: Device) -> None:
    running = Inside(hosts, "series", [target(board)], 4)
    running.line()  # deployed
    board.hold()
    running.go()
    for is_again in (True, False):
        board.wait_for_waiting()
        board.cut()
        board.shell(f"rm -rf {CACHE}")  # as a disk in memory loses it
        time.sleep(AWAY_S)
        if is_again:
            board.hold()
        board.start()
    seen = running.rest()
    assert len(seen) == 4
    assert all(latency > 0 for line in seen for latency in line["latencies"])
    (note,) = seen[-1]["notes"]
    assert "the connection to root@10.77.0.1:2222 was lost while it was to time" in note and "repeated after" in note


def test_a_search_ends_with_every_trial_measured_though_the_device_restarts(hosts: Lab, board: Device) -> None:
    home = hosts.folder / "search"
    home.mkdir()
    (home / "train.py").write_text(SCRIPT)
    sparsity = {"sparsity": {"type": "float", "range": [0.2, 0.8]}, "op_types": ["Conv2d"], "op_names": ["0"]}
    compression = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": [sparsity]}
    data = {"name": "tiny", "script": "train.py", "compression": compression, "target": target(board), "n_samples": 4}
    (home / "exp.json").write_text(json.dumps({**data, "random_seed": 1}))
    with (home / "printed").open("w+") as printed:
        launch = [PYTHON, "-m", "raycompress", "launch", "exp.json"]
        environment = clean_environment()
        running = subprocess.Popen(hosts.here.command(launch, home), stdout=printed, stderr=printed, env=environment)
        while not list(home.glob("raycompress_results/*/trials/*")):  # inspection has deployed the dense model by then
            assert running.poll() is None, (home / "printed").read_text()
            time.sleep(0.1)
        board.hold()
        board.wait_for_waiting()
        board.cut()
        time.sleep(AWAY_S)
        board.start()
        code = running.wait(560)
    assert code == 0, (home / "printed").read_text()
    (folder,) = home.glob("raycompress_results/*/")
    trials = SearchRecord.open(folder).searched
    name = "onnxruntime-10.77.0.1_2222"
    assert len(trials) == 4
    assert all(trial.after and trial.after[f"latency_ms@{name}"] > 0 for trial in trials), home
    lost = [note for trial in trials for note in trial.notes if "was lost" in note]
    assert lost and all(note.startswith(f"{name}: the connection to root@10.77.0.1:2222 was lost") for note in lost)


def test_a_device_that_does_not_come_back_is_an_error_after_its_bound(hosts: Lab, board: Device) -> None:
    running = Inside(hosts, "series", [target(board)], 1, 3)
    running.line()
    board.hold()
    running.go()
    board.wait_for_waiting()
    board.cut()
    (last,) = running.rest()
    assert last["error"] == "DeploymentError" and "Connection refused" in last["what"] and "times in" in last["what"]
    assert is_outside(last["what"])  # the trial is made again by `resume`


@pytest.mark.night
def test_one_measures_at_a_time_on_a_device_and_each_device_by_itself(hosts: Lab, board: Device, other: Device) -> None:
    waiting = Inside(hosts, "series", [target(board)], 1)
    waiting.line()
    release = board.hold()
    waiting.go()
    board.wait_for_waiting()
    found = Inside(hosts, "series", [target(other)], 1)
    found.go()
    assert len(found.rest()) == 2
    assert waiting.process.poll() is None
    release()
    assert waiting.line()["latencies"][0] > 0
    waiting.rest()


def test_a_trial_measures_on_several_devices_at_the_same_time(hosts: Lab, board: Device, other: Device) -> None:
    (found,) = Inside(hosts, "together", [target(board), target(other)]).rest()
    assert sorted(found) == ["onnxruntime-10.77.0.1_2222", "onnxruntime-10.77.0.2_2222"]
    assert all(latency > 0 for latency in found.values())


def test_the_agent_is_sent_once_a_version_and_the_old_one_removed(hosts: Lab, board: Device) -> None:
    current = f"agent-{package.version()}.pyz"
    board.shell(f"mkdir -p -m 700 {CACHE}; echo old > {CACHE}/agent-000000000000.pyz; echo half > {CACHE}/{current}")
    assert started(hosts, board)["machine"] == "head"
    stat = f"ls {CACHE}; stat -c %i%Y%s {CACHE}/*; sha256sum < {CACHE}/{current}"
    first = board.shell(stat)
    assert first.splitlines()[0] == current and first.splitlines()[-1].startswith(package.version())
    assert started(hosts, board)["machine"] == "head"
    assert board.shell(stat) == first
    assert not board.shell("ls -d /tmp/raycompress-agent-*/ 2>/dev/null")


def test_banners_come_before_the_frames(hosts: Lab, board: Device) -> None:
    board.cut()
    board.shell("echo 'Authorized use only' > /tmp/banner; echo 'echo welcome; printf no-newline' > /root/.bashrc")
    board.start("Banner=/tmp/banner", "SetEnv=XDG_CACHE_HOME=/proc/nowhere")
    assert started(hosts, board)["machine"] == "head"
    assert package.version() in board.shell("ls /tmp/raycompress-0")  # no cache folder can be made there


def test_where_the_cache_is_full_the_agent_is_a_temporary_file(hosts: Lab, board: Device) -> None:
    board.shell("rm -rf /tmp/raycompress-0; mkdir -p /root/.cache && mount -t tmpfs -o size=8k tmpfs /root/.cache")
    try:
        assert started(hosts, board)["machine"] == "head"
        assert not board.shell(f"ls {CACHE}") and package.version() in board.shell("ls /tmp/raycompress-0")
    finally:
        board.shell("umount /root/.cache")


@pytest.mark.parametrize(
    ("case", "what", "fix"),
    [
        ("unknown", "the key of root@10.77.0.1:2222 is not known", "`ssh ssh://root@10.77.0.1:2222` once"),
        ("changed", "is not the one that is known", "ssh-keygen -R '[10.77.0.1]:2222'"),
        ("no key", "does not let us in", "ssh-copy-id"),
        ("refused", "Connection refused", "sshd"),
        ("no name", "Could not resolve", "check the name"),
    ],
)
def test_a_device_that_cannot_be_reached_is_told_with_the_fix(
    hosts: Lab, board: Device, case: str, what: str, fix: str
) -> None:
    known, changes = "/root/.ssh/known_hosts", {}
    if case == "unknown":
        hosts.here.run(["rm", known])
    elif case == "changed":
        key = f"[10.77.0.1]:{PORT} $(cut -d' ' -f1,2 /tmp/o.pub)"
        another = f'rm -f /tmp/o*; ssh-keygen -q -t ed25519 -N "" -f /tmp/o; echo "{key}" > {known}'
        hosts.here.run(["bash", "-c", another])
    elif case == "no key":
        hosts.here.run(["rm", "/root/.ssh/id_ed25519"])
    elif case == "refused":
        board.cut()
    else:
        changes["device"] = "ssh://root@no-such-host.invalid"
    found = started(hosts, board, **changes)
    assert what in found["what"]
    assert fix in found["fix"]


@pytest.mark.parametrize(
    ("python", "what", "fix"),
    [
        ("/no/python", "there is no /no/python", '"device_python"'),
        ("/root/old", "is older than 3.10", '"device_python"'),
        (
            "/root/bare/bin/python",
            "needs numpy, which is not installed on root@10.77.0.1:2222",
            "-m pip install numpy onnxruntime",
        ),
        ("/root/no runtime/bin/python", "needs onnxruntime, which is not installed", "-m pip install onnxruntime"),
    ],
)
def test_a_device_that_lacks_something_is_told_with_the_fix(
    hosts: Lab, board: Device, python: str, what: str, fix: str
) -> None:
    numpy = board.host.run([PYTHON, "-c", "import numpy; print(numpy.__path__[0])"]).stdout.strip()
    board.shell(f"""
        mkdir -p /root/lib && ln -sfn {numpy} /root/lib/numpy && ln -sfn {numpy}.libs /root/lib/numpy.libs
        {PYTHON} -m venv --without-pip /root/bare && {PYTHON} -m venv --without-pip '/root/no runtime'
        for site in '/root/no runtime'/lib/python3*/site-packages; do echo /root/lib > "$site/lib.pth"; done
        printf '%s\\n' '#!/bin/sh' 'exec {PYTHON} -c "{OLD}" "$@"' > /root/old && chmod +x /root/old
    """)
    found = started(hosts, board, device_python=python)
    assert what in found["what"]
    assert fix in found["fix"]


def test_the_doctor_examines_a_device(hosts: Lab, board: Device) -> None:
    command = [PYTHON, "-m", "raycompress", "doctor", "--json", "--target"]
    done = hosts.here.run([*command, json.dumps(target(board))], timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)
    names = [check["name"].rpartition("_2222 ")[2] for check in checks]
    assert names == ["runs", "device", "round trip", "converts", "small model"]
    assert "on root@10.77.0.1:2222" in checks[0]["detail"] and checks[1]["detail"].startswith("head: Python ")
    board.cut()
    done = hosts.here.run([*command, json.dumps(target(board))], timeout=120)
    assert done.returncode == 1
    runs, converts = json.loads(done.stdout)
    assert runs["state"] == "failed" and "Connection refused" in runs["problem"]["what"] and runs["problem"]["fix"]
    assert converts["state"] == "ok"
