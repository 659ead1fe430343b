"""The compressor that trains with quantized values in float: NNI's quantizers, and the int8 model made from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.create import Setup
from raycompress.compressors.foresight import Ahead
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.quantization import fake_quant, int8, session
from raycompress.compressors.quantization.fake_quant import Activations, FakeQuant
from raycompress.compressors.quantization.nni import Learnt, NniQuantization, single_input
from raycompress.compressors.quantization.quantizer import (
    Quantized,
    Quantizer,
    agreement,
    saved_int8,
    size_note,
)
from raycompress.compressors.quantization.targets import bits_of, parts_of, refuse_tied, refuse_types
from raycompress.compressors.saving.fingerprint import fingerprint_of, fingerprint_of_bytes
from raycompress.compressors.saving.onnx_export import rehearse_onnx
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, MissingDependencyError, SpeedupError

FOLDED_TOLERANCE = 0.05
"""Largest relative difference where BatchNorm was folded: sums in another order, and a value halfway between two
points of the grid goes to the one or the other. On digits it is below 0.01; a wrong fold gives more than 0.5."""

_CONVERTED = (nn.modules.conv._ConvNd, nn.Linear)
_MEASURED = (
    "size and latency are the int8 file's, the reported numbers those of the quantized model in float arithmetic; "
    "a script that calls apply_speedup() before it evaluates reports the int8 file's"
)


class FakeQuantizer(Quantizer):
    """Quantizes a model while it trains; see `raycompress.compressors.quantization.nni`.

    What is measured and saved is the fake-quantized model, and beside it the int8 one; from `apply_speedup` on it is
    the int8 one.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        refuse_types(self.model, self._targets, (torch.float32,), f"and {self._entry.name} computes in float32")
        self._engine: NniQuantization | None = None
        self._int8: int8.Int8 | None = None
        self._learnt: Learnt | None = None
        self._agrees = ""
        if self._entry.name == "observer":
            self._engine = self._start()  # it records what it sees until compress()

    @property
    def is_trained(self) -> bool:
        """See `Quantizer.is_trained`."""
        return self._engine is not None and self._engine.trained

    def compress(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """Quantize; the model computes with quantized values from here on, and learns with them.

        Raises
        ------
        CompressionError
            NNI cannot quantize this model, or ``observer`` has seen no data.
        """
        if self._compressed:
            return self.model
        if self._engine is None:
            self._engine = self._start()
        if self._entry.name == "observer":
            self._observe()
        self._engine.compress()
        self._compressed = True
        return self.model

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> nn.Module:
        """Turn the model into the real int8 one, in place: evaluate it after this, and train it no more.

        Raises
        ------
        SpeedupError
            No int8 model can be made of it.
        """
        self._need_compressed("apply_speedup")
        if self._int8 is not None:
            return self.model
        if dummy_input is not None:
            self.example = Example.for_model(dummy_input, self._plain)
        example = self._need_example("apply_speedup")
        learnt, plain = self._final(example)
        try:
            made = self._to_int8(learnt, example)
        except CompressionError as error:
            problem = error.problems[0]
            raise SpeedupError(problem.what, where=problem.where, fix=problem.fix) from error
        self._agrees = agreement(plain, self._as_int8(made, example), self._samples())
        self._capture.stop()
        assert self._engine is not None
        self._engine.unwrap(learnt)
        self._int8, self._learnt = made, learnt
        return session.install(self.model, session.make(self._plain, example, made.data))

    def _rehearse_saving(self, ahead: Ahead) -> None:
        """Make what `apply_speedup` or an export would make of the model as it is, before it is trained."""
        example = self._need_example("apply_speedup")
        assert self._engine is not None
        if self._engine.trained and not self._engine.learnt().missing:
            self._final(example)
        if ahead.speedup:
            try:
                made = self._int8_of(clean_copy(self._plain).eval(), {}, example)
                session.make(self._plain, example, made.data)
            except CompressionError as error:
                problem = error.problems[0]
                raise SpeedupError(problem.what, where=ahead.speedup, fix=problem.fix) from error
        if ahead.onnx:
            rehearse_onnx(self._plain, example)

    def _quantized(self, example: Example) -> Quantized:
        before = measure.size_bytes(self._plain)
        if self._int8 is not None and self._learnt is not None:
            notes = [self._agrees, *self._left_in_float(self._int8)]
            calibration = _calibration(self._learnt.activations)
            return saved_int8(self.model, self._int8.data, self._learnt.state, before, notes, calibration=calibration)
        learnt, plain = self._final(example)
        made: int8.Int8 | None = None
        try:
            made = self._to_int8(learnt, example)
        except (CompressionError, MissingDependencyError) as error:
            problem = error.problems[0]
            notes = [f"the size is as it was, {before:,} bytes: {problem.what} ({problem.fix})"]
        else:
            agrees = agreement(plain, self._as_int8(made, example), self._samples())
            notes = [f"{size_note(before, len(made.data), bundle.INT8_ONNX)}; {agrees}"]
            notes += [*self._left_in_float(made), _MEASURED]
        return Quantized(
            model=plain,
            state=learnt.state,
            weights=learnt.state,
            recipe={"form": "fake_quant", "activations": fake_quant.to_json(learnt.activations)},
            size_bytes=before if made is None else len(made.data),
            int8=None if made is None else made.data,
            notes=tuple(notes),
            calibration=_calibration(learnt.activations),
        )

    def _fingerprint(self) -> Fingerprint:
        if self._int8 is not None:
            return fingerprint_of_bytes(self._int8.data)
        if self._engine is None:
            return fingerprint_of(self.model.state_dict())
        learnt = self._engine.learnt()
        scales = {
            f"{name}.{place}.{number}": tensor
            for name, grids in learnt.activations.items()
            for place, grid in grids.items()
            for number, tensor in enumerate((grid.scale, grid.zero_point))
        }
        return fingerprint_of({**learnt.state, **scales})

    def _start(self) -> NniQuantization:
        self._capture.stop()  # NNI calls the model to trace it
        # NNI traces the model then, which many models do not bear
        is_traced = self._entry.name in ("qat", "lsq") and _can_fold(self.model) and self._needs_tracing()
        folds = self.example if is_traced else None
        self._refuse_shapeless()
        refuse_tied(self.model, [name for name, target in self._targets.items() if "weight" in parts_of(target)])
        engine = NniQuantization(self._entry.name, self.model, self._plain, self._targets, self._optimizer, folds)
        self._capture.watch(self.model)
        return engine

    def _needs_tracing(self) -> bool:
        """Tell whether there is BatchNorm to fold, or activations whose number of channels has to be known."""
        has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
        return has_norm or next(self._activations_by_channel(), None) is not None

    def _activations_by_channel(self) -> Iterator[tuple[str, str]]:
        """Yield (layer, input or output) of the activations that get a scale for each channel."""
        for name, target in self._targets.items():
            scheme = target.settings.get("quant_scheme", "")
            for part in parts_of(target):
                chosen = scheme.get(part, "") if isinstance(scheme, dict) else scheme
                if part != "weight" and chosen.startswith("per_channel"):
                    yield name, part

    def _refuse_shapeless(self) -> None:
        """Raise CompressionError where the number of channels, which a scale per channel needs, is unknown."""
        for name, part in self._activations_by_channel() if single_input(self.example) is None else ():
            known = "no input is known" if self.example is None else "the model has more inputs than a tensor"
            raise CompressionError(
                f'the {part} of "{name}" is to have a scale for each channel, and {known}',
                where=f"config_list[{self._targets[name].entry}].quant_scheme",
                fix='pass dummy_input= to create_compressor, or write "per_tensor_affine"',
            )

    def _observe(self) -> None:
        """Run the given data through the observers; without any, the script has called the model itself."""
        with evaluating(self.model), torch.no_grad():
            for example in self._given or ():
                device = next(iter(self.model.parameters())).device
                example.to(device).call(self.model)
        if not self._samples():
            raise CompressionError(
                "observer has seen no data to learn the ranges from",
                where="compress",
                fix="call the model on batches between create_compressor and compress(), or pass calibration_data=",
            )

    def _final(self, example: Example) -> tuple[Learnt, nn.Module]:
        """Return the result of the training, and a plain model of the same function, as checked on `example`."""
        assert self._engine is not None
        learnt = self._engine.learnt()
        if learnt.missing or not self._engine.trained:
            unseen = "; ".join(f"{name}: {parts}" for name, parts in learnt.missing.items())
            raise CompressionError(
                f"{self._entry.name} has quantized nothing yet" + (f" of {unseen}" if unseen else ""),
                where="export_model",
                fix="train the model after compress(), for more steps of the optimizer than quant_start_step",
            )
        plain = self._float(learnt)
        fake_quant.install(plain, learnt.activations)
        self._capture.stop()
        device = next(iter(self.model.parameters())).device
        inputs = example.to(
            device
        )  # both on one device: another one rounds sums otherwise, and so picks other grid points
        difference = relative_difference(inputs.outputs(self.model), inputs.outputs(plain.to(device)))
        self._capture.watch(self.model)
        plain.cpu()
        if not difference <= (FOLDED_TOLERANCE if self._engine.folds else TOLERANCE):
            raise CompressionError(
                f"the saved model would not be the trained one: its outputs differ by {difference:.2g} of their norm",
                where=type(self.model).__name__,
                fix="leave dummy_input= out, so that BatchNorm is not folded; or exclude layers that are called twice",
            )
        return learnt, plain

    def _float(self, learnt: Learnt) -> nn.Module:
        """Return a plain model with the quantized weights, which computes its activations in float."""
        plain = clean_copy(self._plain)
        plain.load_state_dict(learnt.state)
        return plain.eval()

    def _to_int8(self, learnt: Learnt, example: Example) -> int8.Int8:
        """Make the int8 model; grids of activations that int8 has not stay in it as float operations."""
        other = {
            name: {place: grid for place, grid in grids.items() if grid.kind == "sign" or grid.bits != 8}
            for name, grids in learnt.activations.items()
        }
        return self._int8_of(self._float(learnt), other, example)

    def _int8_of(self, model: nn.Module, activations: Activations, example: Example) -> int8.Int8:
        """Make the int8 model of a float one, some of whose activations are rounded to grids."""
        layers = [name for name in self._targets if self._fits(name)]
        if not layers:
            raise CompressionError(
                "int8 cannot hold what config_list asks for: weights of convolutions and linear layers, at most 8 bits",
                where="config_list",
                fix='quantize "weight" with "quant_bits": 8',
            )
        fake_quant.install(model, activations)
        return int8.static(model, example, self._samples() or [example], dict.fromkeys(layers, 8), int8.Options())

    def _fits(self, name: str) -> bool:
        target = self._targets[name]
        layer = self._plain.get_submodule(name)
        return "weight" in parts_of(target) and bits_of(target, "weight") <= 8 and isinstance(layer, _CONVERTED)

    def _as_int8(self, made: int8.Int8, example: Example) -> nn.Module:
        return session.install(clean_copy(self._plain), session.make(self._plain, example, made.data))

    def _left_in_float(self, made: int8.Int8) -> list[str]:
        left = [n for n, t in self._targets.items() if "weight" in parts_of(t) and n not in made.layers]
        note = f"{', '.join(left)}: float in the int8 file, which holds convolutions and linear layers of up to 8 bits"
        return [note] if left else []


def _calibration(activations: Activations) -> dict[str, dict[str, float]]:
    """Return bits and ranges by layer, under NNI's names."""
    found: dict[str, dict[str, float]] = {}
    for name, grids in activations.items():
        for place, grid in grids.items():
            low, high = _range(grid)
            values = {f"{place}_bits": grid.bits, f"tracked_min_{place}": low, f"tracked_max_{place}": high}
            found.setdefault(name, {}).update(values)
    return found


def _range(grid: FakeQuant) -> tuple[float, float]:
    if grid.kind == "sign":
        return -1.0, 1.0
    ends = [float(((end - grid.zero_point) * grid.scale).amin()) for end in (grid.low, grid.high)]
    return min(ends), max(ends)


def _can_fold(model: nn.Module) -> bool:
    """Tell whether NNI can fold each BatchNorm into the layer before: it asks for statistics and weights."""
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    return all(norm.affine and norm.running_var is not None for norm in norms)
