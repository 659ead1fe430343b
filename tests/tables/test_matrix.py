"""Every pruner on every kind of network does what docs/compressors.md says: small, masked, or refused at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from raycompress.catalog import find
from tests.support.models import quantizer_table
from tests.tables import catalogue
from tests.tables.document import PAGE, plain, quantizer_row, reason, written
from tests.tables.matrix import NETWORKS, PRUNERS, run
from tests.tables.reloader import Reloader


@pytest.fixture(scope="module")
def reloader() -> Iterator[Reloader]:
    torch.set_num_threads(1)
    with Reloader() as process:
        yield process


def by_day() -> set[tuple[str, str]]:
    """Return cells: each pruner with each outcome that it has, each library with each outcome on each network."""
    words = written(PAGE.read_text())
    seen: set[tuple[str, ...]] = set()
    chosen = set()
    for turn, pruner in enumerate(PRUNERS):
        entry = find(pruner)
        assert entry is not None
        for step in range(len(NETWORKS)):
            network = NETWORKS[(turn + step) % len(NETWORKS)]
            word = words.get((pruner, network), "")
            met = {(pruner, word), (entry.engine.split(".")[3], network, word)}  # raycompress.compressors.engines.<it>
            if not met <= seen:
                chosen.add((pruner, network))
                seen |= met
    return chosen


def cells() -> Iterator[object]:
    """Yield all cells; those that are not of the day wait for the night."""
    day = by_day()
    for pruner, network in itertools.product(PRUNERS, NETWORKS):
        marks = () if (pruner, network) in day else pytest.mark.night
        yield pytest.param(pruner, network, id=f"{pruner}-{network}", marks=marks)


@pytest.mark.parametrize(("pruner", "network"), cells())
def test_cell(pruner: str, network: str, reloader: Reloader) -> None:
    outcome, page = run(pruner, network, reloader), PAGE.read_text()
    said = plain(outcome.refusal, pruner)
    assert (outcome.cell, said) == (written(page).get((pruner, network)), reason(page, pruner, network))
    if not outcome.refusal:
        masked, sliced = outcome.accuracy
        assert masked == sliced
        assert outcome.reload <= 1e-4


def test_the_page_says_what_the_catalogue_says() -> None:
    assert catalogue.markdown() in PAGE.read_text(), "run `make docs`"


def test_the_page_says_what_quantizers_save() -> None:
    page = PAGE.read_text()
    for row in quantizer_table.rows(networks=("mlp",)):
        before, after, dense, quantized = quantizer_row(page, row.quantizer, row.network)
        assert (row.before, row.after) == (before, after)
        assert (row.dense, row.quantized) == pytest.approx((dense, quantized), abs=0.02)
