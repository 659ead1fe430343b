"""How far outputs are apart is one number, whatever made them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raycompress.compressors.measure.difference import relative_difference

ONE, OTHER = [np.array([[3.0, 0.0], [0.0, 4.0]])], [np.array([[3.0, 0.0], [0.0, 4.5]])]


def test_it_is_the_norm_of_the_difference_over_the_norm_of_what_was_expected() -> None:
    assert relative_difference(ONE, OTHER) == pytest.approx(0.5 / 5.0)
    assert relative_difference([*ONE, np.array([12.0])], [*OTHER, np.array([12.0])]) == pytest.approx(0.5 / 13.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_and_arrays_give_the_same_number(dtype: torch.dtype) -> None:
    tensors = [[torch.tensor(array, dtype=dtype, requires_grad=True) for array in arrays] for arrays in (ONE, OTHER)]
    assert relative_difference(*tensors) == relative_difference(ONE, OTHER)
    assert relative_difference(tensors[0], OTHER) == relative_difference(ONE, OTHER)


def test_what_cannot_be_compared_is_never_small() -> None:
    nan, inf, zeros = np.array([math.nan, 1.0]), np.array([math.inf, 1.0]), np.zeros(2)
    assert math.isinf(relative_difference(ONE, [np.zeros(4)]))
    assert math.isinf(relative_difference(ONE, []))
    assert math.isinf(relative_difference([zeros], [np.array([0.0, 1e-9])]))
    assert math.isnan(relative_difference([nan], [nan]))
    assert relative_difference([inf], [inf]) == relative_difference([zeros], [zeros]) == 0.0
    assert not relative_difference([inf], [-inf]) <= 1.0
