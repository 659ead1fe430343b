#!/usr/bin/env python3
"""Prune filters by their BatchNorm weights."""

import argparse
import sys
from math import log

import aup
import torch
from digits_net import NetBN, data_loaders, test, train
from torch import optim


def main(config):
    parser = argparse.ArgumentParser(description="compress a CNN for digits")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.001)
    args, _ = parser.parse_known_args()

    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader, test_loader = data_loaders()
    model = NetBN().to(device)
    model.load_state_dict(torch.load("digits_bn_pretrained.pth"))
    optimizer = optim.Adam(model.parameters(), lr=args.lr)

    compressor = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    for epoch in range(args.epochs):
        train(model, device, train_loader, optimizer, epoch)
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8).to(device))
    acc = test(model, device, test_loader)
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    if "save_model" in config and config["save_model"]:
        compressor.export_model(
            model_path="digits_model.pth",
            mask_path="digits_mask.pth",
            speedup=True,
            folder_name=config["folder_name"],
        )
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
