"""The section of docs/networks.md about compensation, from the cells that `compensating` found."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.zoo.compensating import COMPRESSOR, ENGINE, FRESH, ITEMS, LEAST, MOST, NOISE, SECONDS
from tests.zoo.quantizing import TITLE as NEXT

TITLE = "\n## Compensated\n"
HEAD = """
`{compressor}` at a sparsity of .5 as above, with `"compensate": true` ([compensation](recovery/compensation.md)) on
{least} to {most} random inputs, fewer of larger networks, in {items} batches of which one judges. The weights are
random, too, and BatchNorms have the statistics of these inputs, as after training. So this shows that the proof holds,
that nothing breaks and that outputs come nearer; what it is worth in accuracy is measured on networks that are trained
([benchmarks](benchmarks.md#compensation)). Random weights are the hard case: their channels tell little about each
other, and an error grows from layer to layer. {count} networks, one at a time, {seconds} CPU seconds each.

{summary}

- **without**, **with**: relative difference of the sliced network's outputs to the dense one's, on {fresh} batches of
  other random inputs, the same channels removed: as pruned, and compensated. Of detectors the heads are compared
- **varies**: the same between the dense outputs of two batches; where it is small, an offset alone makes up for much
- **layers**: refitted ones; **left**: those that read removed channels and stay as they are, for the reasons below
- **s**: CPU seconds of compensation alone, on one thread
"""
COLUMNS = ("network", "result", "layers", "left", "inputs", "without", "with", "varies", "proof", "s")
RESULTS = {
    "ok": "nearer, or level",
    "nothing": "left as pruned, since nothing was nearer beyond chance on the held-out batch",
    "worse": f"farther by more than {NOISE - 1:.0%}",
    "not comparable": "with outputs of other shapes",
    "differs": "of another function once sliced",
    "refused": "refused",
    "time": f"above {SECONDS} s",
    "traceback": "ended by a traceback",
    "no network": "not built",
}
SIZES = {"below 5 million parameters": 5e6, "5 to 25 million": 25e6, "more": float("inf")}

Cell = Mapping[str, Any]


def section(cells: Sequence[Cell], catalogue: Sequence[str]) -> str:
    """Return the section, networks in the order of the catalogue."""
    found = {cell["network"]: cell for cell in cells if cell["engine"] == ENGINE}
    names = [name for name in catalogue if name in found]
    text = TITLE + HEAD.format(
        compressor=COMPRESSOR,
        least=LEAST,
        most=MOST,
        items=ITEMS,
        fresh=FRESH,
        seconds=SECONDS,
        count=len(names),
        summary="\n".join(f"- {line}" for line in _summary(list(found.values()))),
    )
    missing = [name for name in catalogue if name not in found]
    if missing:
        text += f"\nNot run this time, the largest mostly: *{', '.join(name.partition('/')[2] for name in missing)}*.\n"
    text += _reasons(list(found.values()))
    families: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        families[name.partition("/")[0]].append(name)
    for family, members in families.items():
        rows = [COLUMNS, ["---"] * len(COLUMNS), *(_row(found[name]) for name in members)]
        text += f"\n### {family}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


def section_of(page: str) -> str:
    """Return the section of a page that has one; empty where it has none."""
    _, title, rest = page.partition(TITLE)
    return title + rest.partition(NEXT)[0]


def with_section(page: str, text: str) -> str:
    """Return a page with this section, in place of its own, before the one about int8."""
    own = section_of(page)
    before, title, rest = (page.replace(own, "") if own else page).partition(NEXT)
    return before + text + title + rest


def ratios(cells: Sequence[Cell]) -> list[float]:
    """Return with over without of the cells where both are known, ascending."""
    return sorted(cell["by"] / cell["without"] for cell in cells if cell.get("by") is not None and cell.get("without"))


def _summary(cells: Sequence[Cell]) -> list[str]:
    counts = collections.Counter(_result(cell) for cell in cells)
    lines = [", ".join(f"**{counts[result]}** {text}" for result, text in RESULTS.items() if counts[result])]
    refitted = ratios([cell for cell in cells if cell.get("kept")])
    if refitted:
        worst = refitted[min(len(refitted) - 1, int(0.9 * len(refitted)))]
        lines.append(
            f"where layers were refitted, the difference is {statistics.median(refitted):.2f} of that without in the "
            f"median, {worst:.2f} at the 90 % quantile and {refitted[-1]:.2f} at most"
        )
    proofs = [cell["proof"] for cell in cells if "proof" in cell]
    if proofs:
        lines.append(f"masked against sliced: {max(proofs):.0e} at most")
    least, parts = 0.0, list[str]()
    for text, most in SIZES.items():
        spent = [cell["spent"] for cell in cells if "spent" in cell and least <= cell["parameters"] < most]
        least = most
        if spent:
            parts.append(f"{text}: {statistics.median(spent):.1f} and {max(spent):.0f} ({len(spent)} networks)")
    return [*lines, f"seconds, in the median and at most: {'; '.join(parts)}"]


def _reasons(cells: Sequence[Cell]) -> str:
    """Return a list: what went wrong, and why layers were left, with the number of them and of networks."""
    wrong = [
        f"- {cell['network'].partition('/')[2]}: {RESULTS[_result(cell)]}: {_detail(cell)}"
        for cell in cells
        if _result(cell) not in ("ok", "nothing")
    ]
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for cell in cells:
        for why in cell.get("unfitted", {}).values():
            reasons[why].append(cell["network"])
    lines = [
        f"- {len(names)} in {len(set(names))} networks: {why}"
        for why, names in sorted(reasons.items(), key=lambda pair: -len(pair[1]))
    ]
    text = "\nWhat is not well:\n\n" + "\n".join(wrong) + "\n" if wrong else ""
    return text + ("\nLayers that were left as they are:\n\n" + "\n".join(lines) + "\n" if lines else "")


def _detail(cell: Cell) -> str:
    if cell.get("reason"):
        return cell["reason"].replace("|", "/").replace("\n", " ").replace("*", "\\*").replace("<", "&lt;")
    return f"{cell['by']:.3g} instead of {cell['without']:.3g}" if cell.get("by") is not None else ""


def _row(cell: Cell) -> list[str]:
    return [
        cell["network"].partition("/")[2],
        _result(cell),
        *(str(value or "") for value in (cell.get("layers"), len(cell.get("unfitted", ())), cell.get("inputs"))),
        *("" if cell.get(key) is None else f"{cell[key]:.2g}" for key in ("without", "by", "spread")),
        f"{cell['proof']:.0e}" if "proof" in cell else "",
        f"{cell['spent']:.1f}" if "spent" in cell else "",
    ]


def _result(cell: Cell) -> str:
    found: str = cell["result"] if cell["result"] in RESULTS else "traceback"
    return found


def main() -> None:
    """Run every network, and write the section into the page."""
    from tests.zoo.networks.catalogue import catalogue
    from tests.zoo.run import cells
    from tests.zoo.table import PAGE

    text = section(list(cells((), (ENGINE,))), list(catalogue()))
    PAGE.write_text(with_section(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
