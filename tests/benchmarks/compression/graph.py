"""What it takes to find which channels hang together, over depth, and to compress: CPU seconds and memory.

Each cell is measured in a process of its own, on one thread, after a small network of the kind has loaded the
libraries. The peer is Torch-Pruning's dependency graph.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome, Target, seconds

DEPTHS = (4, 8, 16, 32, 64)
LIMIT_S = 60
"""CPU seconds of a cell, after which it is given up."""
KINDS = ("follow", "compress", "peer")
WHOLE = ("as large as ResNet-50", "as large as ViT-B/16")


class Residual(nn.Module):
    """Blocks of two convolutions with BatchNorm, of which all outputs are added."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
                *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class Layer(nn.Module):
    """A layer of a Transformer, with its sizes written into reshapes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = self.norm1(x)
        query, key, value = (
            layer(y).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Layers of `Layer`."""

    def __init__(self, depth: int, width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


def network(name: str, depth: int) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode and an input of it."""
    made: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        "residual CNN": lambda: (Residual(depth, 64), torch.randn(1, 3, 16, 16)),
        "Transformer": lambda: (Transformer(depth, 128, 4), torch.randn(1, 16, 128)),
        WHOLE[0]: lambda: (Residual(depth, 296), torch.randn(1, 3, 28, 28)),
        WHOLE[1]: lambda: (Transformer(depth, 768, 12), torch.randn(1, 197, 768)),
    }
    model, x = made[name]()
    return model.eval(), x


def _follow(model: nn.Module, x: Tensor) -> dict[str, Any]:
    from raycompress.bundle.example import Example
    from raycompress.compressors.structure.graph import ChannelGraph

    graph = ChannelGraph(model, Example.from_dummy(x))
    return {"operations": sum(graph.couplings.operations.values())}


def _compress(model: nn.Module, x: Tensor) -> dict[str, Any]:
    from raycompress import create_compressor

    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    compressor = create_compressor(model, config, dummy_input=x)
    compressor.compress()
    compressor.apply_speedup()
    return {"left": sum(map(Tensor.numel, model.parameters()))}


def _peer(model: nn.Module, x: Tensor) -> dict[str, Any]:
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    return {"groups": len(list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])))}


def measured(name: str, depth: int, kind: str) -> dict[str, Any]:
    """Measure one cell in this process."""
    work = {"follow": _follow, "compress": _compress, "peer": _peer}[kind]
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 1))
    torch.manual_seed(0)
    small, x = network("residual CNN" if "CNN" in name or "ResNet" in name else "Transformer", 2)
    work(small, x)  # what is loaded on first use
    before = _peak()
    model, x = network(name, depth)
    started, count = time.process_time(), 0
    while count < 3 or time.process_time() - started < 0.05:  # the clock may count in hundredths
        with torch.no_grad():
            model(x)
        count += 1
    one_pass = (time.process_time() - started) / count
    size = sum(one.numel() * one.element_size() for one in [*model.parameters(), *model.buffers()])
    started = time.process_time()
    found = work(model, x)
    return {
        "seconds": time.process_time() - started,
        "pass": one_pass,
        "model": size,
        "bytes": _peak() - before,
        **found,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _cell(name: str, depth: int, kind: str) -> dict[str, Any]:
    """Measure one cell in a process of its own; empty where it does not end in time or fails."""
    command = [sys.executable, "-m", "tests.benchmarks.compression.graph", name, str(depth), kind]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode == -signal.SIGXCPU:
        return {"failure": f"> {LIMIT_S} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failure": lines[-1][:80] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(depths: list[int], say: Callable[[str], None]) -> Outcome:
    """Measure every network at every depth, in all ways."""
    cells: dict[str, dict[int, dict[str, dict[str, Any]]]] = {}
    plan = [(name, depth) for name in ("residual CNN", "Transformer") for depth in sorted(set(depths))]
    plan += [(WHOLE[0], 16), (WHOLE[1], 12)]
    for name, depth in plan:
        cell = cells.setdefault(name, {})[depth] = {kind: _cell(name, depth, kind) for kind in KINDS}
        say(f"{name}, {depth} blocks: {json.dumps(cell)}")
    rows = [_row(name, depth, cells[name][depth]) for name, depth in plan]
    return Outcome(
        "Following a network: CPU seconds, on one thread, and growth of the peak memory with the model's own bytes",
        [
            *("network", "blocks", "MB", "pass s", "follow s", "ms a block beyond passes", "x bytes"),
            *("compress s", "passes", "x bytes", "Torch-Pruning s", "MB"),
        ],
        rows,
        targets=_targets(cells),
        notes=[
            "follow: one pass in eval and one in train mode, and what hangs together. compress: group_l1 at .5 by",
            "create_compressor, compress and apply_speedup with its proof; passes: the same in passes of the model.",
            "x bytes: growth of the process's peak memory, the model included, over the model's bytes.",
        ],
        raw={f"{name}, {depth}": cell for name, depths in cells.items() for depth, cell in depths.items()},
    )


def _row(name: str, depth: int, cell: dict[str, dict[str, Any]]) -> list[str]:
    follow, whole, peer = (cell[kind] for kind in KINDS)
    row = [name, str(depth)]
    if "failure" in follow:
        return [*row, *("-" for _ in range(3)), follow["failure"], *("-" for _ in range(6))]
    row += [f"{follow['model'] / 2**20:.1f}", seconds(follow["pass"], 3), seconds(follow["seconds"], 2)]
    row += [f"{_beyond(follow) / depth:.1f}", f"{follow['bytes'] / follow['model']:.1f}"]
    if "failure" in whole:
        row += [whole["failure"], "-", "-"]
    else:
        row += [seconds(whole["seconds"], 2), f"{whole['seconds'] / whole['pass']:.0f}"]
        row += [f"{whole['bytes'] / whole['model']:.1f}"]
    if "failure" in peer:
        return [*row, peer["failure"], "-"]
    return [*row, seconds(peer["seconds"], 2), f"{peer['bytes'] / 2**20:.0f}"]


def _beyond(cell: dict[str, Any]) -> float:
    """Return the milliseconds of a cell beyond two passes."""
    return 1000 * (cell["seconds"] - 2 * cell["pass"])


def _targets(cells: dict[str, dict[int, dict[str, dict[str, Any]]]]) -> list[Target]:
    found = []
    for name, by_depth in cells.items():
        if name in WHOLE:
            ((_, cell),) = by_depth.items()
            follow = cell["follow"]
            if "failure" not in follow:
                found.append(Target(f"{name}: following", follow["seconds"], 2.0, " s"))
                found.append(Target(f"{name}: following, memory", follow["bytes"] / follow["model"], 3.0, " x"))
            continue
        whole = {depth: cell["follow"] for depth, cell in by_depth.items() if "failure" not in cell["follow"]}
        if len(whole) > 1:
            first, last = min(whole), max(whole)
            growth = (_beyond(whole[last]) / last) / (_beyond(whole[first]) / first)
            found.append(Target(f"{name}: milliseconds a block, {last} blocks over {first}", growth, 1.5, " x"))
    return found


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
