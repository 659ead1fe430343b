"""Rules of convolutions, norms, embeddings and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raycompress.compressors.structure.axes.arithmetic import contract
from raycompress.compressors.structure.axes.call import Call, with_length
from raycompress.compressors.structure.axes.labels import Block, Labels, unify


def linear(call: Call) -> Sequence[Labels]:
    """``linear``, where it is executed as one operation."""
    source, weight, bias = call.labels(call.args[0]), call.labels(call.args[1]), call.argument("bias")
    source, weight = contract(call, source, weight, len(source.shape) - 1, 1)
    out = Labels((weight.shape[0],), weight.blocks)
    operands = [Labels(with_length(call.shape, len(call.shape) - 1, 1), source.blocks), out]
    operands += [call.labels(bias)] if isinstance(bias, Tensor) else []
    return call.plain(unify(call.shape, operands, call.table, call.reason))


def convolution(call: Call) -> Sequence[Labels]:
    """A convolution of any dimension, transposed or not, with groups."""
    source, weight, bias = call.labels(call.args[0]), call.labels(call.args[1]), call.argument("bias")
    groups, transposed = int(call.argument("groups") or 1), bool(call.argument("transposed"))
    rank = len(weight.shape)
    batched = len(source.shape) == rank
    channel = 1 if batched else 0
    source = source.rigid([dim for dim in range(len(source.shape)) if dim != channel], call.table, call.reason)
    weight = weight.rigid(range(2, rank), call.table, call.reason)
    if groups == 1:
        incoming, outgoing = (0, 1) if transposed else (1, 0)
        source, weight = contract(call, source, weight, channel, incoming)
        found = weight.at(outgoing)
    else:
        found = _grouped(call, source, weight, channel, groups, transposed)
    labels = Labels(call.shape, () if found is None else (Block((channel,), found.atoms),))
    if isinstance(bias, Tensor):
        own = call.labels(bias)
        shape = tuple(own.shape[0] if dim == channel else 1 for dim in range(len(call.shape)))
        labels = unify(call.shape, [labels, own.resized(shape, lambda _dim: channel)], call.table, call.reason)
    return call.plain(labels)


def _grouped(call: Call, source: Labels, weight: Labels, channel: int, groups: int, transposed: bool) -> Block | None:
    """Tie the channels of a grouped convolution; return those of its output.

    Depthwise: each output goes with its input. Otherwise whole groups go where there are more groups than channels in
    one, and the same channels of every group where there are fewer.
    """
    table, reason = call.table, call.reason
    incoming = source.at(channel)
    into = source.shape[channel]
    out = call.shape[channel]
    first, second = weight.at(0), weight.at(1)  # (out, in / groups); of a transposed one (in, out / groups)
    arrived = np.zeros(into, dtype=np.int64) if incoming is None else incoming.atoms
    per_in, per_out = into // groups, out // groups
    rows = groups >= per_in
    grouped_in = arrived.reshape(groups, per_in)
    table.tie(grouped_in, grouped_in[:, :1] if rows else grouped_in[:1], reason)
    if transposed:
        if first is not None:
            table.tie(arrived, first.atoms, reason)
        else:
            table.freeze(arrived, reason)
        if rows and second is not None:
            table.freeze(second.atoms, reason)
        if rows:
            return Block((0,), np.repeat(grouped_in[:, 0], per_out))
        return Block((0,), np.zeros(out, dtype=np.int64) if second is None else np.tile(second.atoms, groups))
    outgoing = first.atoms if first is not None else np.zeros(out, dtype=np.int64)
    grouped_out = outgoing.reshape(groups, per_out)
    if rows:
        table.tie(grouped_out, grouped_in[:, :1], reason)
        if second is not None:
            table.freeze(second.atoms, reason)
    else:
        table.tie(grouped_out, grouped_out[:1], reason)
        if second is not None:
            table.tie(grouped_in, second.atoms[None, :], reason)
        else:
            table.freeze(arrived, reason)
    return Block((0,), outgoing)


def normalized_batch(call: Call) -> Sequence[Labels]:
    """BatchNorm: all its tensors run along the channels."""
    source = call.labels(call.args[0])
    rank = len(source.shape)
    operands = [source]
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = call.argument(name)
        if isinstance(value, Tensor):
            own = call.labels(value)
            shape = tuple(own.shape[0] if dim == 1 else 1 for dim in range(rank))
            operands.append(own.resized(shape, lambda _dim: 1))
    return call.plain(unify(call.shape, operands, call.table, call.reason))


def normalized_layer(call: Call) -> Sequence[Labels]:
    """LayerNorm and RMSNorm over the last dimensions."""
    source = call.labels(call.args[0])
    count = len(call.argument("normalized_shape"))
    if count > 1 or ((block := source.at(-1)) is not None and len(block.dims) > 1):
        over = f"{call.reason}, a norm over {count} dimensions" if count > 1 else call.reason
        source = source.rigid(range(len(source.shape) - count, len(source.shape)), call.table, over)
    operands = [source]
    for name in ("weight", "bias"):
        value = call.argument(name)
        if isinstance(value, Tensor):
            operands.append(call.labels(value))
    return call.plain(unify(call.shape, operands, call.table, call.reason))


def normalized_group(call: Call) -> Sequence[Labels]:
    """GroupNorm: each group keeps as many channels as every other."""
    source = call.labels(call.args[0])
    groups = int(call.argument("group") or call.argument("num_groups"))  # the latter under torch.inference_mode
    block = source.at(1)
    if block is not None and len(block.dims) > 1:
        source = source.rigid([dim for dim in block.dims if dim != 1], call.table, call.reason)
        block = source.at(1)
    if block is not None and groups > 1:
        grouped = block.atoms.reshape(groups, -1)
        call.table.tie(grouped, grouped[:1], call.reason)
    rank = len(source.shape)
    operands = [source]
    for name in ("weight", "bias"):
        value = call.argument(name)
        if isinstance(value, Tensor):
            own = call.labels(value)
            operands.append(own.resized(tuple(own.shape[0] if d == 1 else 1 for d in range(rank)), lambda _dim: 1))
    return call.plain(unify(call.shape, operands, call.table, call.reason))


def embedded(call: Call) -> Sequence[Labels]:
    """Rows of a table: which rows there are is fixed."""
    weight = call.labels(call.args[0]).rigid([0], call.table, call.reason)
    block = weight.at(1)
    blocks = () if block is None else (Block((len(call.shape) - 1,), block.atoms),)
    return call.plain(Labels(call.shape, blocks))


def attended(call: Call) -> Sequence[Labels]:
    """Scaled dot product attention: whole heads go, from queries, keys and values at once."""
    query, key, value = (call.labels(call.args[place]) for place in range(3))
    rank = len(query.shape)
    query = query.rigid([rank - 2, rank - 1], call.table, call.reason)
    key = key.rigid([rank - 2, rank - 1], call.table, call.reason)
    value = value.rigid([rank - 2], call.table, call.reason)
    heads = rank - 3
    key, value = (_repeated(labels, heads, query.shape[heads]) for labels in (key, value))
    shape = call.shape
    ones = with_length(with_length(shape, rank - 1, 1), rank - 2, 1)
    operands = [
        Labels(ones, query.blocks),
        Labels(ones, key.blocks),
        Labels(with_length(shape, rank - 2, 1), value.blocks),
    ]
    for name in ("attn_mask", "attn_bias"):
        mask = call.argument(name)
        if isinstance(mask, Tensor):
            added = call.labels(mask)
            last = len(added.shape)
            added = added.rigid([last - 2, last - 1], call.table, call.reason)
            operands.append(Labels((*added.shape[:-2], 1, 1), added.blocks))
    return call.plain(unify(shape, operands, call.table, call.reason))


def _repeated(labels: Labels, dim: int, length: int) -> Labels:
    """Return labels whose dimension is repeated to a length, element by element: grouped keys."""
    if labels.shape[dim] == length:
        return labels
    times = length // labels.shape[dim]
    blocks = tuple(
        Block(block.dims, np.repeat(block.atoms, times, axis=block.dims.index(dim))) if dim in block.dims else block
        for block in labels.blocks
    )
    return Labels(with_length(labels.shape, dim, length), blocks)


def weight_norm(call: Call) -> Sequence[Labels]:
    """``_weight_norm_interface``: a direction and its length."""
    direction, length = call.labels(call.args[0]), call.labels(call.args[1])
    return call.plain(unify(call.shape, [direction, length], call.table, call.reason))


def regions(call: Call) -> Sequence[Labels]:
    """``roi_align`` and ``roi_pool``: the channels of an image pass to each of its regions."""
    source = call.labels(call.args[0]).rigid([0, 2, 3], call.table, call.reason)
    call.table.freeze(call.labels(call.args[1]).atoms, call.reason)
    return [Labels(tuple(result.shape), source.blocks) for result in call.results]


def unfolded(call: Call) -> Sequence[Labels]:
    """``im2col``: each channel becomes one row for each position in a window."""
    channel = len(call.labels(call.args[0]).shape) - 3
    found = _alone(call, channel)
    rows = () if found is None else (Block((channel,), np.repeat(found.atoms, _window(call))),)
    return call.plain(Labels(call.shape, rows))


def folded(call: Call) -> Sequence[Labels]:
    """``col2im``: the rows of all positions in a window become one channel."""
    channel = len(call.labels(call.args[0]).shape) - 2
    found = _alone(call, channel)
    if found is None:
        return call.plain()
    rows = found.atoms.reshape(-1, _window(call))
    call.table.tie(rows, rows[:, :1], call.reason)
    return call.plain(Labels(call.shape, (Block((channel,), rows[:, 0]),)))


def _alone(call: Call, channel: int) -> Block | None:
    """Return the block of one dimension of the first operand; the others keep their lengths."""
    source = call.labels(call.args[0])
    rest = [dim for dim in range(len(source.shape)) if dim != channel]
    return source.rigid(rest, call.table, call.reason).at(channel)


def _window(call: Call) -> int:
    return math.prod(call.argument("kernel_size"))
