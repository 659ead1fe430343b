#!/usr/bin/env python3
"""Look for a winning ticket."""

import argparse
import sys
from math import log

import aup
import torch
from digits_net import Net, data_loaders, test, train
from torch import optim


def main(config):
    parser = argparse.ArgumentParser(description="compress a CNN for digits")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.001)
    args, _ = parser.parse_known_args()

    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader, test_loader = data_loaders()
    model = Net().to(device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)

    compressor = aup.compression.create_compressor(
        model, config, optimizer=optimizer, lr_scheduler=scheduler, reset_weights=True
    )
    model = compressor.compress()
    for iteration in compressor.get_prune_iterations():
        compressor.prune_iteration_start()
        best = 0.0
        for epoch in range(args.epochs):
            train(model, device, train_loader, optimizer, epoch)
            scheduler.step()
            best = max(best, test(model, device, test_loader))
        print(f"iteration {iteration}: best accuracy {best}")
    acc = test(model, device, test_loader)
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    compressor.export_model(model_path="digits_model.pth", mask_path="digits_mask.pth", save_best_only=True, **config)
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
