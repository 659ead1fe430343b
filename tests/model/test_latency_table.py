"""A table of layer latencies: what lies between its points, past them, and what it makes of a model."""

from __future__ import annotations

import itertools
import json

import pytest

from raycompress.model.latency_table import LatencyTable, LayerLatency

AXES = ((8, 16, 64), (4, 32))


def time(inputs: int, outputs: int) -> float:
    """A time that is bilinear in the widths: the table knows it at its points, and everywhere."""
    return 1 + 0.5 * inputs + 0.25 * outputs + 0.125 * inputs * outputs


LAYER = LayerLatency("conv", AXES, tuple(time(*point) for point in itertools.product(*AXES)), 320)
NORM = LayerLatency("norm", ((8, 32),), (2.0, 5.0), 320)
TABLE = LatencyTable("cpu", (LAYER, NORM), 10.0, {"latency_ms": 600.0, "cpu_ms": 300.0})


@pytest.mark.parametrize("width", [(8, 4), (64, 32), (16, 17), (40, 11), (9, 5), (4, 2), (128, 64), (16, 32)])
def test_a_bilinear_time_is_met_everywhere(width: tuple[int, int]) -> None:
    assert LAYER.at(width) == pytest.approx(time(*width))


def test_a_layer_that_passes_its_channels_on_has_one_axis() -> None:
    assert [NORM.at((width, width)) for width in (8, 16, 32, 40)] == [2.0, 3.0, 5.0, 6.0]
    assert NORM.widest == (32, 32)


def test_one_width_is_the_same_at_all() -> None:
    assert LayerLatency("stem", ((3,), (8, 16)), (1.0, 2.0), 1).at((1, 12)) == 1.5


def test_no_time_is_below_nothing() -> None:
    assert LayerLatency("steep", ((8, 16),), (1.0, 9.0), 1).at((1, 1)) == 0.0


def test_a_share_is_of_the_dense_models_time() -> None:
    dense = time(64, 32) + 5.0 + 10.0
    assert TABLE.share({}) == TABLE.share({"conv": (64, 32), "other": (1, 1)}) == 1.0
    # of what is beside the layers a quarter stays, the rest goes with the activations, which are a half here
    narrow = time(64, 16) + 3.0 + 10.0 * (0.25 + 0.75 / 2)
    assert TABLE.share({"conv": (64, 16), "norm": (16, 16)}) == pytest.approx(narrow / dense)
    assert TABLE.predict({"conv": (64, 16), "norm": (16, 16)}) == pytest.approx(600 * narrow / dense)
    assert TABLE.predict({}, "cpu_ms") == 300.0


def test_a_model_without_layers_to_prune_stays_as_slow_as_it_is() -> None:
    assert LatencyTable("cpu", (), 1.0, {"latency_ms": 7.0}).predict({"conv": (1, 1)}) == 7.0


def test_it_is_plain_data() -> None:
    data = json.loads(json.dumps(TABLE.to_json()))
    assert LatencyTable.from_json(data) == TABLE
