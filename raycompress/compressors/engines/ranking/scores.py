"""What a filter, or a channel, is worth: one number each, small for those that go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

Score = Callable[[Tensor], Tensor]


def l1(weight: Tensor) -> Tensor:
    """Return the sum of absolute weights of each filter, of shape (filters,).

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """
    return weight.abs().flatten(1).sum(dim=1)


def l2(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each filter, of shape (filters,)."""
    return (weight.flatten(1) ** 2).sum(dim=1).sqrt()


def fpgm(weight: Tensor) -> Tensor:
    """Return how far each filter is from all others together: least for those near the geometric median.

    He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019.
    """
    filters = weight.flatten(1)
    # one filter at a time: differences of all pairs at once are filters * filters * weights numbers
    distances = [((filters - filters[index]) ** 2).sum(dim=1).sqrt().sum() for index in range(len(filters))]
    return torch.stack(distances).float()


FILTERS: Mapping[str, Score] = {"l1": l1, "l2": l2, "fpgm": fpgm}
"""Scores of filters by their weights alone."""


def active_share(activations: Tensor) -> Tensor:
    """Return the share of positions of each channel that are not zero, of shape (channels,): 1 - APoZ.

    Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, 2016.

    Parameters
    ----------
    activations
        After the activation function, of shape (batch, channels, height, width).
    """
    positions = activations.numel() // activations.size(1)
    zeros = (activations == 0).sum(dim=(0, 2, 3), dtype=torch.float64)
    return 1 - zeros / positions


def mean_activation(activations: Tensor) -> Tensor:
    """Return the mean of each channel, of shape (channels,).

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017.
    """
    return activations.mean(dim=(0, 2, 3))


ACTIVATIONS: Mapping[str, Score] = {"apoz": active_share, "mean_activation": mean_activation}
"""Scores of filters by what comes out of them."""

ACTIVATION_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "relu6": functional.relu6}


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the squared first-order change of the loss without each weight, summed over each filter.

    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019.
    """
    return (weight * gradient).pow(2).flatten(1).sum(dim=1)
