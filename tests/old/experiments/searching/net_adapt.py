#!/usr/bin/env python3
"""Take from the layer that misses it least, step by step."""

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

    def fine_tuner(model):
        train(model, device, train_loader, optim.Adam(model.parameters(), lr=args.lr), 0)

    def evaluator(model):
        return test(model, device, test_loader)

    compressor = aup.compression.create_compressor(
        model,
        config,
        short_term_fine_tuner=fine_tuner,
        evaluator=evaluator,
        optimize_mode="maximize",
    )
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
