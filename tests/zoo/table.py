"""docs/networks.md, from the cells that `run` found."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.zoo import compensated, quantizing
from tests.zoo.attempt import ALLOWANCE, COMPRESSORS, FACTOR, SECONDS
from tests.zoo.cell import TOLERANCE

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
HEAD = """# Networks that people have

`make zoo` builds each network below with random weights, asks what hangs together in it, and compresses it as a user
would. {count} networks; one run, {minutes} CPU minutes, two networks at a time.

Versions: torch 2.14.1, torchvision 0.29.1, timm 1.0.31, transformers 5.24.0, segmentation-models-pytorch 0.6.0,
ultralytics 8.4.190. The page is written by `make zoo`.

## Compressed

`create_compressor` with `{{"sparsity": 0.5, "op_types": ["default"]}}`, `compress`, one step of training in train mode,
`apply_speedup` with its proof, one more step, `export_model`; a fresh process loads the bundle into a fresh network.
Each attempt has a process of its own: {seconds} CPU seconds, and {factor} times the bytes of the model beyond what a
plain step of training takes ({allowance} MB more for libraries). What needs more has failed. Nothing is retried, and
no advice of an error is followed.

{summary}

A refusal comes before anything was trained. Where no channel of a convolution can go, `l1_filter` has nothing to do,
and says so.

- **params**, **FLOPs**: share that is left
- **proof**: L2 norm of the difference between the outputs of the masked network and those of the sliced one, over the
  norm of the former. Where a detector sorts its boxes, its heads are compared
- **s**: CPU seconds of compressing, slicing and proof together, on one thread; **plain s** are those of one pass and
  one step of training of the network as it was
- **MB**: growth of the peak memory in compressing or slicing; **model** are the bytes of its parameters, in MB
"""
FOLLOWED = """
## Followed

One pass in eval and one in train mode are followed (`compressors/structure/axes/`). A random half of the components of
every group is taken away, the attributes that hold sizes are changed as the couplings say, and the sliced network is
compared with the masked one, whose norms and means run over what stays. A sliced network that does not run, that
differs by more than {tolerance:g} of the norm, or that cannot be trained on, is no success. {ok} of {count} are well.
{unknown}

- **free**: share of the output channels of all tensors of two dimensions or more that can go
- **left**: share of the parameters after a half of what can go has gone
- **s**: CPU seconds to follow both passes, on one thread; beside it those of one plain pass
- **MB**: growth of the process's peak memory while following; beside it the bytes of the parameters
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
OF_A_COMPRESSOR = ("params", "FLOPs", "proof", "s", "MB")
RESULTS = {
    "ok": "ok",
    "refused": "refused before training",
    "nothing": "without a channel of a convolution that can go",
    "late": "refused later",
    "time": f"above {SECONDS} s",
    "memory": "above their memory",
    "differs": "of another function once sliced",
    "does not train": "cannot be trained on",
    "does not train masked": "cannot be trained while masked",
    "does not reload": "of a bundle that does not load",
    "traceback": "ended by a traceback",
    "no network": "not built",
}
_NOTHING = re.compile(r"matches no layer|cannot be pruned: |tied to .*, which keep theirs$")

Cell = Mapping[str, Any]


def write(cells: Iterable[Cell]) -> None:
    """Write the page from the cells of one run; raises ValueError where they are of several sources."""
    found = list(cells)
    if len({cell["sources"] for cell in found}) > 1:
        raise ValueError("these cells are of different sources: let one run make them all")
    text = page(found)
    if quantizing.TITLE not in text:
        text += quantizing.section_of(PAGE.read_text())  # of a run of its own
    PAGE.write_text(compensated.with_section(text, compensated.section_of(PAGE.read_text())))


def page(cells: Sequence[Cell]) -> str:
    """Return the page."""
    engines: dict[str, dict[str, Cell]] = collections.defaultdict(dict)
    order = _order(cells)
    for cell in sorted(cells, key=lambda cell: order[cell["network"]]):
        engines[cell["engine"]][cell["network"]] = cell
    followed = engines.pop("axes", {})
    compressed = {name: engines[name] for name in COMPRESSORS if name in engines}
    kinds = _kinds([cell for of_one in compressed.values() for cell in of_one.values()])
    text = HEAD.format(
        count=len({cell["network"] for cell in cells}),
        minutes=round(sum(cell["all"] for cell in cells) / 60),
        seconds=SECONDS,
        factor=FACTOR,
        allowance=ALLOWANCE >> 20,
        summary="\n".join(f"- {summary(name, list(found.values()))}" for name, found in compressed.items()),
    )
    text += _about_kinds(kinds)
    numbers = {kind: number for number, kind in enumerate(kinds, 1)}
    names = list(dict.fromkeys(name for found in compressed.values() for name in found))
    columns = ["network", *(column for name in compressed for column in (name, *OF_A_COMPRESSOR)), "plain s", "model"]
    text += _by_family(names, columns, lambda name: _compressed(name, compressed, numbers), "### ")
    quantized = {name: engines[name] for name in quantizing.QUANTIZERS if name in engines}
    return text + _followed(followed) + quantizing.section(quantized)


