"""What the weight of a layer needs in the file, by its bits: whole numbers, their scales and zero points.

=================  ====  =======================================================================================
compressor         bits  a weight of `outputs` rows of `inputs` values
=================  ====  =======================================================================================
all                >= 16  floats
``ptq_static``     8     int8; of convolutions and linear layers a float32 scale and an int8 zero point for each row,
                         or one of each; of tables and recurrent layers a float32 scale for each row
``ptq_dynamic``    8     int8, a float32 scale for each row, or one; of LSTMs with an int8 zero point
both               4     half a byte; a float32 scale for each block of 32 values of a row (see `block_of`), of
                         convolutions and recurrent layers for each row
``int8_weight_..`` 8     int8, a float32 scale and an int8 zero point for each row
\\                  4     half a byte; a bfloat16 scale for each group of up to 32 values of a row (see `group_of`)
=================  ====  =======================================================================================

Biases are added on demand. What a graph needs beside its weights is not part of this.
"""

from __future__ import annotations

BLOCK = 32
"""Values of a row that share a scale where weights have 4 bits."""
_LEAST_BLOCK = 16
"""The smallest block that onnxruntime's operators for 4 bits have."""
_LEAST_GROUP = 8
_FLOAT = 4
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_TABLES = frozenset({"Embedding", "Experts"})


def block_of(inputs: int) -> int:
    """Return how many values of a row share a scale in an ONNX file; the last block of a row may have fewer."""
    return _LEAST_BLOCK if inputs <= _LEAST_BLOCK else BLOCK


def group_of(inputs: int) -> int:
    """Return how many values of a row share a scale in a bundle of ``int8_weight_only``, which are whole groups.

    It is the largest divisor of `inputs` up to 32; a row whose divisors are too small is one group.
    """
    found = next(size for size in range(min(BLOCK, inputs), 0, -1) if inputs % size == 0)
    return found if found >= _LEAST_GROUP else inputs


def stored_bytes(
    compressor: str,
    kind: str,
    outputs: int,
    inputs: int,
    bits: int,
    *,
    per_channel: bool = True,
    bias: bool = False,
    float_bytes: int = _FLOAT,
) -> int:
    """Return the bytes of one weight in the file that a compressor writes.

    Parameters
    ----------
    compressor
        ``ptq_static``, ``ptq_dynamic`` or ``int8_weight_only``.
    kind
        Type of the layer: ``Linear``, ``Conv2d``, ``Embedding``, ``LSTM`` ... A kind that the compressor does not
        quantize is stored as floats.
    outputs, inputs
        Rows of the weight, and values of a row: output channels, and input channels of a group times the kernel's size;
        of a table its rows and their width; of a recurrent layer the gates' rows of one of its two matrices.
    bits
        Of the layer: 4, 8, or 16 and more for floats.
    per_channel
        The compressor's argument of that name; weights of 4 bits have scales for their rows or blocks in any case.
    bias
        Whether the bytes of a bias are added, one value for each output. ``ptq_static`` stores it as int32 with scales
        and zero points where the layer has 8 bits.
    float_bytes
        Bytes of a value of the float model; ONNX files are made of float32 alone.
    """
    if bits > 8 or not _quantizes(compressor, kind):
        return (outputs * inputs + (outputs if bias else 0)) * float_bytes
    added = outputs * float_bytes if bias else 0
    if compressor == "int8_weight_only":
        if bits > 4:
            return outputs * inputs + outputs * (_FLOAT + 1) + added
        return _packed(outputs * inputs) + outputs * (inputs // group_of(inputs)) * 2 + added
    if bits <= 4:
        return _four_bits(kind, outputs, inputs) + added
    scales = outputs if per_channel else 1
    if kind in _TABLES or (kind in _RECURRENT and (compressor == "ptq_static" or kind != "LSTM")):
        return outputs * inputs + outputs * _FLOAT + added
    if compressor == "ptq_dynamic":
        return outputs * inputs + scales * (_FLOAT + (kind == "LSTM")) + added
    integer_bias = outputs * 4 + scales * (_FLOAT + 4) if bias else 0
    return outputs * inputs + scales * (_FLOAT + 1) + integer_bias


def _four_bits(kind: str, outputs: int, inputs: int) -> int:
    """Return the bytes in an ONNX file: as `raycompress.compressors.quantization.int4.nodes` writes them."""
    if _is_convolution(kind) or kind in _RECURRENT:
        return _packed(outputs * inputs) + outputs * _FLOAT
    block = block_of(inputs)
    blocks = -(-inputs // block)
    whole = _packed(outputs * inputs) if kind in _TABLES else outputs * blocks * block // 2
    return whole + outputs * blocks * _FLOAT


def _packed(count: int) -> int:
    return -(-count // 2)


def _is_convolution(kind: str) -> bool:
    return kind.startswith("Conv") and kind != "Conv1D"  # which is the linear layer of GPT-2


def _quantizes(compressor: str, kind: str) -> bool:
    if compressor == "int8_weight_only":
        return not (_is_convolution(kind) or kind in _RECURRENT)
    return compressor == "ptq_static" or not _is_convolution(kind)
