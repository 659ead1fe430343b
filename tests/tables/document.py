"""docs/compressors.md: what the catalogue says, and what runs of it gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.support.models.quantizer_table import Row
from tests.tables import catalogue
from tests.tables.matrix import NETWORKS, PRUNERS, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "compressors.md"
MATRIX, QUANTIZERS = "## Every pruner on every kind of network", "## What quantizers save"

_HEAD = """# The compressors

Made by `make docs` from the catalogue and from runs on scikit-learn's digits; the tests compare the page with both.

"""
_MATRIX = """
Small networks, trained on the digits; half of every layer is to go, then fifty steps of fine-tuning. *small*: channels
were cut out, the small model is the masked one to a relative 1e-4 and reads exactly as many digits rightly, its bundle
was reloaded in a fresh process, with equal outputs; the number is the share of the parameters that is left. *masked*:
single weights are zero; the number is the share that is not. *refused*: one error, before anything is trained; the
reasons stand below.

"""

_QUANTIZERS = """
Accuracy on held-out digits, after the same training: of the dense model, of the model that the script measured (with
fake quantization, or the int8 one), and of the int8 file beside it.

"""

Matrix = Mapping[tuple[str, str], Outcome]


def page(matrix: Matrix, rows: list[Row]) -> str:
    """Return the whole page."""
    parts = (_HEAD, catalogue.markdown(), f"\n{MATRIX}\n", _MATRIX, _matrix(matrix), f"\n{QUANTIZERS}\n", _QUANTIZERS)
    return "".join((*parts, _quantizers(rows)))


def _matrix(matrix: Matrix) -> str:
    rows = [(f"`{pruner}`", *(_cell(matrix[pruner, network]) for network in NETWORKS)) for pruner in PRUNERS]
    refused: dict[str, list[tuple[str, str]]] = {}
    for (pruner, network), outcome in matrix.items():
        if outcome.refusal:
            refused.setdefault(plain(outcome.refusal, pruner), []).append((pruner, network))
    lines = [*catalogue.table(("", *NETWORKS), rows), ""]
    for why, cells in refused.items():
        pruners, on = (list(dict.fromkeys(column)) for column in zip(*cells, strict=True))
        lines.append(f"- {', '.join(on)}, {', '.join(f'`{pruner}`' for pruner in pruners)}: {why}")
    return "\n".join(lines) + "\n"


def plain(refusal: str, pruner: str) -> str:
    """Return why a pruner was refused, without its name: many say the same."""
    return refusal.replace(f"{pruner} takes", "it takes")


def _quantizers(rows: list[Row]) -> str:
    made = [row for row in rows if not row.refused]
    cells = [
        (
            *(f"`{row.quantizer}`", row.network, f"{row.before:,}", f"{row.after:,}"),
            *(f"{row.dense:.3f}", f"{row.quantized:.3f}", "" if row.int8 is None else f"{row.int8:.3f}"),
        )
        for row in made
    ]
    header = ("", "network", "bytes before", "bytes after", "dense", "as measured", "int8 file")
    refused = [f"- `{row.quantizer}` on {row.network}: {row.refused}" for row in rows if row.refused]
    return "\n".join([*catalogue.table(header, cells), "", *refused]) + "\n"


def _cell(outcome: Outcome) -> str:
    return outcome.cell if outcome.refusal else f"{outcome.cell} {outcome.left:.2f}"


def written(text: str) -> dict[tuple[str, str], str]:
    """Return the word in each cell of the matrix of a page."""
    found = {}
    for line in _section(text, MATRIX).splitlines():
        match = re.fullmatch(r"\| `(\w+)` \| (.*) \|", line)
        if match:
            words = [cell.split()[0] for cell in match[2].split(" | ")]
            found.update({(match[1], network): word for network, word in zip(NETWORKS, words, strict=True)})
    return found


def reason(text: str, pruner: str, network: str) -> str:
    """Return why a page says that a pruner is refused on a network; empty where it says nothing."""
    for line in _section(text, MATRIX).splitlines():
        match = re.fullmatch(r"- ([\w, `]+): (.*)", line)
        if match and {f"`{pruner}`", network} <= set(match[1].split(", ")):
            return match[2]
    return ""


def quantizer_row(text: str, quantizer: str, network: str) -> tuple[int, int, float, float]:
    """Return bytes before and after, and accuracies of the dense and of the measured model, as a page says them."""
    for line in _section(text, QUANTIZERS).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == [f"`{quantizer}`", network]:
            before, after = (int(cell.replace(",", "")) for cell in cells[2:4])
            return before, after, float(cells[4]), float(cells[5])
    raise KeyError(quantizer, network)


def _section(text: str, heading: str) -> str:
    return text.partition(heading)[2].partition("\n## ")[0]