def summary(engine: str, cells: Sequence[Cell]) -> str:
    """Return one line: how many cells of an engine ended in which way."""
    counts = collections.Counter(result_of(cell) for cell in cells)
    rest = ", ".join(
        f"{counts[result]} {text}" for result, text in RESULTS.items() if counts[result] and result != "ok"
    )
    return f"**{engine}**: {counts['ok']} of {len(cells)} ok" + (f", {rest}" if rest else "")


def result_of(cell: Cell) -> str:
    """Return how a cell ended; of `l1_filter` a refusal of a network without channels for it is none."""
    if cell["result"] == "refused" and cell["engine"] == "l1_filter" and _NOTHING.search(cell["reason"]):
        return "nothing"
    found: str = cell["result"] if cell["result"] in RESULTS else "traceback"
    return found


def kind_of(cell: Cell) -> str:
    """Return the reason of a cell that did not go well, without names and numbers."""
    text = re.sub(r'"[^"]*"(, "[^"]*")*', '"..."', cell.get("reason", ""))
    text = re.sub(r"\b[\w-]+\.py:\d+", "....py:N", re.sub(r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?", "N", text))
    return f"{RESULTS[result_of(cell)]}: {text}"


def _kinds(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in cells:
        if cell["result"] != "ok":
            found[kind_of(cell)].append(cell)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def _about_kinds(kinds: Mapping[str, Sequence[Cell]]) -> str:
    if not kinds:
        return ""
    lines = ["", "What is not ok, by its kind; one of each in full:", ""]
    for number, (_, cells) in enumerate(kinds.items(), 1):
        first = cells[0]
        named = list(dict.fromkeys(cell["network"].partition("/")[2] for cell in cells))
        more = f", {len(named) - 12} more" if len(named) > 12 else ""
        of = ", ".join(f"`{name}`" for name in dict.fromkeys(cell["engine"] for cell in cells))
        place = f" ({first['where']})" if first.get("where") else ""
        lines.append(
            f"{number}. {len(cells)} {RESULTS[result_of(first)]}, {of}: {_escaped(first.get('reason', ''))}{place}. "
            f"*{', '.join(named[:12])}{more}*"
        )
    return "\n".join(lines) + "\n"


def _compressed(name: str, compressed: Mapping[str, Mapping[str, Cell]], numbers: Mapping[str, int]) -> list[str]:
    row = [name.partition("/")[2]]
    plain = size = ""
    for found in compressed.values():
        cell = found.get(name, {})
        seconds, growth = cell.get("cpu", {}), cell.get("growth", {})
        worked = sum(seconds.get(phase, 0.0) for phase in ("create", "compress", "slice"))
        result = "" if not cell else "ok" if cell["result"] == "ok" else f"{result_of(cell)} [{numbers[kind_of(cell)]}]"
        row += [
            result,
            *(f"{cell['left'][key]:.2f}" if "left" in cell else "" for key in ("params", "flops")),
            f"{cell['difference']:.0e}" if "difference" in cell else "",
            f"{worked:.1f}" if "slice" in seconds else "",
            str(max(growth.get(phase, 0) for phase in ("compress", "slice")) >> 20) if "slice" in growth else "",
        ]
        if "plain step" in seconds:
            plain, size = f"{seconds['plain pass'] + seconds['plain step']:.1f}", str(cell.get("bytes", 0) >> 20)
    return [*row, plain, size]


def _followed(cells: Mapping[str, Cell]) -> str:
    if not cells:
        return ""
    unknown = sorted({name for cell in cells.values() for name in cell.get("unknown", ())})
    listed = f"Operations without a rule: {', '.join(unknown)}." if unknown else "Every operation has a rule."
    ok = sum(cell["result"] == "ok" for cell in cells.values())
    text = FOLLOWED.format(tolerance=TOLERANCE, ok=ok, count=len(cells), unknown=listed)
    return text + _by_family(list(cells), COLUMNS, lambda name: _row(cells[name]), "### ")


def _by_family(names: Sequence[str], columns: Sequence[str], row: Any, heading: str) -> str:
    families: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        families[name.partition("/")[0]].append(name)
    text = ""
    for family, members in families.items():
        lines = [_line(columns), _line(["---"] * len(columns)), *(_line(row(name)) for name in members)]
        text += f"\n{heading}{family}\n\n" + "\n".join(lines) + "\n"
    return text


def _order(cells: Sequence[Cell]) -> dict[str, int]:
    from tests.zoo.networks.catalogue import catalogue

    known = {name: place for place, name in enumerate(catalogue())}
    return {cell["network"]: known.get(cell["network"], len(known)) for cell in cells}


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def _row(cell: Cell) -> list[str]:
    difference = cell.get("difference")
    why = "; ".join(f"{reason} ({count})" for reason, count in cell.get("why", ()) if "outputs" not in reason)
    result = cell["result"] if cell["result"] == "ok" else f"**{cell['result']}**: {cell.get('reason', '')}"
    return [
        cell["network"].partition("/")[2],
        _escaped(result),
        *(f"{cell[key]:.2f}" if key in cell else "" for key in ("free", "left")),
        "" if difference is None else f"{difference:.0e}",
        *(f"{cell[key]:.2f}" if key in cell else "" for key in ("seconds", "forward")),
        *(str(cell.get(key, "")) for key in ("megabytes", "model")),
        _short(_escaped(why)),
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("*", "\\*").replace("<", "&lt;")


def _short(text: str, length: int = 160) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
