#!/usr/bin/env python3
"""What can be asked of a model outside of any experiment: how sensitive its layers are, which of them are tied."""

import aup
import torch
from digits_net import Net, data_loaders, test

model = Net()
model.load_state_dict(torch.load("digits_pretrained.pth"))
model.eval()
_, test_loader = data_loaders()


def val(model):
    accuracy = test(model, torch.device("cpu"), test_loader)
    return accuracy, 1.0 - accuracy


analysis = aup.compression.sensitivity_analysis.SensitivityAnalysis(model=model, val_func=val)
sensitivity = analysis.analysis(val_args=[model])
analysis.export("sensitivity.csv")
dependency = aup.compression.shape_dependency.ChannelDependency(model, torch.ones(1, 1, 8, 8))
dependency.export("dependency.csv")
print(sorted(sensitivity), aup.__name__)
