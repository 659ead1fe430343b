"""The latency of a target by whole networks: what is fitted to synthetic times whose law is known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from raycompress.model.latency_fit import Sample, fitted, kendall_tau
from raycompress.model.latency_model import LatencyModel, LayerWork, latency_predictor, quantities
from raycompress.model.latency_table import LatencyTable, Widths

CHANNELS = (3, 64, 96, 128, 128, 256, 256)
POSITIONS = (1024, 256, 256, 64, 64, 16)
WORKS = tuple(
    LayerWork(f"conv{place}", "spatial", width, positions, 9)
    for place, (width, positions) in enumerate(zip(itertools.pairwise(CHANNELS), POSITIONS, strict=True))
)
Law = Callable[[Widths], float]


def rounded(step: int) -> Law:
    """A runtime that computes channels in multiples of `step`, and takes a fifth of the dense time beside."""

    def work(widths: Widths) -> float:
        up = [[math.ceil(one / step) * step for one in widths[layer.name]] for layer in WORKS]
        return sum(layer.positions * math.prod(pair) for layer, pair in zip(WORKS, up, strict=True))

    dense = work({layer.name: layer.width for layer in WORKS})
    return lambda widths: 0.2 + 0.8 * work(widths) / dense


def networks(count: int, seed: int) -> list[dict[str, tuple[int, int]]]:
    """Networks at random widths, some of them multiples of a step."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        step = (1, 8, 16, 32)[number % 4]
        left = [max(step, int(full * random.uniform(0.1, 1)) // step * step) for full in CHANNELS[1:]]
        pairs = itertools.pairwise([3, *left])
        found.append({layer.name: pair for layer, pair in zip(WORKS, pairs, strict=True)})
    return found


def samples(law: Law, count: int = 36, noise: float = 0.01, seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    found = []
    for widths in networks(count, seed):
        weights = 36.0 * sum(math.prod(pair) for pair in widths.values())
        share = law(widths) * math.exp(random.normal(0, noise))
        found.append(Sample(widths, share, weights, 5000 + 1.1 * weights))
    return found


def fit(known: Sequence[Sample]) -> LatencyModel:
    return fitted(WORKS, known, target="openvino", dense_ms={"latency_ms": 10.0, "cpu_ms": 8.0})


@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_the_step_of_a_runtime_is_found_and_unseen_widths_are_predicted(step: int) -> None:
    law = rounded(step)
    model = fit(samples(law))
    assert model.multiple == step or (step == 1 and not model.is_stepped)
    assert model.is_stepped is (step > 1)
    assert ("fastest at multiples of" in model.note) is (step > 1)
    unseen = networks(40, seed=1)
    errors = [abs(model.share(one) / law(one) - 1) for one in unseen]
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.9) < 0.03
    assert kendall_tau([model.share(one) for one in unseen], [law(one) for one in unseen]) > 0.95


def test_the_error_that_it_states_is_the_one_of_unseen_widths() -> None:
    law = rounded(8)
    model = fit(samples(law, noise=0.1))
    unseen = samples(law, 100, noise=0.1, seed=2)
    errors = [abs(model.share(one.widths) / one.share - 1) for one in unseen]
    assert model.accuracy.networks == 36
    assert model.accuracy.median == pytest.approx(float(np.median(errors)), rel=0.5)
    assert model.accuracy.ninth == pytest.approx(float(np.quantile(errors, 0.9)), rel=0.5)


def test_what_widths_tell_beyond_the_work_is_learnt() -> None:
    base = rounded(8)

    def law(widths: Widths) -> float:
        """One layer of which the upper half is dear."""
        return base(widths) * (1 + 0.4 * math.tanh(8 * (widths["conv3"][1] / 128 - 0.5))) / (1 + 0.4 * math.tanh(4))

    model = fit(samples(law))
    assert model.correction is not None
    assert set(model.correction.layers) == {layer.name for layer in WORKS}
    plain = replace(model, correction=None)
    unseen = networks(40, seed=1)
    errors, without = ([abs(one.share(each) / law(each) - 1) for each in unseen] for one in (model, plain))
    assert np.median(errors) < 0.7 * np.median(without)


def test_the_dense_model_has_its_own_latency_and_a_file_is_predicted_by_its_weights() -> None:
    model = fit(samples(rounded(8)))
    assert model.predict({}) == model.predict({layer.name: layer.width for layer in WORKS}) == 10.0
    assert model.predict({}, "cpu_ms") == 8.0
    assert model.file_bytes(1e6) == pytest.approx(5000 + 1.1e6)


def test_quantities_are_shares_of_the_dense_ones() -> None:
    works = (WORKS[1], LayerWork("bn", "fused", (96, 96), 256, 1), LayerWork("ln", "norm", (96, 96), 256, 1))
    narrow = {"conv1": (64, 48), "bn": (48, 48), "ln": (24, 24)}
    even = {"constant": 1.0, "spatial": 0.5, "outputs": 0.5, "weights": 0.5, "norms": 0.25, "uneven outputs": 0.0}
    assert quantities(works, {}, 1) == {**dict.fromkeys(even, 1.0), "uneven outputs": 0.0}
    assert quantities(works, narrow, 1) == quantities(works, narrow, 1, 16) == even
    assert quantities(works, narrow, 1, 32) == {**even, "uneven outputs": 0.5}
    assert quantities(works, narrow, 32)["spatial"] == 64 / 96
    assert quantities((), {}, 8) == {"constant": 1.0}


def test_it_is_plain_data_and_tables_of_old_journals_load() -> None:
    model = fit(samples(rounded(8)))
    data = json.loads(json.dumps(model.to_json()))
    assert latency_predictor(data) == model
    table = LatencyTable("cpu", (), 1.0, {"latency_ms": 7.0})
    assert latency_predictor(json.loads(json.dumps(table.to_json()))) == table


def test_kendalls_tau_is_scipys() -> None:
    from scipy.stats import kendalltau

    left, right = np.random.default_rng(0).random((2, 20)).tolist()
    assert kendall_tau(left, right) == pytest.approx(kendalltau(left, right).statistic)
