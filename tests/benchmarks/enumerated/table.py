"""``python -m tests.benchmarks.enumerated.table``: train and deploy every point of the space, and write table.csv."""

from __future__ import annotations

import csv
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from raycompress.bundle.example import Example
from raycompress.compressors.measure.sizes import flops
from tests.benchmarks.enumerated.subject import (
    BITS,
    BLOCK,
    KINDS,
    LAYERS,
    N_HELD_OUT,
    Shape,
    accuracy,
    data,
    deployed,
    imitated,
    quantized,
    shapes,
    trained,
)

PATH = Path(__file__).with_name("table.csv")
EVERY = tuple(itertools.product(BITS, repeat=len(KINDS)))
"""All bits: of convolutions, of linear layers."""
_NAMES = {bits: " ".join(map(str, bits)) for bits in EVERY}
_MEASURES = ("right", "bytes", "cheap")
_HEADER = (*LAYERS, BLOCK, "params", "flops", *(f"{what} {_NAMES[bits]}" for bits in EVERY for what in _MEASURES))

Bits = tuple[int, ...]
Point = tuple[Shape, Bits]
"""What is left of the network, and the bits of its weights by kind of layer."""


@dataclass(frozen=True)
class Row:
    """What was measured of a point of the space.

    Attributes
    ----------
    accuracy
        Of the deployed model, on held-out digits.
    size_bytes
        Of its ONNX file.
    cheap
        The accuracy without fine-tuning, as a survey before a search measures it: after a refit and a few steps.
    """

    accuracy: float
    params: int
    flops: int
    size_bytes: int
    cheap: float


Table = Mapping[Point, Row]


def measured(shape: Shape, every: Iterable[Bits] = EVERY) -> dict[Bits, Row]:
    """Train the network of a shape once, and deploy it with each of the bits."""
    model, rough = trained(shape), imitated(shape)
    params = sum(one.numel() for one in model.parameters())
    counted = flops(model, Example.for_model(data()[0][0][:1], model))[""]
    return {
        bits: Row(right, params, counted, size, accuracy(quantized(rough, bits).model))
        for bits in every
        for right, size in (deployed(model, bits),)
    }


def read(path: Path = PATH) -> Table:
    """Return the table that was written."""
    with path.open(newline="") as file:
        return {point: row for line in csv.DictReader(file) for point, row in _points(line)}


def _points(line: Mapping[str, str]) -> Iterator[tuple[Point, Row]]:
    shape = Shape(tuple(float(line[layer]) for layer in LAYERS), line[BLOCK] == "1")
    for bits, name in _NAMES.items():
        right, size, cheap = (int(line[f"{what} {name}"]) for what in _MEASURES)
        sizes = int(line["params"]), int(line["flops"]), size
        yield (shape, bits), Row(right / N_HELD_OUT, *sizes, cheap / N_HELD_OUT)


def _cells(shape: Shape, found: Mapping[Bits, Row]) -> Iterator[str | int]:
    yield from (f"{one:g}" for one in shape.sparsities)
    first = found[EVERY[0]]
    yield from (int(shape.keep), first.params, first.flops)
    for row in found.values():
        yield from (round(row.accuracy * N_HELD_OUT), row.size_bytes, round(row.cheap * N_HELD_OUT))


def main() -> None:
    """Measure every point that is not in the table yet, and write them; to begin anew, remove the table."""
    torch.set_num_threads(1)
    known = {shape for shape, _ in read()} if PATH.exists() else set()
    began = time.monotonic()
    with PATH.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(_HEADER)
        for number, shape in enumerate((one for one in shapes() if one not in known), 1):
            writer.writerow(_cells(shape, measured(shape)))
            file.flush()
            if number % 64 == 0:
                print(f"{number} networks, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
