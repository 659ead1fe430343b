"""The help texts of Python's standard library, letter by letter, and a Trainer for models that read them."""

from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

VOCABULARY = 128  # ASCII
MASK = 127
LENGTH = 32
N_TRAIN, N_HELD_OUT = 2048, 128


class Letters(Dataset):
    """Rows of `LENGTH` letters; with `masks`, the same 15 in a hundred of each are hidden every time, for BERT."""

    def __init__(self, rows: Tensor, masks: bool = False) -> None:
        self.rows, self.masks = rows, masks

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        if not self.masks:
            return {"input_ids": row, "labels": row}
        hidden = torch.rand(LENGTH, generator=torch.Generator().manual_seed(index)) < 0.15
        return {"input_ids": row.masked_fill(hidden, MASK), "labels": row.masked_fill(~hidden, -100)}


def read() -> tuple[Tensor, Tensor]:
    """Return rows to train on and rows held out, [N, LENGTH] each."""
    text = " ".join(" ".join(topics[name] for name in sorted(topics)).split())
    codes = torch.tensor(list(text.encode("ascii", "ignore")))
    rows = codes[: len(codes) // LENGTH * LENGTH].view(-1, LENGTH)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    return rows[:N_TRAIN], rows[N_TRAIN : N_TRAIN + N_HELD_OUT]


def trainer(model: PreTrainedModel, steps: int, *, masks: bool = False, **arguments: Any) -> Trainer:
    """Return a Trainer of so many steps, which evaluates after a half of them and at the end."""
    train, held_out = (Letters(rows, masks) for rows in read())
    usual = {
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // 2),
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    made = TrainingArguments(
        "trainer",
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{**usual, **arguments},
    )
    return Trainer(model, made, train_dataset=train, eval_dataset=held_out)
