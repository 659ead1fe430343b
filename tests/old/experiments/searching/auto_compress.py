#!/usr/bin/env python3
"""Compress in rounds; compress() hands back the small network."""

import argparse
import sys
from math import log

import aup
import torch
from digits_net import Net, data_loaders, test, train


def main(config):
    parser = argparse.ArgumentParser(description="compress a CNN for digits")
    parser.add_argument("--seed", type=int, default=1)
    args, _ = parser.parse_known_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader, test_loader = data_loaders()
    model = Net().to(device)
    model.load_state_dict(torch.load("digits_pretrained.pth"))

    def trainer(model, optimizer, criterion, epoch, callback):
        train(model, device, train_loader, optimizer, epoch, criterion, callback)

    def evaluator(model):
        return test(model, device, test_loader)

    compressor = aup.compression.create_compressor(
        model,
        config,
        trainer=trainer,
        evaluator=evaluator,
        dummy_input=torch.randn(1, 1, 8, 8).to(device),
        optimize_mode="maximize",
        num_iterations=1,
        admm_num_iterations=1,
        admm_training_epochs=1,
        experiment_data_dir="./history",
    )
    model = compressor.compress()
    acc = test(model, device, test_loader)
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    compressor.export_model(model_path="digits_model.pth", mask_path="digits_mask.pth", save_best_only=True, **config)
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
