"""One rule from a sparsity to a number of channels."""

from __future__ import annotations

import pytest

from raycompress.catalog.rounding import removable, removed_count


@pytest.mark.parametrize("total", [1, 7, 50, 90, 100, 1000])
def test_a_share_of_the_total_is_that_many(total: int) -> None:
    assert [removed_count(total, count / total) for count in range(total + 1)] == list(range(total + 1))


@pytest.mark.parametrize(
    ("total", "sparsity", "expected"), [(100, 0.29, 29), (90, 0.7, 63), (10, 0.45, 4), (16, 0.05, 0), (3, 0.999, 2)]
)
def test_a_product_is_rounded_down_but_not_by_the_binary_rounding_of_a_decimal(
    total: int, sparsity: float, expected: int
) -> None:
    assert removed_count(total, sparsity) == removable(total, sparsity) == expected
