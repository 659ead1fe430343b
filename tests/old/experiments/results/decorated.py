#!/usr/bin/env python3
"""The decorated form: main gets the keys of the config, returns the result, and has its model saved after that."""

import sys
from math import log

import aup
import torch
from aup import aup_args
from digits_net import Net, data_loaders, test, train
from torch import optim

SETTINGS = {}


def initialize(config):
    """Called with the config before main, for its name."""
    SETTINGS["epochs"] = int(config.get("epochs", 1))
    torch.manual_seed(1)


@aup_args
def main(compression_type, compression_framework, compressor, config_list):
    config = locals()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader, test_loader = data_loaders()
    model = Net().to(device)
    model.load_state_dict(torch.load("digits_pretrained.pth"))
    optimizer = optim.Adam(model.parameters(), lr=0.001)

    compressor = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    for epoch in range(SETTINGS["epochs"]):
        train(model, device, train_loader, optimizer, epoch)
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8).to(device))
    acc = test(model, device, test_loader)
    flops, _, _ = compressor.count_flops_params((1, 1, 8, 8))
    aup.aup_save_model(compressor.export_model, model_path="digits_model.pth", speedup=True)
    return (acc - 1.0) / log(flops)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print("which configuration?")
        exit(1)
    main(sys.argv[1])
