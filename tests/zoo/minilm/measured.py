"""Every model beside the dense one: its sizes, its embeddings, its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.measure.sizes import latencies, sizes
from tests.zoo.minilm.train import BATCH, Embedder, batches, embed, sentences

INT8 = ("ptq_dynamic", "ptq_static", "int8_weight_only")


@dataclass(frozen=True)
class Row:
    """What is measured of one model.

    Attributes
    ----------
    name
        The search that found it, and what made it int8.
    cosine
        Of its embeddings to the dense ones, the mean over the sentences that no search has seen.
    neighbours
        Share of these sentences whose nearest other one is that by the dense embeddings.
    params, flops, size_bytes
        Multiply-adds of one sentence; bytes as saved.
    alone_ms, together_ms
        Of one sentence, and of a batch, on one thread; measured in turn with all other models.
    """

    name: str
    cosine: float
    neighbours: float
    params: int
    flops: int
    size_bytes: int
    alone_ms: float
    together_ms: float


class Bench:
    """Models to measure: all of them together at the end, so that each is timed beside all others."""

    def __init__(self, folder: Path) -> None:
        learn, _, test = sentences()
        self._folder, self._learn, self._test = folder, batches(learn[: 16 * BATCH]), batches(test)
        self._together = Example.from_dummy(self._test[0])
        self._alone = Example.from_dummy({key: value[:1] for key, value in self._test[0].items()})
        self._models: dict[str, nn.Module] = {"dense": Embedder().eval()}
        self._sizes = {"dense": sizes(self._models["dense"], self._alone)}

    def add(self, name: str, found: Path) -> None:
        """Add the model of a bundle."""
        self._models[name] = rc.load(found, Embedder()).eval()
        self._sizes[name] = sizes(self._models[name], self._alone)

    def add_int8(self, start: str) -> None:
        """Add the int8 models of one that was added, each as its bundle has it."""
        for name in INT8:
            place = self._folder / f"{name}-{start.split()[0]}"
            if not place.exists():
                data = {"calibration_data": self._learn} if name == "ptq_static" else {}
                rc.compress(self._models[start], self._test[0], name, folder=place, **data)
            label = name if start == "dense" else f"{start}, {name}"
            self._models[label] = rc.load(place, Embedder()).eval()
            self._sizes[label] = replace(self._sizes[start], size_bytes=bundle.read(place).after.size_bytes)

    def rows(self) -> Iterator[Row]:
        """Measure all models, and yield their rows."""
        wanted = torch.cat(embed(self._models["dense"], self._test))
        models = list(self._models.values())
        alone, together = (latencies(models, one, seconds=30.0) for one in (self._alone, self._together))
        for name, model, *times in zip(self._models, models, alone, together, strict=True):
            found, size = torch.cat(embed(model, self._test)), self._sizes[name]
            yield Row(
                name,
                float(F.cosine_similarity(found, wanted).mean()),
                _neighbours(found, wanted),
                **size.to_json(),
                alone_ms=times[0].wall_ms,
                together_ms=times[1].wall_ms,
            )


def _neighbours(found: Tensor, wanted: Tensor) -> float:
    nearest = [(one @ one.T).fill_diagonal_(-1).argmax(1) for one in (found, wanted)]
    return float((nearest[0] == nearest[1]).float().mean())
