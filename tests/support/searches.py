"""Journals of searches that were never run, written by the real Journal."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from raycompress.results import store
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import VERSION, Journal
from raycompress.results.record import SearchRecord

HOSTILE = "</script><img src=x onerror=alert(1)>"
BEGAN = 1_700_000_000.0
BEFORE = {"params": 100_000, "flops": 5_000_000, "size_bytes": 400_000}
SLOTS = 4
_STATES = ("finished",) * 13 + ("ended early", "failed", "timed out")


def header(folder: ExperimentFolder, dimensions: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "version": VERSION,
        "id": folder.id,
        "name": "digits",
        "file": "/home/me/my files/exp.json",
        "script": "/home/me/train.py",
        "compressor": "l1_filter",
        "seed": 0,
        "proposer": "tpe",
        "n_trials": 16,
        "n_parallel": SLOTS,
        "goal": "max",
        "dimensions": dimensions,
        "host": "here",
        "pid": 1,
        **changes,
    }


def searched(
    storage: Path,
    n_trials: int,
    *,
    n_dimensions: int = 4,
    layers: list[str] | None = None,
    slots: bool = True,
    finished: bool = True,
    name: str = "digits",
    **changes: Any,
) -> SearchRecord:
    """Write the journal of a search of `n_trials` trials and the dense one, and read it.

    The layers' sparsities are proposed, with the optimizer and the number of epochs; the first layer decides most.
    """
    folder = store.create(storage, name)
    layers = layers or [f"layer{index // 2}.conv{index % 2 + 1}" for index in range(n_dimensions)]
    dimensions = [f"{layer}.sparsity" for layer in layers] + ["optimizer", "epochs"]
    chance = random.Random(0)
    journal = Journal(folder.journal)
    journal.append("experiment", **{"t": BEGAN, **header(folder, dimensions, n_trials=n_trials + 1, **changes)})
    free = [BEGAN] * SLOTS
    for number in range(n_trials + 1 if n_trials else 0):
        slot = min(range(SLOTS), key=free.__getitem__)
        state = "finished" if number < 2 else chance.choice(_STATES)
        sample = {f"{layer}.sparsity": chance.uniform(0.1, 0.9) for layer in layers} if number else {}
        if number:
            sample |= {"optimizer": chance.choice(["sgd", "adam"]), "epochs": chance.randint(1, 9)}
        where = {"slot": slot} if slots else {}
        told = {"trial": number, "attempt": 1, "sample": sample, "config": {}, "baseline": number == 0, **where}
        journal.append("started", t=free[slot], **told)
        seconds = chance.uniform(4, 12)
        free[slot] += seconds
        journal.append("ended", t=free[slot], **ended(number, state, sample, layers, seconds, chance))
    if finished:
        journal.append("finished", t=max(free), reason="complete", detail="")
    journal.close()
    return SearchRecord.open(folder.root)


def ended(
    number: int, state: str, sample: dict[str, Any], layers: list[str], seconds: float, chance: random.Random
) -> dict[str, Any]:
    """Return the fields of the end of a trial."""
    shares = [sample.get(f"{layer}.sparsity", 0.0) for layer in layers]
    share = sum(shares) / len(shares)
    good = state == "finished"
    score = 0.98 - 0.3 * shares[0] ** 2 - 0.1 * share + chance.gauss(0, 0.005) if good else None
    after = {
        name: int(size * (1 - share) ** power) for (name, size), power in zip(BEFORE.items(), (2, 1, 2), strict=True)
    }
    return {
        "trial": number,
        "state": state,
        "cause": {"failed": "RuntimeError: CUDA error in train.py:31", "timed out": "longer than 12 s"}.get(state, ""),
        "values": {"accuracy": score, "loss": 1 - score} if score is not None else None,
        "score": score,
        "seconds": seconds,
        "before": BEFORE if good else None,
        "after": after if good else None,
        "removed": {layer: [int(64 * part), 64] for layer, part in zip(layers, shares, strict=True)} if good else {},
        "notes": [],
        "log": "",
        "saved": False,
    }


def without_waiting(monkeypatch: Any) -> None:
    """Have the journals of a test not wait for the disk, line by line."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
