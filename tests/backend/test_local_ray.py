"""Ray on this machine: which of its processes there are."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from raycompress.backend.ray import local
from raycompress.errors import ClusterError

PROCESSES = """
import sys
import weakref
import psutil
from raycompress.backend.ray.local import LocalRay

with LocalRay(1, dashboard=sys.argv[1] == "with"):
    import ray

    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    print(*(" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)), sep="\\n")
left = [process for process in psutil.Process().children(recursive=True) if process.status() != "zombie"]
assert not left, left
"""


@pytest.mark.parametrize("dashboard", ["with", "without"])
def test_only_who_asks_for_a_dashboard_pays_for_it(dashboard: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROCESSES, dashboard], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "raylet" in done.stdout
    for part in ("dashboard/dashboard.py", "autoscaler/_private/monitor.py", "log_monitor.py"):
        assert (part in done.stdout) == (dashboard == "with")


def test_a_ray_that_is_not_up_in_time_is_an_error_of_ours():
    with pytest.raises(ClusterError) as caught, local._told_plainly():
        raise Exception("The current node timed out during startup. This could happen because ...")
    (problem,) = caught.value.problems
    assert problem.what.startswith("Ray did not start on this machine: The current node timed out")
    assert "too much to do" in problem.fix


def test_ray_is_shut_down_with_no_garbage_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reference:
        """As an object reference of Ray's, in a cycle, which only the collector frees."""

        def __init__(self) -> None:
            self.itself = self

    freed, seen = weakref.ref(Reference()), []
    monkeypatch.setattr("ray.shutdown", lambda: seen.append((freed(), gc.isenabled())))
    local.shut_down()
    assert seen == [(None, False)]
    assert gc.isenabled()
