"""A small model in a target: whether it is converted, computes the same there, and how long a pass takes."""

from __future__ import annotations

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.compressors.measure.timing import Latency
from raycompress.deployment.target import DeploymentTarget

_SIDE, _CHANNELS = 32, 16


def probe(target: DeploymentTarget) -> tuple[Latency, list[str]]:
    """Deploy a small convolutional network with random weights, and time it for a second; nothing of it is kept.

    Returns
    -------
    Its latency, and what happened meanwhile.

    Raises
    ------
    RaycompressError
        The runtime cannot be reached, convert or run it, or computes something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, _CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(_CHANNELS, 10),
        ).eval()
        example = Example.from_dummy(torch.randn(target.batch, 3, _SIDE, _SIDE))
    with Deployment(target, example, patience_s=0) as deployment:
        (latency,) = deployment.latencies([deployment.deploy(model, "probe")], seconds=1.0)
        return latency, deployment.notes
