"""The weights that the scripts load: networks of theirs, trained for two epochs."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.old.experiments.digits_net import Net, NetBN, data_loaders, train


def write_weights(folder: Path) -> None:
    """Write ``digits_pretrained.pth`` and ``digits_bn_pretrained.pth``; the same each time."""
    for network, name in ((Net, "digits_pretrained.pth"), (NetBN, "digits_bn_pretrained.pth")):
        torch.manual_seed(0)
        model = network()
        loader, _ = data_loaders()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for epoch in range(2):
            train(model, torch.device("cpu"), loader, optimizer, epoch)
        torch.save(model.state_dict(), folder / name)
