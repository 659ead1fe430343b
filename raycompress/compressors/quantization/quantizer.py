"""The base of the compressors that quantize: the methods that a script calls, and saving a quantized model."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.base import SavingCompressor
from raycompress.compressors.create import Setup
from raycompress.compressors.foresight import Ahead
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.sizes import Sizes
from raycompress.compressors.quantization import session
from raycompress.compressors.quantization.calibration import Capture, check_fits, from_data
from raycompress.compressors.quantization.fake_quant import InputHook, OutputHook
from raycompress.compressors.quantization.targets import select
from raycompress.compressors.saving.export import Export, export
from raycompress.compressors.saving.files import Paths
from raycompress.compressors.saving.onnx_export import REHEARSED, rehearse_onnx
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.plan import plan_of
from raycompress.compressors.wrappers import Uncompiled
from raycompress.errors import CompressionError, RaycompressError


@dataclass(frozen=True)
class Quantized:
    """A quantized model, ready to be saved.

    Attributes
    ----------
    model
        Computes what was measured.
    state
        For the script's own file: a state_dict of the plain class.
    weights
        What the bundle stores beside the recipe.
    recipe
        What ``quantization.json`` holds: how the model is made of a fresh instance and the bundle's files.
    size_bytes
        Of the smallest file that holds the model.
    int8
        The int8 ONNX file, where there is one.
    notes
        What a person should know.
    calibration
        For the script's file of that name: layer -> bits and ranges.
    onnx, traceable
        As in `raycompress.compressors.saving.export.Export`.
    """

    model: nn.Module
    state: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    recipe: Mapping[str, Any]
    size_bytes: int
    int8: bytes | None = None
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    onnx: bytes | None = None
    traceable: nn.Module | None = None


class Quantizer(SavingCompressor, Compressor):
    """Quantizes one model; the base of all quantizers.

    Parameters
    ----------
    setup
        What `create_compressor` was given. ``calibration_data`` among its arguments, or else what the model is called
        with from now on, are the inputs to calibrate with.

    Raises
    ------
    ExperimentError
        Mistakes in the config_list.
    CompressionError
        The model is quantized already.
    """

    def __init__(self, setup: Setup) -> None:
        model: nn.Module = setup.model
        super().__init__(model)
        _refuse_twice(model)
        self._entry, self._arguments, self._asked = setup.entry, setup.arguments, setup.asked
        self._is_stage, self._earlier = setup.is_stage, setup.earlier
        self._targets = select(model, setup.config_list, setup.entry)
        self._plain = clean_copy(model).cpu()
        self._optimizer = setup.optimizer if isinstance(setup.optimizer, torch.optim.Optimizer) else None
        if setup.dummy_input is not None:
            self.example = Example.for_model(setup.dummy_input, model)
        data = self._arguments.get("calibration_data")
        if data is None and "calibration" in self._arguments:
            data = setup.calibration
        self._given = setup.samples if data is None else from_data(data, model)
        if self._given is not None:
            check_fits(self._given, self._plain)
        self._uncompiled = Uncompiled()
        self._uncompiled.hold()
        self._capture = Capture().watch(model)
        self._compressed = False
        self._join_trial(self._evaluations())

    @property
    def _is_compressed(self) -> bool:
        return self._compressed

    @property
    def is_trained(self) -> bool:
        """Whether a training has quantized something that `apply_speedup` turns into int8."""
        return False

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Return multiply-adds, parameters and a row a layer; quantizing changes none of them."""
        return measure.layer_table(self._plain, self._example_of(shape).to(torch.device("cpu")))

    def rehearse(self, example: Example, ahead: Ahead) -> None:
        """Compress, calibrated with one input, and raise what a trial would be refused; see `BaseCompressor.rehearse`.

        A model of more than `REHEARSED` bytes is not quantized for it.
        """
        example.check_storable(self.model)
        if measure.size_bytes(self._plain) > REHEARSED:
            return
        self._given = [example]
        example.outputs(self.model)
        model = self.compress()
        try:
            example.outputs(model)
        except RaycompressError:
            raise
        except Exception as error:
            raise CompressionError(
                f"{type(model).__name__} does not compute as {self._entry.name} has it: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}",
                where="config_list",
                fix="leave out the layers whose weight forward() uses in another way than by calling them",
            ) from error
        self._rehearse_saving(ahead)

    def _rehearse_saving(self, ahead: Ahead) -> None:
        """Raise what `apply_speedup` or `export_model` would refuse."""
        quantized = self._quantized(self._need_example("export_model"))
        if ahead.onnx and quantized.onnx is None:
            rehearse_onnx(quantized.traceable or quantized.model, self._need_example("export_model"))

    def file_bytes(self, example: Example) -> int:
        """Return the bytes of the smallest file that holds the quantized model, once it is compressed."""
        return self._quantized(example).size_bytes

    def _save(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        calibration = paths.calibration or (paths.mask if self._earlier is None else None)
        if self.example is None and dummy_input is None and input_shape is not None and self._seen() is None:
            dummy_input = torch.randn(*input_shape)
        if self.example is None and dummy_input is not None:
            self.example = Example.for_model(dummy_input, self._plain)
        if speedup:
            self.apply_speedup(dummy_input)
        example = self._need_example("export_model")
        quantized = self._quantized(example)
        before = measure.sizes(self._plain, example)
        dense, timed = self._latency(quantized, example)
        saved = Export(
            model=quantized.model,
            masks={},
            plan=plan_of(self.model),
            example=example,
            before=before,
            after=Sizes(before.params, before.flops, quantized.size_bytes),
            removed={},
            asked=self._asked,
            notes=(*quantized.notes, *self._notes),
            kind="quantized",
            state=quantized.state,
            weights=quantized.weights,
            files=_files(quantized),
            named={} if calibration is None else {calibration: _saver(quantized.calibration)},
            onnx=quantized.onnx,
            int8=quantized.int8,
            traceable=quantized.traceable,
            dense=dense,
            timed=timed,
        )
        export(saved.following(self._earlier), self._trial, paths)

    def _save_by_itself(self, note: str) -> None:
        """Save the model of a script that never did."""
        self._notes = (note,)
        self.export_model("model.pth", calibration_path="calibration.pth")

    def _latency(self, quantized: Quantized, example: Example) -> tuple[nn.Module | None, nn.Module | None]:
        """Return (dense, timed) of `raycompress.compressors.saving.export.Export`, where the trial asks for it."""
        if self._trial is None or not self._trial.latency:
            return None, None
        timed = quantized.model
        if quantized.int8 is not None and session.installed(timed) is None:
            timed = session.install(clean_copy(self._plain), session.make(self._plain, example, quantized.int8))
        return clean_copy(self._plain), timed

    @abstractmethod
    def _quantized(self, example: Example) -> Quantized:
        """Return the model as it is now; `example` is one input of it, on the CPU."""

    def _samples(self) -> list[Example]:
        """Return the inputs to calibrate with, arguments in the order of forward's parameters, on the CPU."""
        signature = session.signature_of(self._plain)
        examples = self._given if self._given is not None else self._capture.examples
        found = [session.bound(example, signature).to(torch.device("cpu")) for example in examples]
        lists = bool(found) and found[0].with_lists(self._plain).lists
        return [replace(example, lists=lists) for example in found] if lists else found

    def _seen(self) -> Example | None:
        """Return one input of the model, a batch of one, if any is known."""
        if self.example is not None:
            return self.example
        samples = self._samples()
        return Example.of_first_call(self._plain, samples[0].args, samples[0].kwargs) if samples else None

    def _need_example(self, where: str) -> Example:
        seen = self._seen()
        if seen is None:
            raise CompressionError(
                "no input of the model is known: it was not called since create_compressor",
                where=where,
                fix="pass dummy_input= to create_compressor, such as torch.randn(1, 3, 32, 32)",
            )
        self.example = session.bound(seen, session.signature_of(self._plain)).to(torch.device("cpu"))
        return self.example


def saved_int8(
    model: nn.Module,
    data: bytes,
    state: Mapping[str, Tensor],
    before: int,
    notes: Sequence[str],
    neutral: Mapping[str, int] | None = None,
    **more: Any,
) -> Quantized:
    """Return the int8 model that `model` computes with, ready to be saved; `before`: the size of the float weights."""
    return Quantized(
        model=model,
        state=state,
        weights={},
        recipe={"form": "int8", **({"neutral": dict(neutral)} if neutral else {})},
        size_bytes=len(data),
        int8=data,
        notes=(f"{size_note(before, len(data), bundle.INT8_ONNX)}; {notes[0]}", *notes[1:]),
        onnx=data,
        **more,
    )


def agreement(measured: nn.Module, int8: nn.Module, samples: list[Example], known: Sequence[list[Tensor]] = ()) -> str:
    """Return a note on the difference of the outputs of the int8 model from those of the other.

    Parameters
    ----------
    known
        Outputs of the other on the first samples.
    """
    expected = [*known, *(sample.outputs(measured) for sample in samples[len(known) :])]
    pairs = [(one, sample.outputs(int8)) for one, sample in zip(expected, samples, strict=True)]
    difference = relative_difference([t for one, _ in pairs for t in one], [t for _, other in pairs for t in other])
    count = sum(one[0].size(0) for one, _ in pairs if one and one[0].dim())
    note = f"on {count} input{'s' * (count != 1)} its outputs differ by {difference:.1%} of their norm"
    if all(one and one[0].dim() == 2 and one[0].size(1) > 1 for one, _ in pairs):
        same = sum(int((one[0].argmax(1) == other[0].argmax(1)).sum()) for one, other in pairs)
        note += f", and {same / max(count, 1):.1%} have the same class on top"
    return note


def size_note(before: int, after: int, what: str) -> str:
    """Return a note on the size before and after."""
    share = f"{after / before:.0%} of" if after < before else "no smaller than"
    return f"{what}: {after:,} bytes, {share} the {before:,} bytes of the float weights"


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict of an ordinary model, detached, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _files(quantized: Quantized) -> dict[str, Any]:
    recipe = json.dumps(dict(quantized.recipe))
    files: dict[str, Any] = {bundle.QUANTIZATION: lambda path: path.write_text(recipe)}
    if quantized.int8 is not None:
        files[bundle.INT8_ONNX] = lambda path: path.write_bytes(quantized.int8)
    return files


def _saver(content: Mapping[str, Any]) -> Any:
    def save(path: Path) -> None:
        torch.save({name: dict(values) for name, values in content.items()}, path)

    return save


def _refuse_twice(model: nn.Module) -> None:
    hooks = [hook for m in model.modules() for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    wrapped = any(type(module).__name__ == "QuantizerModuleWrapper" for module in model.modules())
    if (
        wrapped
        or session.installed(model) is not None
        or any(isinstance(hook, (Capture, InputHook, OutputHook)) for hook in hooks)
        or any(type(parameter).__name__ == "Int8Tensor" for parameter in model.parameters())
    ):
        raise CompressionError(
            f"this {type(model).__name__} is quantized already, or has a quantizer",
            where="create_compressor",
            fix="make one compressor a model; for another one start from a fresh instance with the float weights",
        )
