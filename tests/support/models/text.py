"""Tiny models of transformers from a random start, and a Trainer of theirs that counts upwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

VOCABULARY = 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
INPUT = {"input_ids": torch.arange(10).reshape(1, 10)}


def llama(**sizes: int) -> Any:
    """Return a LlamaForCausalLM whose heads share keys and values by twos."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{"intermediate_size": 48, "num_key_value_heads": 2, **SIZES, **sizes})).eval()


def bert() -> Any:
    """Return a BertForMaskedLM, whose embedding is its output layer too."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(intermediate_size=48, max_position_embeddings=32, **SIZES)).eval()


class Counting(Dataset):
    """Rows that count from a random number on."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._rows = torch.arange(10) + torch.randint(0, VOCABULARY - 10, (rows, 1), generator=generator)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}


def trainer(model: Any, folder: Path, callbacks: list[Any] | None = None, **arguments: Any) -> Any:
    """Return a Trainer of four steps an epoch, which evaluates and saves after each."""
    from transformers import Trainer, TrainingArguments

    usual = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "no",
        "learning_rate": 0.01,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    made = TrainingArguments(str(folder), **{**usual, **arguments})
    return Trainer(model, made, train_dataset=Counting(32), eval_dataset=Counting(8, seed=1), callbacks=callbacks)
