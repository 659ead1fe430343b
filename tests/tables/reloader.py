"""A process that never saw the models being compressed: it loads bundles into fresh instances, and runs them.

Run as a module it serves requests on stdin, one JSON line each: ``{"bundle", "network", "inputs", "outputs"}``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]


class Reloader:
    """One such process, for many bundles."""

    def __enter__(self) -> Reloader:
        self._folder = tempfile.TemporaryDirectory(prefix="reload-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.tables.reloader"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def outputs(self, bundle: Path, network: str, inputs: Tensor) -> Tensor:
        """Return what the model of `bundle`, loaded there, answers to `inputs`."""
        asked = {"bundle": str(bundle), "network": network}
        for name in ("inputs", "outputs"):
            asked[name] = str(Path(self._folder.name) / f"{name}.pt")
        torch.save(inputs, asked["inputs"])
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if answer.strip() != "done":
            raise AssertionError(f"{bundle} could not be reloaded: {answer.strip() or 'see the output'}")
        found: Tensor = torch.load(asked["outputs"], weights_only=True)
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._folder.cleanup()


def _serve() -> None:
    import raycompress
    from raycompress.errors import RaycompressError
    from tests.support.models import networks

    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        model = networks.NETWORKS[asked["network"]]()
        try:
            model = raycompress.load(asked["bundle"], model)
        except RaycompressError as error:
            print(str(error).replace("\n", " "), flush=True)
            continue
        with torch.no_grad():
            torch.save(model.eval()(torch.load(asked["inputs"], weights_only=True)), asked["outputs"])
        print("done", flush=True)


if __name__ == "__main__":
    _serve()
