"""All networks, by name."""

from __future__ import annotations

from tests.zoo import other_networks, timm_networks, torchvision_networks, transformers_networks
from tests.zoo.network import Network


def catalogue() -> dict[str, Network]:
    """Return name -> network. No library of networks is imported yet."""
    modules = (torchvision_networks, timm_networks, transformers_networks, other_networks)
    return {network.name: network for module in modules for network in module.networks()}
