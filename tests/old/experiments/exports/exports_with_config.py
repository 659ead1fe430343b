#!/usr/bin/env python3
"""Hands its whole config to export_model."""

import sys
from math import log

import aup
import torch
from digits_net import Net, data_loaders, test, train
from torch import optim


def main(config):
    torch.manual_seed(1)
    device = torch.device("cpu")
    train_loader, test_loader = data_loaders()
    model = Net().to(device)
    model.load_state_dict(torch.load("digits_pretrained.pth"))
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    compressor = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    train(model, device, train_loader, optimizer, 0)
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    acc = test(model, device, test_loader)
    flops, _, _ = compressor.count_flops_params((1, 1, 8, 8))
    compressor.export_model(model_path="digits_model.pth", mask_path="digits_mask.pth", **config)
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    config = aup.BasicConfig().load(sys.argv[1])
    main(config)
