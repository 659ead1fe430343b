"""Every pruner on every kind of network does what docs/compressors.md says: small, masked, or refused at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support import quantizer_table
from tests.tables import catalogue
from tests.tables.document import PAGE, plain, quantizer_row, reason, written
from tests.tables.matrix import NETWORKS, PRUNERS, run
from tests.tables.reloader import Reloader


@pytest.fixture(scope="module")
def reloader() -> Iterator[Reloader]:
    torch.set_num_threads(1)
    with Reloader() as process:
        yield process


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pruner", PRUNERS)
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
