"""What the tests of trials share: run one, wait for its files, see whether processes are gone; scripts with daemons."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from raycompress.runtime.client import Ending
from raycompress.runtime.protocol import Import

STDLIB = (Import("json"), Import("random"))


def run(worker, spec):
    """Run a trial; return its messages and its ending."""
    *messages, ending = worker.run(spec)
    assert isinstance(ending, Ending)
    return messages, ending


def wait_for(path: Path, seconds=20.0) -> str:
    """Return what stands in a file that another process is about to write."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.01)
    return path.read_text()


def pids(path: Path) -> list[int]:
    return [int(line) for line in wait_for(path).split()]


def left(*processes: int, seconds=10.0) -> list[int]:
    """Return which of `processes` still live after waiting for their end."""
    deadline = time.monotonic() + seconds
    while living := [pid for pid in processes if _lives(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return living


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


DAEMON = """
import os, subprocess, time
def note():
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
def noted():
    return os.path.getsize("pids") if os.path.exists("pids") else 0
def daemon():
    before = noted()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(3, 256):
                try: os.close(fd)
                except OSError: pass
            note()
            time.sleep(600)
        os._exit(0)
    os.wait()
    while noted() == before:  # what follows may kill whoever could end before it is written
        time.sleep(0.01)
"""
LEAVES = {
    "a plain child": "p = subprocess.Popen(['sleep', '600'])\nopen('pids', 'w').write(f'{p.pid}\\n')\n",
    "its own session": (
        "p = subprocess.Popen(['sleep', '600'], start_new_session=True)\nopen('pids', 'w').write(f'{p.pid}\\n')\n"
    ),
    "a forked daemon": "daemon()\n",
    "an exec'd daemon": (
        "os.system('setsid sh -c \"trap \\'\\' HUP TERM INT; echo \\$\\$ > pids; while :; do sleep 1; done\" &')\n"
    ),
    "a daemon's children": "daemon()\nos.system(\"(setsid sh -c 'echo $$ >> pids; sleep 600; :' &)\")\n",
}
UNTIL_NOTED = "while not (os.path.exists('pids') and open('pids').read().endswith('\\n')): time.sleep(0.01)\n"
TORCHRUN = """
import os, signal, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rank, world = 0, 1
if "RANK" in os.environ:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
torch.manual_seed(rank)
compressor = rc.create_compressor(model, config, dummy_input=images[:1], seed=rank)
model = compressor.compress()
small = compressor.apply_speedup()
print("cut", float(small[0].weight.double().sum()))
trained = DistributedDataParallel(small) if "RANK" in os.environ else small
optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
state = rc.checkpoint.load(model=small, optimizer=optimizer)
print("rank", rank, "of", world, "local", os.environ.get("LOCAL_RANK"), "of", os.environ.get("LOCAL_WORLD_SIZE"))
for epoch in range(0 if state is None else state["epoch"] + 1, 4):
    print("epoch", epoch)
    own = slice(rank, None, world)
    loss = torch.nn.functional.cross_entropy(trained(images[own]), labels[own])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rc.checkpoint(model=small, optimizer=optimizer, epoch=epoch)
    if epoch == 2 and rank == 1 and state is None and config.get("tid") == 1:
        LOSE
rc.report(loss=float(torch.nn.functional.cross_entropy(small(images), labels)))
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
"""
"""A script that one process runs, or several as torchrun starts them."""
