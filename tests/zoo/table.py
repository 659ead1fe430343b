"""docs/networks.md, from the lines that `run` wrote."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
HEAD = """# Networks that people have

`make zoo` builds each network below with random weights and follows one pass in eval and one in train mode
(`compressors/structure/axes/`). A random half of the components of every group is taken away, the attributes that hold
sizes are changed as the couplings say, and the sliced network is compared with the masked one, whose norms and means
run over what stays. A sliced network that does not run, that differs by more than {tolerance:g} of the norm, or that
cannot be trained on, is no success. A detector's heads are compared in place of its sorted boxes.

- **free**: share of the output channels of all tensors of two dimensions or more that can go
- **left**: share of the parameters after a half of what can go has gone
- **s**: CPU seconds to follow both passes, on one thread; beside it those of one plain pass
- **MB**: growth of the process's peak memory while following; beside it the bytes of the parameters

{ok} of {count} are well. {unknown}

Versions: torch 2.14.1, torchvision 0.29.1, timm 1.0.31, transformers 5.24.0, segmentation-models-pytorch 0.6.0,
ultralytics 8.4.190. The page is written by `make zoo`.
"""
COLUMNS = (
    "network",
    "result",
    "free",
    "left",
    "difference",
    "s",
    "plain",
    "MB",
    "model",
    "what stays, beside the outputs",
)


def write(cells: Iterable[dict[str, Any]], tolerance: float) -> None:
    """Write the page from the cells."""
    PAGE.write_text(page(list(cells), tolerance))


def page(cells: Sequence[dict[str, Any]], tolerance: float) -> str:
    """Return the page."""
    unknown = sorted({name for cell in cells for name in cell.get("unknown", ())})
    said = (
        f"Operations without a rule: {', '.join(unknown)}." if unknown else "Every operation they execute has a rule."
    )
    ok = sum(cell["result"] == "ok" for cell in cells)
    text = HEAD.format(tolerance=tolerance, ok=ok, count=len(cells), unknown=said)
    families: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for cell in cells:
        families[cell["network"].partition("/")[0]].append(cell)
    for family, members in families.items():
        rows = [_row(cell) for cell in members]
        text += (
            f"\n## {family}\n\n" + "\n".join([_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)]) + "\n"
        )
    return text


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def _row(cell: dict[str, Any]) -> list[str]:
    difference = cell.get("difference")
    why = "; ".join(f"{reason} ({count})" for reason, count in cell.get("why", ()) if "outputs" not in reason)
    result = cell["result"] if cell["result"] == "ok" else f"**{cell['result']}**: {cell.get('reason', '')}"
    return [
        cell["network"].partition("/")[2],
        result.replace("|", "/").replace("\n", " "),
        *(f"{cell[key]:.2f}" if key in cell else "" for key in ("free", "left")),
        "" if difference is None else f"{difference:.0e}",
        *(f"{cell[key]:.2f}" if key in cell else "" for key in ("seconds", "forward")),
        *(str(cell.get(key, "")) for key in ("megabytes", "model")),
        _short(why),
    ]


def _short(text: str, length: int = 160) -> str:
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) <= length else f"{text[:length]}..."
