"""How fast a model is: what the interval promises, who is measured, and when that is said."""

from __future__ import annotations

import math
import random
import statistics
import threading
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure import timing
from raycompress.compressors.quantization import session
from raycompress.results.report.formatting import warning
from raycompress.script import node
from tests.support.models.networks import CONVOLUTIONS, DUMMY, train, trained
from tests.support.models.quantizing import quantized

MEASURED = ("latency_ms", "latency_low_ms", "latency_high_ms", "cpu_ms")
LEVEL = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
FILTERS = {"compressor": "l1_filter", "config_list": CONVOLUTIONS}


@pytest.mark.parametrize("count", [6, 8, 20, 30, 60, 240])
def test_the_interval_is_the_narrowest_that_misses_the_median_once_in_twenty(count: int) -> None:
    low, high = timing.interval(range(1, count + 1))
    assert low + high == count + 1
    missed = [2 * sum(math.comb(count, k) for k in range(rank)) / 2**count for rank in (int(low), int(low) + 1)]
    assert missed[0] <= 0.05 < missed[1]


def test_the_interval_holds_the_median_of_skewed_times() -> None:
    random.seed(0)
    found = [timing.interval([random.lognormvariate(0, 1) for _ in range(30)]) for _ in range(2000)]
    assert 0.94 < statistics.mean(low <= 1 <= high for low, high in found) < 0.98


def test_of_few_times_the_interval_is_all_of_them() -> None:
    assert [timing.interval(range(count)) for count in (1, 2, 5)] == [(0, 0), (0, 1), (0, 4)]


@pytest.mark.parametrize(
    ("spread", "seconds", "expected"),
    [(0.0, 60.0, 30), (1.0, 60.0, 240), (1.0, 0.0, timing.FEWEST)],
    ids=["sharp", "never sharp", "no time"],
)
def test_there_are_as_many_rounds_as_the_interval_needs(spread: float, seconds: float, expected: int) -> None:
    random.seed(0)
    times: list[timing.Times] = [[], []]
    for number in timing.rounds(times, 30, 240, seconds):
        assert number == len(times[0])
        for measured in times:
            measured.append((1 + spread * random.random(), 1.0))
    assert len(times[0]) == expected


def test_two_measurements_of_one_machine_wait_for_each_other() -> None:
    done: list[Any] = []
    model, example = nn.Linear(2, 2), Example.from_dummy(torch.zeros(1, 2))
    thread = threading.Thread(target=lambda: done.extend(measure.latencies([model], example)))
    with node.locked(node.MEASURING):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(60)
    assert len(done) == 1
    assert 0 < done[0].low_ms <= done[0].wall_ms <= done[0].high_ms


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that were measured last, in their order."""
    models: list[nn.Module] = []
    original = measure.latencies

    def latencies(given: list[nn.Module], example: Example) -> list[timing.Latency]:
        models[:] = given
        assert example.shapes[0][0] == 1
        return original(given, example, 6, 1, most=6)

    monkeypatch.setattr(measure, "latencies", latencies)
    return models


@pytest.mark.parametrize(("config", "small"), [(FILTERS, True), (FILTERS, False), (LEVEL, False)])
def test_a_trial_measures_what_it_saves_beside_the_dense_model(
    enter: Any, timed: list[nn.Module], config: Any, small: bool
) -> None:
    trial, sent = enter("trial", latency=True)
    model = trained("cnn")
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compressor = create_compressor(model, config)
    compressor.compress()
    train(model, 3)
    if small:
        compressor.apply_speedup()
    compressor.export_model("model.pth")
    before, after = sent[-1]["before"], sent[-1]["after"]
    for side in (before, after):
        assert 0 < side["latency_low_ms"] <= side["latency_ms"] <= side["latency_high_ms"]
        assert side["cpu_ms"] > 0
    manifest = bundle.read(trial.candidate)
    stored = (manifest.before.model_dump(exclude_none=True), manifest.after.model_dump(exclude_none=True))
    assert stored == (before, after)
    first, second = timed
    assert first.state_dict().keys() == dense.keys()
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in dense.items())
    assert second is not model
    assert all(torch.equal(second.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for each in timed for module in each.modules())
    assert measure.parameters(second) == after["params"]
    assert (after["params"] < before["params"]) == small


def test_nothing_is_measured_unasked(enter: Any, timed: list[nn.Module]) -> None:
    trial, sent = enter("trial")
    compressor = create_compressor(trained("cnn"), LEVEL, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("model.pth")
    assert not timed
    assert not set(MEASURED) & (set(sent[-1]["before"]) | set(sent[-1]["after"]))
    assert bundle.read(trial.candidate).after.latency_ms is None


@pytest.mark.parametrize("name", ["qat", "ptq_dynamic"])
def test_of_a_quantized_model_the_int8_file_is_measured(name: str, enter: Any, timed: list[nn.Module]) -> None:
    trial, sent = enter("trial", latency=True)
    _, compressor = quantized(name)
    compressor.export_model("model.pth")
    assert [session.installed(model) is not None for model in timed] == [False, True]
    assert all(sent[-1][side][key] > 0 for side in ("before", "after") for key in MEASURED)
    assert bundle.read(trial.candidate).after.latency_ms == sent[-1]["after"]["latency_ms"]


DENSE = {"flops": 100, "latency_ms": 2.0, "latency_low_ms": 1.9, "latency_high_ms": 2.1}


@pytest.mark.parametrize(
    ("flops", "latency", "warns"),
    [
        *((41, (1.96, 1.85, 2.05), True), (41, (1.0, 0.9, 1.89), False), (41, (1.95, 1.9, 1.9), True)),
        *((95, (2.0, 1.9, 2.1), False), (89, (3.0, 2.9, 3.1), True)),
    ],
)
def test_a_latency_that_did_not_fall_with_the_flops_is_told(
    flops: int, latency: tuple[float, float, float], warns: bool
) -> None:
    middle, low, high = latency
    after = {"flops": flops, "latency_ms": middle, "latency_low_ms": low, "latency_high_ms": high}
    said = warning(DENSE, after)
    assert bool(said) == warns
    if warns:
        assert said.startswith(
            f"FLOPs fell to {flops} % and latency did not ({50 * middle:.0f} % of the dense model's)"
        )


@pytest.mark.parametrize("sizes", [None, {}, {"flops": 41}, {**DENSE, "flops": None}, {**DENSE, "latency_ms": None}])
def test_what_was_not_measured_is_no_reason_to_warn(sizes: Any) -> None:
    assert warning(DENSE, sizes) == warning(sizes, DENSE) == ""
