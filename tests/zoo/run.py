"""One network after another, each in a process of its own with a bound on time and memory; a line of JSON for each.

    python -m tests.zoo.run [--lines FILE] [NAME ...]

A name may be a part of one: `timm/` are all of timm.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.zoo.catalogue import catalogue
from tests.zoo.network import Network

SECONDS = 60
FACTOR = 4
"""How many times the bytes of a model an attempt may take, on top of what the libraries and the model's own pass do."""


def main() -> None:
    """Run the networks that were named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lines", type=Path)
    options = parser.parse_args()
    for cell in cells(options.names):
        if options.lines:
            with options.lines.open("a") as file:
                file.write(json.dumps(cell) + "\n")


def cells(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the cell of each network whose name holds one of `names`, of all where there are none, and print it."""
    torch.set_num_threads(1)
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    os.environ.setdefault("YOLO_OFFLINE", "true")
    _load_libraries()
    for name, network in catalogue().items():
        if not names or any(part in name for part in names):
            cell = {"network": name, "task": network.task, **isolated(network)}
            print(json.dumps(cell), flush=True)
            yield cell


def _load_libraries() -> None:
    """Import what the networks need once; a forked process has it."""
    for name in ("torchvision", "timm", "transformers", "segmentation_models_pytorch", "ultralytics.nn.tasks"):
        try:
            __import__(name)
        except ImportError as error:
            print(f"{name} is missing: {error}", file=sys.stderr)


def isolated(network: Network) -> dict[str, Any]:
    """Return the cell of one network, from a process that is killed once its time is up."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cell.json"
        child = os.fork()
        if child == 0:
            _answer(network, file)
        deadline = time.monotonic() + 4 * SECONDS
        while not os.waitpid(child, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.05)
        if not file.exists():
            return {"result": "no end", "reason": f"more than {2 * SECONDS} CPU seconds, or killed"}
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def _answer(network: Network, file: Path) -> None:
    from tests.zoo.cell import measure

    resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS))
    try:
        found = measure(network)
    except Exception as error:  # noqa: BLE001 - whatever a network raises is its cell
        found = {
            "result": "error",
            "reason": f"{type(error).__name__}: {error}"[:300],
            "trace": traceback.format_exc()[-1500:],
        }
    file.write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    main()
