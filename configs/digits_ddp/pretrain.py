"""Train the dense CNN that train.py prunes, and save its weights beside this file."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from train import evaluate, load_data, make_model, train_epoch

if __name__ == "__main__":
    torch.manual_seed(0)
    data, held_out = load_data()
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(12):
        train_epoch(model, DataLoader(data, batch_size=64, shuffle=True), optimizer)
    print(f"accuracy: {evaluate(model, *held_out):.4f}")
    torch.save(model.state_dict(), Path(__file__).with_name("pretrained.pth"))
