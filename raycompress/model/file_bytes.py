"""The bytes of the file of a model that is pruned and then quantized, as a function of its widths and bits.

Weights take what their bits say. What comes on top (scales, ranges, the nodes of the graph, biases) is fitted once to
real files of the network, at random widths and bits, by `raycompress.compressors.analysis.fits.file_bytes`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from raycompress.model.groups import is_inside
from raycompress.model.stored import stored_bytes

FLOAT_BITS = 32
Widths = Mapping[str, tuple[int, int]]
"""Layer -> its numbers of input and output channels; layers that keep theirs may be left out."""
_OF_ITS_OWN = 30.0
"""How much stronger a layer is held to what those of its kind have in common than files are to their sizes."""
_FOLDS = 4
_OWN = "own "
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StoredLayer:
    """A layer whose bits may be chosen, as it is in the dense model.

    Attributes
    ----------
    name, kind
        As in ``model.named_modules()``, and the name of its class.
    in_groups
        Whether its channels are in groups, as those of a depthwise convolution.
    width
        Its numbers of input and output channels.
    weights
        How many weights it has.
    bits
        Those that may be chosen, in ascending order; above 8 it stays float.
    """

    name: str
    kind: str
    width: tuple[int, int]
    weights: int
    bits: tuple[int, ...]
    in_groups: bool = False

    def share(self, widths: Widths) -> float:
        """Return the share of its weights, and of its multiply-adds, that is left at these widths."""
        left = widths.get(self.name, self.width)
        return math.prod(now / was for now, was in zip(left, self.width, strict=True))

    def outputs(self, widths: Widths) -> int:
        """Return how many output channels are left at these widths."""
        return widths.get(self.name, self.width)[1]


@dataclass(frozen=True)
class Stored:
    """What is stored in a file: a model that is pruned and quantized.

    Attributes
    ----------
    float_bytes
        Of all of its weights in float.
    widths
        Of the layers.
    bits
        Layer -> its bits; those that are left out stay float.
    dropped
        The residual blocks that are gone.
    """

    float_bytes: float
    widths: Widths
    bits: Mapping[str, int]
    dropped: Collection[str] = ()


@dataclass(frozen=True)
class FileBytes:
    """Predicts the size of a file.

    Attributes
    ----------
    compressor
        What writes the file.
    layers
        Those whose bits may be chosen.
    parts
        Quantity -> bytes for each of it; see `quantities`.
    error
        The median relative error of files that it was not fitted to.
    """

    compressor: str
    layers: tuple[StoredLayer, ...]
    parts: Mapping[str, float]
    error: float

    def predict(self, stored: Stored) -> float:
        """Return the bytes of a file."""
        found = self.quantities(stored)
        return self.weight_bytes(stored) + sum(self.parts.get(name, 0.0) * amount for name, amount in found.items())

    def weight_bytes(self, stored: Stored) -> float:
        """Return the bytes of the weights by their bits, and of all others in float."""
        found = stored.float_bytes
        for layer, bits in self._quantized(stored):
            weights, rows = layer.weights * layer.share(stored.widths), max(1, layer.outputs(stored.widths))
            found += stored_bytes(self.compressor, layer.kind, rows, max(1, round(weights / rows)), bits)
            found -= weights * _FLOAT_BYTES
        return found

    def quantities(self, stored: Stored) -> dict[str, float]:
        """Return what the rest of a file goes along with.

        That is a constant, the number of residual blocks that are gone, the output channels of all layers (a norm may
        be folded into each), and of the layers of each kind with so many bits their number, their output channels and
        their weights, and how many follow one of as many bits; and what begins with `_OWN`, of one block or layer.
        """
        found: defaultdict[str, float] = defaultdict(float, {"file": 1.0, "blocks": float(len(stored.dropped))})
        found.update({f"{_OWN}without {block}": 1.0 for block in stored.dropped})
        left = [layer for layer in self.layers if not is_inside(layer.name, stored.dropped)]
        found["outputs"] = float(sum(layer.outputs(stored.widths) for layer in left))
        quantized = dict(self._quantized(stored))
        for layer, bits in quantized.items():
            kind = f"{layer.kind}{' in groups' * layer.in_groups} of {bits} bits"
            found[kind] += 1.0
            found[f"outputs of {kind}"] += layer.outputs(stored.widths)
            found[f"weights of {kind}"] += layer.weights * layer.share(stored.widths)
            found[f"{_OWN}{layer.name} of {bits} bits"] = 1.0
        for one, other in pairwise(left):
            if one in quantized and quantized[one] == quantized.get(other):
                found[f"pairs of {quantized[one]} bits"] += 1.0  # what is between them may be rounded once for both
        return dict(found)

    def _quantized(self, stored: Stored) -> Iterator[tuple[StoredLayer, int]]:
        """Yield the layers that are quantized, and their bits."""
        for layer in self.layers:
            bits = stored.bits.get(layer.name, FLOAT_BITS)
            if bits <= 8 and not is_inside(layer.name, stored.dropped):
                yield layer, bits

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FileBytes:
        """Rebuild what `to_json` returned."""
        layers = tuple(
            StoredLayer(**{**one, "width": tuple(one["width"]), "bits": tuple(one["bits"])}) for one in data["layers"]
        )
        return cls(data["compressor"], layers, dict(data["parts"]), data["error"])


def fitted(compressor: str, layers: Sequence[StoredLayer], files: Sequence[tuple[Stored, float]]) -> FileBytes:
    """Return what predicts the sizes of files best, by relative error.

    What a layer has of its own is held to what layers of its kind with as many bits have in common (a ridge
    regression), since a dozen files do not tell each layer's.

    Parameters
    ----------
    files
        What is in each file, and its bytes.
    """
    import numpy as np  # what only predicts needs none: a file is checked without it

    plain = FileBytes(compressor, tuple(layers), {}, math.nan)
    errors = []
    for fold in range(_FOLDS):
        known = replace(plain, parts=_parts(plain, [one for i, one in enumerate(files) if i % _FOLDS != fold]))
        errors += [abs(known.predict(stored) / size - 1) for stored, size in files[fold::_FOLDS]]
    return replace(plain, parts=_parts(plain, files), error=float(np.median(errors)))


def _parts(plain: FileBytes, files: Sequence[tuple[Stored, float]]) -> dict[str, float]:
    import numpy as np

    rows = [plain.quantities(stored) for stored, _ in files]
    names = sorted({name for row in rows for name in row})
    sizes = np.array([size for _, size in files])
    table = np.array([[row.get(name, 0.0) for name in names] for row in rows]) / sizes[:, None]
    rest = 1 - np.array([plain.weight_bytes(stored) for stored, _ in files]) / sizes
    held = [place for place, name in enumerate(names) if name.startswith(_OWN)]
    ridge = np.zeros((len(held), len(names)))
    ridge[np.arange(len(held)), held] = _OF_ITS_OWN * float(np.median(1 / sizes))
    found, *_ = np.linalg.lstsq(np.vstack([table, ridge]), np.concatenate([rest, np.zeros(len(held))]), rcond=None)
    return dict(zip(names, found.tolist(), strict=True))
