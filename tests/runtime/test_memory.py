"""A trial that asks for more memory than there is: its state says so, whoever noticed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch

from raycompress.runtime import processes as memory
from raycompress.states import TrialState
from tests.support.trials import run

GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def small_group(kills_lock):
    """Make a control group of 200 MiB that a process can be put into; yields the file to write its id to."""
    for parent, limit in ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")):
        group = parent / f"raycompress-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            (group / limit).write_text(str(200 << 20))
            fcntl.flock(kills_lock, fcntl.LOCK_EX)
            yield group / "cgroup.procs"
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("no control group of memory can be made here: it takes root")


def test_the_kernel_kills_it(worker, spec, small_group):
    source = (
        f"import os, sys\nrc.print_result(1)\nopen({str(small_group)!r}, 'w').write(str(os.getpid()))\n"
        "kept = []\nwhile True: kept.append(bytearray(os.urandom(1 << 20)))"
    )
    before = memory.kills()
    _, ending = run(worker, spec(source, timeout_s=60))
    assert memory.kills() == before + 1
    assert ending.state == TrialState.OUT_OF_MEMORY
    assert ending.cause == "killed by signal 9 (SIGKILL), probably by the kernel, as memory was exhausted"
    assert ending.signal == 9


def test_a_process_that_it_started_is_killed(worker, spec, small_group):
    fills = f"import os; open({str(small_group)!r}, 'w').write(str(os.getpid())); os.urandom(1 << 28)"
    source = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {fills!r}], check=True)"
    _, ending = run(worker, spec(source, timeout_s=60))
    assert ending.state == TrialState.FAILED
    assert ending.cause.endswith("; meanwhile the kernel killed a process, as memory was exhausted")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("bytearray(1 << 60)", "MemoryError (train.py:2)"),
        ("import numpy; numpy.ones(1 << 50)", "Unable to allocate 8.00 PiB"),
        ("import torch; torch.ones(1 << 50)", "can't allocate memory"),
        (
            "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')",
            "CUDA out of memory",
        ),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\nx = bytearray(1 << 29)",
            "MemoryError (train.py:3)",
        ),
    ],
)
def test_an_allocation_fails(worker, spec, source, told):
    _, ending = run(worker, spec(f"{source}\nrc.print_result(1)"))
    assert ending.state == TrialState.OUT_OF_MEMORY
    assert ending.cause.startswith("memory is exhausted: ")
    assert told in ending.cause


def test_a_trial_is_killed_before_those_that_watch_over_it(worker, spec):
    _, ending = run(worker, spec("print(open('/proc/self/oom_score_adj').read())\nrc.print_result(1)"))
    assert ending.log.read_text().strip() == "1000"
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


def test_another_error_of_torch_is_none_of_memory():
    assert not memory.is_exhausted(RuntimeError("shape mismatch"))
    assert memory.is_exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert memory.is_exhausted(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")
    )
