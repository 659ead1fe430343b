#!/usr/bin/env python3
"""Prune most where it costs least."""

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

    def fine_tuner(model):
        train(model, device, train_loader, optimizer, 0)

    def evaluator(model):
        return test(model, device, test_loader)

    compressor = aup.compression.create_compressor(model, config, evaluator=evaluator, finetuner=fine_tuner)
    model = compressor.compress(eval_args=[model], finetune_args=[model])
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8).to(device))
    acc = test(model, device, test_loader)
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    compressor.export_model(model_path="digits_model.pth", save_best_only=True, speedup=True, **config)
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
