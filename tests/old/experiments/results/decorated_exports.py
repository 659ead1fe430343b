#!/usr/bin/env python3
"""The decorated form that asks for save_model and folder_name, and saves by itself."""

import sys
from math import log

import aup
import torch
from digits_net import Net, data_loaders, test, train
from torch import optim


@aup.aup_args
def main(compression_type, compression_framework, compressor, config_list, folder_name=None, save_model=False, **other):
    torch.manual_seed(1)
    config = locals()
    device = torch.device("cpu")
    train_loader, test_loader = data_loaders()
    model = Net().to(device)
    model.load_state_dict(torch.load("digits_pretrained.pth"))
    optimizer = optim.Adam(model.parameters(), lr=0.001)

    pruner = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = pruner.compress()
    train(model, device, train_loader, optimizer, 0)
    model = pruner.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    acc = test(model, device, test_loader)
    flops, _, _ = pruner.count_flops_params((1, 1, 8, 8))
    if save_model:
        pruner.export_model(model_path="digits_model.pth", mask_path="digits_mask.pth", folder_name=folder_name)
    return (acc - 1.0) / log(flops)


if __name__ == "__main__":
    main(sys.argv[1])
