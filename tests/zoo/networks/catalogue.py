"""All networks, by name."""

from __future__ import annotations

from tests.zoo.networks import from_timm, from_torchvision, from_transformers, others
from tests.zoo.networks.network import Network


def catalogue() -> dict[str, Network]:
    """Return name -> network. No library of networks is imported yet."""
    modules = (from_torchvision, from_timm, from_transformers, others)
    return {network.name: network for module in modules for network in module.networks()}
