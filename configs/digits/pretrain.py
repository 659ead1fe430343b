"""Train the network of `train.py` and write pretrained.pth: ``python pretrain.py [where]``, ten seconds."""

import sys

import torch
from train import WEIGHTS, Net, evaluate, load_data, train_epoch

EPOCHS = 20


def main(path: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # another number of threads adds up in another order, and ends in other weights
    train, held_out = load_data()
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=EPOCHS)
    for epoch in range(EPOCHS):
        train_epoch(model, *train, optimizer)
        schedule.step()
        print(f"epoch {epoch + 1}: held-out accuracy {evaluate(model, *held_out):.4f}")
    torch.save(model.state_dict(), path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(WEIGHTS))
