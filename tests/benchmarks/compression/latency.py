"""How much faster a pruned network is: share of the multiply-adds against share of the time, rounded and not."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.measure.sizes import latencies
from tests.benchmarks.compression.networks import ResNet
from tests.benchmarks.compression.pruned import DUMMY, compressor, sparsity_for
from tests.benchmarks.outcome import Outcome

WIDTH = 64
SHARES = (0.5, 0.25)
ROUNDINGS = (1, 8)
BATCHES = (1, 16)


def measure(repeats: int, say: Callable[[str], None]) -> Outcome:
    """Prune one network to each budget, and run all of them in turn."""
    torch.manual_seed(0)
    dense = ResNet(WIDTH).eval()
    models: dict[str, nn.Module] = {"dense": dense}
    flops = {"dense": 1.0}
    for share in SHARES:
        for round_to in ROUNDINGS:
            name = f"{share:g} of the FLOPs, {'rounded to 8' if round_to == 8 else 'not rounded'}"
            models[name], flops[name] = _pruned(dense, share, round_to)
    say("networks made")
    rows, raw = [], {}
    for batch in BATCHES:
        times = _times(list(models.values()), batch, repeats)
        raw[str(batch)] = dict(zip(models, times, strict=True))
        for name, (wall, cpu) in zip(models, times, strict=True):
            rows.append(
                [
                    *(name, str(batch), f"{flops[name]:.3f}"),
                    *(f"{wall:.2f}", f"{wall / times[0][0]:.2f}"),
                    *(f"{cpu:.2f}", f"{cpu / times[0][1]:.2f}"),
                ]
            )
        say(f"batch of {batch} done")
    return Outcome(
        f"Latency of a pruned ResNet of width {WIDTH}, one torch thread, interleaved; median of {repeats} x 30 passes",
        ["network", "batch", "FLOPs", "wall ms", "of dense", "CPU ms", "of dense"],
        rows,
        raw=raw,
    )


def _pruned(dense: ResNet, share: float, round_to: int) -> tuple[nn.Module, float]:
    more: dict[str, Any] = {"round_to": round_to}
    small = copy.deepcopy(dense)
    sparsity = sparsity_for(dense, "group_l1", share, **more)
    if round_to == 1:
        sparsity -= 1 / WIDTH  # one channel more in the narrowest layers: the budget itself may fall on round numbers
    found = compressor(small, "group_l1", sparsity, **more)
    before, _, _ = found.count_flops_params(DUMMY)
    found.compress()
    found.apply_speedup()
    return small.eval(), found.count_flops_params(DUMMY)[0] / before


def _times(models: list[nn.Module], batch: int, repeats: int) -> list[tuple[float, float]]:
    """Return (wall, CPU) milliseconds of each model: the median over `repeats` interleaved measurements."""
    example = Example.from_dummy(torch.zeros(batch, *DUMMY.shape[1:]))
    runs = [latencies(models, example, 30, most=30) for _ in range(repeats)]
    return [
        (
            statistics.median(run[place].wall_ms for run in runs),
            statistics.median(run[place].cpu_ms for run in runs),
        )
        for place in range(len(models))
    ]
