#!/usr/bin/env python3
"""Spread the sparsity by annealing; nothing is trained or cut out after that."""

import argparse
import sys
from math import log

import aup
import torch
from digits_net import Net, data_loaders, test


def main(config):
    parser = argparse.ArgumentParser(description="compress a CNN for digits")
    parser.add_argument("--seed", type=int, default=1)
    args, _ = parser.parse_known_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _, test_loader = data_loaders()
    model = Net().to(device)
    model.load_state_dict(torch.load("digits_pretrained.pth"))

    def evaluator(model):
        return test(model, device, test_loader)

    acc = test(model, device, test_loader)
    compressor = aup.compression.create_compressor(
        model, config, evaluator=evaluator, optimize_mode="maximize", experiment_data_dir="./"
    )
    model = compressor.compress()
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    compressor.export_model(model_path="digits_model.pth", mask_path="digits_mask.pth", save_best_only=True, **config)
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
