"""What each ATen operation does to the atoms of its operands; an operation without a rule freezes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raycompress.compressors.structure.axes.arithmetic import (
    grouped_product,
    matrix_vector,
    multiplied,
    multiplied_and_added,
    pointwise,
    reduced,
    rigid_along_dim,
    spatial,
)
from raycompress.compressors.structure.axes.call import Call, flat
from raycompress.compressors.structure.axes.labels import Block, Labels
from raycompress.compressors.structure.axes.layers import (
    attended,
    convolution,
    embedded,
    folded,
    linear,
    normalized_batch,
    normalized_group,
    normalized_layer,
    regions,
    unfolded,
    weight_norm,
)
from raycompress.compressors.structure.axes.movement import (
    concatenated,
    expanded,
    fixed,
    moved,
    passed,
    permuted,
    restrided,
    written,
)
from raycompress.errors import CompressionError

Rule = Callable[[Call], Sequence[Labels]]


def follow(call: Call) -> Sequence[Labels]:
    """Return the labels of the results of one operation."""
    tensors = [value for value in flat((call.args, call.kwargs)) if isinstance(value, Tensor)]
    if call.name == "bernoulli" and not call.labels(tensors[0]).blocks:
        # torch's dropout of whole channels draws a new tensor, which follows its input in length
        blocks = (Block((dim,), call.table.create(size)) for dim, size in enumerate(call.shape) if size > 1)
        return call.plain(Labels(call.shape, tuple(blocks)))
    if call.name in _LIKE:
        return call.plain(call.labels(tensors[0]))
    if call.name in _CREATED or not any(call.labels(tensor).blocks for tensor in tensors):
        if call.name == "expand" or (torch.Tag.pointwise in call.function.tags and call.name != "copy"):
            return RULES.get(call.name, pointwise)(call)  # what was repeated is remembered
        return call.plain()
    rule = RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.function.tags:
        rule = pointwise
    if rule is None:
        call.table.unknown.add(call.name)
        return _frozen(call, tensors, "which is not followed")
    try:
        return rule(call)
    except CompressionError as error:  # too many positions at a time
        return _frozen(call, tensors, f"where {error.problems[0].what}")


def _frozen(call: Call, tensors: Sequence[Tensor], why: str) -> Sequence[Labels]:
    for tensor in tensors:
        call.table.freeze(call.labels(tensor).atoms, f"{call.reason}, {why}")
    return call.plain()


def _table(rules: dict[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rules.items() for name in names.split()}


_LIKE = frozenset(
    [
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "bernoulli",
        "new_empty_strided",
    ]
)
"""What has the shape of its operand, and would follow it."""
_CREATED = frozenset(["new_zeros", "new_ones", "new_full", "new_empty", "_local_scalar_dense", "is_nonzero", "equal"])
"""What depends on no element of its operands."""
RULES = _table(
    {
        permuted: "permute transpose t squeeze unsqueeze",
        expanded: "expand",
        restrided: "as_strided",
        passed: """
            clone contiguous detach alias _to_copy lift lift_fresh native_dropout dropout feature_dropout tril triu
            fill zero normal uniform
        """,
        written: """
            index_put _index_put_impl index_copy index_add index_fill scatter scatter_reduce select_scatter
            slice_scatter
        """,
        fixed: """
            nonzero masked_select _unique2 unique_dim unique_consecutive bincount histc nms mse_loss smooth_l1_loss
            huber_loss binary_cross_entropy binary_cross_entropy_with_logits nll_loss_forward nll_loss2d_forward
            soft_margin_loss multi_margin_loss multilabel_margin_loss_forward cdist _cdist_forward
        """,
        moved: """
            view _unsafe_view reshape _reshape_alias slice select narrow split split_with_sizes unsafe_split chunk
            unsafe_chunk unbind roll flip movedim constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
            replication_pad1d replication_pad2d replication_pad3d unfold pixel_shuffle pixel_unshuffle
            channel_shuffle repeat repeat_interleave tile index index_select gather take_along_dim diagonal
        """,
        concatenated: "cat stack",
        pointwise: """
            copy where masked_fill clamp clamp_min clamp_max rrelu_with_noise _prelu_kernel prelu lerp addcmul addcdiv
            bitwise_not logical_not floor_divide remainder fmod nan_to_num hardtanh pow threshold celu elu rsub
            hardswish hardsigmoid relu6 silu mish gelu leaky_relu selu softplus log_sigmoid_forward
            softshrink hardshrink
        """,
        rigid_along_dim: """
            _softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod cummax cummin logcumsumexp sort topk
            scatter_add
        """,
        reduced: """
            sum mean amax amin max min prod var std var_mean std_mean logsumexp norm linalg_vector_norm argmax argmin
            any all count_nonzero
        """,
        spatial: """
            max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d
            adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
            adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
            _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
            _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d
        """,
        multiplied: "mm bmm",
        multiplied_and_added: "addmm baddbmm",
        matrix_vector: "mv dot vdot",
        linear: "linear",
        convolution: "convolution _convolution mkldnn_convolution conv1d conv2d conv3d",
        normalized_batch: """
            native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm
            _batch_norm_with_update _batch_norm_no_update
        """,
        normalized_layer: "native_layer_norm layer_norm _fused_rms_norm rms_norm",
        normalized_group: "native_group_norm group_norm",
        embedded: "embedding",
        unfolded: "im2col",
        folded: "col2im",
        regions: "roi_align roi_pool",
        grouped_product: "_grouped_mm",
        attended: """
            scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
            _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
            _scaled_dot_product_attention_math
        """,
        weight_norm: "_weight_norm _weight_norm_interface",
    }
)
"""Name of an operation, without the underscore of its in-place form -> its rule."""
