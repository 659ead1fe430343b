"""The bytes of the file of a model that is pruned and then quantized, as a function of its widths and bits.

Weights take what their bits say. What comes on top (scales, ranges, the nodes of the graph, biases) is fitted once to
real files of the network, at random widths and bits, by `raycompress.compressors.analysis.fits.file_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raycompress.model.groups import is_inside
from raycompress.model.stored import stored_bytes

FLOAT_BITS = 32
Widths = Mapping[str, tuple[int, int]]
"""Layer -> its numbers of input and output channels; layers that keep theirs may be left out."""
_OF_ITS_OWN = 30.0
"""How much stronger a layer is held to what those of its kind have in common than files are to their sizes."""
_FOLDS = 4


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
    flops
        Multiply-adds of one sample.
    bits
        Those that may be chosen, in ascending order; `FLOAT_BITS` where it stays float.
    """

    name: str
    kind: str
    width: tuple[int, int]
    weights: int
    flops: float
    bits: tuple[int, ...]
    in_groups: bool = False

    def share(self, widths: Widths) -> float:
        """Return the share of its weights, and of its multiply-adds, that is left at these widths."""
        left = widths.get(self.name, self.width)
        return math.prod(now / was for now, was in zip(left, self.width, strict=True))


@dataclass(frozen=True)
class StoredFile:
    """A file that was made: what the model in it is, and its size.

    Attributes
    ----------
    float_bytes
        Of the weights in float, pruned.
    widths, bits
        Of the layers.
    dropped
        The residual blocks that are not in it.
    size_bytes
        Of the file.
    """

    float_bytes: float
    widths: Widths
    bits: Mapping[str, int]
    dropped: tuple[str, ...]
    size_bytes: float


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
        Quantity -> bytes for each of it; see `_quantities`.
    error
        The median relative error of files that it was not fitted to.
    """

    compressor: str
    layers: tuple[StoredLayer, ...]
    parts: Mapping[str, float]
    error: float

    def predict(
        self, float_bytes: float, widths: Widths, bits: Mapping[str, int], dropped: Collection[str] = ()
    ) -> float:
        """Return the bytes of a file.

        Parameters
        ----------
        float_bytes
            Of all weights of the pruned model in float.
        bits
            Layer -> its bits; those that are left out stay float.
        dropped
            The residual blocks that are gone.
        """
        known, quantities = _quantities(self.compressor, self.layers, float_bytes, widths, bits, dropped)
        return known + sum(self.parts.get(name, 0.0) * amount for name, amount in quantities.items())

    def bit_operations(self, flops: float, widths: Widths, bits: Mapping[str, int], dropped: Collection[str]) -> float:
        """Return the multiply-adds, each times the bits of its weight and of its activation.

        Activations are float but where a layer has 8 bits; what no layer's weight takes part in counts as float.

        Parameters
        ----------
        flops
            Of the whole pruned model.
        """
        saved = 0.0
        for layer in self.layers:
            if not is_inside(layer.name, dropped):
                own = bits.get(layer.name, FLOAT_BITS)
                activation = own if own == 8 else FLOAT_BITS
                saved += layer.flops * layer.share(widths) * (FLOAT_BITS**2 - own * activation)
        return flops * FLOAT_BITS**2 - saved

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


def fitted(compressor: str, layers: Sequence[StoredLayer], files: Sequence[StoredFile]) -> FileBytes:
    """Return what predicts the sizes of the files best, by relative error.

    What a layer has of its own is held to what layers of its kind with as many bits have in common (a ridge
    regression), since a dozen files do not tell each layer's.
    """
    import numpy as np  # what only predicts needs none: a file is checked without it

    every = np.arange(len(files))
    errors = np.empty(len(files))
    for fold in range(_FOLDS):
        left_out = every[fold::_FOLDS]
        known = FileBytes(
            compressor,
            tuple(layers),
            _parts(compressor, layers, [files[i] for i in np.setdiff1d(every, left_out)]),
            math.nan,
        )
        for i in left_out:
            one = files[i]
            found = known.predict(one.float_bytes, one.widths, one.bits, one.dropped)
            errors[i] = abs(found / one.size_bytes - 1)
    return FileBytes(compressor, tuple(layers), _parts(compressor, layers, files), float(np.median(errors)))


def _parts(compressor: str, layers: Sequence[StoredLayer], files: Sequence[StoredFile]) -> dict[str, float]:
    import numpy as np

    rows = [_quantities(compressor, layers, one.float_bytes, one.widths, one.bits, one.dropped) for one in files]
    names = sorted({name for _, quantities in rows for name in quantities})
    sizes = np.array([one.size_bytes for one in files])
    table = np.array([[quantities.get(name, 0.0) for name in names] for _, quantities in rows]) / sizes[:, None]
    rest = 1 - np.array([known for known, _ in rows]) / sizes
    held = [place for place, name in enumerate(names) if name.startswith(_OWN)]
    ridge = np.zeros((len(held), len(names)))
    ridge[np.arange(len(held)), held] = _OF_ITS_OWN * float(np.median(1 / sizes))
    found, *_ = np.linalg.lstsq(np.vstack([table, ridge]), np.concatenate([rest, np.zeros(len(held))]), rcond=None)
    return dict(zip(names, found.tolist(), strict=True))


_OWN = "own "


def _quantities(
    compressor: str,
    layers: Sequence[StoredLayer],
    float_bytes: float,
    widths: Widths,
    bits: Mapping[str, int],
    dropped: Collection[str],
) -> tuple[float, dict[str, float]]:
    """Return the bytes of the weights, and what the rest of the file goes along with.

    That is a constant, the number of residual blocks that are gone, the output channels of all layers (a norm may be
    folded into each), and of the layers of each kind with so many bits their number, their output channels and their
    weights, and how many follow one of as many bits; and what begins with `_OWN`, of one block or layer.
    """
    known, found = float_bytes, {"file": 1.0, "outputs": 0.0}
    found |= {"blocks": float(len(dropped)), **{f"{_OWN}without {block}": 1.0 for block in dropped}}
    before = FLOAT_BITS
    for layer in layers:
        if is_inside(layer.name, dropped):
            continue
        own = bits.get(layer.name, FLOAT_BITS)
        if own == before < FLOAT_BITS // 2:  # what is between two layers may be rounded once for both
            pair = f"pairs of {own} bits"
            found[pair] = found.get(pair, 0.0) + 1.0
        before = own
        weights = layer.weights * layer.share(widths)
        outputs = widths.get(layer.name, layer.width)[1]
        found["outputs"] += outputs
        if own >= FLOAT_BITS // 2:
            continue
        rows = max(1, round(outputs))
        stored = stored_bytes(compressor, layer.kind, rows, max(1, round(weights / rows)), own)
        known += stored - weights * FLOAT_BITS / 8
        kind = f"{layer.kind}{' in groups' * layer.in_groups} of {own} bits"
        amounts = {kind: 1.0, f"outputs of {kind}": outputs, f"weights of {kind}": weights}
        for name, amount in {**amounts, f"{_OWN}{layer.name} of {own} bits": 1.0}.items():
            found[name] = found.get(name, 0.0) + amount
    return known, found
