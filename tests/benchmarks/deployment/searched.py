"""The script of the searches over networks that people have: argv[1] is the network's place in `networks`."""

from __future__ import annotations

import sys

import torch

import raycompress as rc
from raycompress.compressors.measure.difference import relative_difference
from tests.benchmarks.deployment.networks import networks


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    torch.manual_seed(0)
    network = networks()[int(sys.argv[1])]
    model, example = network.build().eval(), network.example()
    before = example.outputs(model)
    compressor = rc.create_compressor(model, config, dummy_input=example.args)
    compressor.compress()
    model = compressor.apply_speedup(dummy_input=example.args)
    same = [one.shape == other.shape for one, other in zip(before, example.outputs(model), strict=True)]
    rc.report(agreement=1 / (1 + relative_difference(before, example.outputs(model))) if all(same) else 0.0)
    rc.save_model(compressor.export_model, model_path="model.pth")


if __name__ == "__main__":
    main()
