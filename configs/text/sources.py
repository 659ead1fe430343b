"""Compress a small Bert that tells from which module a piece of Python is, in a training loop of its own.

::

    python sources.py config.json              by hand: prints the accuracy
    raycompress launch tenth.json              a tenth of the bytes, one point lost: by widths, layers and bits
"""

import importlib.util
import re
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

import raycompress as rc

MODULES = ("_pydecimal", "turtle", "typing", "doctest", "tarfile", "argparse")  # of the standard library
WORDS, LENGTH, BATCH = 512, 32, 32
N_TRAIN, N_HELD_OUT = 2400, 1200
HIDDEN = 0.2  # of the words of a piece, in training

Part = tuple[Tensor, Tensor]


def load_data() -> tuple[Part, Part]:
    """Return (pieces, modules) to train on and held out; pieces are [N, LENGTH], numbers of words."""
    pieces, modules = [], []
    for number, module in enumerate(MODULES):
        text = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
        words = [1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in re.findall(r"\w+|[^\w\s]", text)]
        rows = torch.tensor(words[: len(words) // LENGTH * LENGTH]).view(-1, LENGTH)
        pieces.append(rows)
        modules.append(torch.full((len(rows),), number))
    order = torch.randperm(sum(map(len, pieces)), generator=torch.Generator().manual_seed(0))
    inputs, labels = torch.cat(pieces)[order], torch.cat(modules)[order]
    learnt = slice(N_HELD_OUT, N_HELD_OUT + N_TRAIN)
    return (inputs[learnt], labels[learnt]), (inputs[:N_HELD_OUT], labels[:N_HELD_OUT])


def dense() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            num_labels=len(MODULES),
            pad_token_id=0,
        )
    )


def train(model: nn.Module, part: Part, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    inputs, labels = part
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            pieces = inputs[batch]
            pieces = pieces.masked_fill(torch.rand(pieces.shape) < HIDDEN, 0)
            optimizer.zero_grad()
            F.cross_entropy(model(pieces).logits, labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of pieces whose module is told rightly."""
    model.eval()
    return (model(inputs).logits.argmax(dim=1) == labels).float().mean().item()


def pretrained() -> dict[str, Tensor]:
    """Return the weights of a dense model, trained from a random start."""
    torch.manual_seed(0)
    model = dense()
    train(model, load_data()[0], torch.optim.Adam(model.parameters(), lr=1e-3), epochs=10)
    return model.state_dict()


def main(config: rc.BasicConfig) -> None:
    torch.set_num_threads(1)  # a second one has nothing to do
    learnt, held_out = load_data()
    model = dense()
    model.load_state_dict(rc.shared(pretrained))  # trained once, for all trials
    torch.manual_seed(config.get("random_seed", 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    compressor = rc.create_compressor(
        model,
        config,
        optimizer=optimizer,
        dummy_input=learnt[0][:1],
        evaluator=lambda model: evaluate(model, *held_out),  # "proposer": "guided" judges by it
        calibration=learnt[0][:256].split(BATCH),  # what quantizes, and what is refitted, learns from these
    )
    model = compressor.compress()
    train(model, learnt, optimizer, config.get("epochs", 3))
    model = compressor.apply_speedup()
    rc.report(accuracy=evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
