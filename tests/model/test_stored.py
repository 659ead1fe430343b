"""Bytes of weights, by hand; tests/compressors/quantization/test_four_bits.py compares them with files."""

from __future__ import annotations

import pytest

from raycompress.model.stored import block_of, group_of, stored_bytes


@pytest.mark.parametrize(
    ("inputs", "block", "group"), [(64, 32, 32), (50, 32, 25), (16, 16, 16), (37, 32, 37), (3, 16, 3)]
)
def test_values_that_share_a_scale(inputs: int, block: int, group: int) -> None:
    assert (block_of(inputs), group_of(inputs)) == (block, group)


@pytest.mark.parametrize(
    ("compressor", "kind", "bits", "expected"),
    [
        ("ptq_static", "Linear", 32, 10 * 50 * 4),
        ("ptq_static", "Linear", 16, 10 * 50 * 4),
        ("ptq_static", "Linear", 8, 10 * 50 + 10 * 5),
        ("ptq_static", "Linear", 4, 10 * 2 * (16 + 4)),
        ("ptq_static", "Conv2d", 4, 10 * 25 + 10 * 4),
        ("ptq_dynamic", "Embedding", 4, 10 * 25 + 10 * 2 * 4),
        ("ptq_dynamic", "Conv2d", 4, 10 * 50 * 4),
        ("ptq_dynamic", "Conv1D", 8, 10 * 50 + 10 * 4),
        ("ptq_dynamic", "LSTM", 8, 10 * 50 + 10 * 5),
        ("int8_weight_only", "Linear", 8, 10 * 50 + 10 * 5),
        ("int8_weight_only", "Linear", 4, 10 * 25 + 10 * 2 * 2),
        ("int8_weight_only", "LSTM", 4, 10 * 50 * 4),
    ],
)
def test_bytes_of_ten_rows_of_fifty(compressor: str, kind: str, bits: int, expected: int) -> None:
    assert stored_bytes(compressor, kind, 10, 50, bits) == expected


def test_a_bias_and_a_scale_for_all() -> None:
    assert stored_bytes("ptq_static", "Linear", 10, 50, 4, bias=True) == 400 + 40
    assert stored_bytes("ptq_static", "Linear", 10, 50, 8, bias=True) == 550 + 10 * 12
    assert stored_bytes("ptq_static", "Linear", 10, 50, 8, per_channel=False) == 505
