#!/usr/bin/env python3
"""Let an agent choose the shares."""

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
    acc = test(model, device, test_loader)

    def evaluator(val_loader, model):
        return test(model, device, val_loader)

    compressor = aup.compression.create_compressor(
        model,
        config,
        evaluator=evaluator,
        val_loader=test_loader,
        flops_ratio=0.5,
        model_type="mobilenetv2",
        n_calibration_batches=1,
        n_points_per_layer=1,
        warmup=1,
        hidden1=32,
        hidden2=32,
        train_episode=1,
        max_episode_length=1,
    )
    compressor.compress()
    flops, params, _ = compressor.count_flops_params((1, 1, 8, 8))
    print(f"FLOPs {flops}, parameters {params}")

    if "save_model" in config and config["save_model"]:
        compressor.export_model(
            model_path="digits_model.pth",
            mask_path="digits_mask.pth",
            save_best_only=True,
            folder_name=config["folder_name"],
        )
    aup.print_result((acc - 1.0) / log(flops))


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
