#!/usr/bin/env python3
"""Train towards what pruning would leave, then prune."""

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
    model.load_state_dict(torch.load("digits_pretrained.pth"))
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)

    def trainer(model, criterion, optimizer, epoch, callback):
        train(model, device, train_loader, optimizer, epoch, criterion, callback)
        scheduler.step()

    compressor = aup.compression.create_compressor(model, config, trainer=trainer, num_iterations=2, training_epochs=1)
    model = compressor.compress()
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
