"""The compressor of several stages, such as channels that go and what is left in int8: to a script it is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from raycompress.bundle.example import Example
from raycompress.catalog.quantizers import OF_LAYERS, STAYS_FLOAT
from raycompress.catalog.stages import quantizes_trained
from raycompress.compressors.base import SavingCompressor
from raycompress.compressors.create import Setup, made_of
from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.foresight import Ahead
from raycompress.compressors.interface import Compressor
from raycompress.compressors.pruning.pruner import Pruner
from raycompress.compressors.quantization.calibration import from_data
from raycompress.compressors.quantization.quantizer import Quantizer
from raycompress.compressors.saving.export import Export
from raycompress.compressors.saving.files import Paths
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.stages.evaluation import QuantizedEvaluation
from raycompress.compressors.stages.setups import of_stage
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError

_DATA = "calibration_data"


class StagedCompressor(SavingCompressor, Compressor):
    """Compresses one model in stages, each of which works on what the one before left.

    Channels are cut out in `compress` where what goes is known there, else in `apply_speedup` or when the model is
    saved. A stage that acts while the script trains begins in `compress` too. A last one that quantizes the trained
    model does so whenever the script evaluates it; see `QuantizedEvaluation`.

    Parameters
    ----------
    setups
        Of each stage what `create_compressor` was given; `raycompress.catalog.stages` allows their order.
    """

    def __init__(self, setups: Sequence[Setup]) -> None:
        super().__init__(setups[0].model)
        self._setups = list(setups)
        self._layers = {name for name, _ in setups[0].model.named_modules()}
        self._compressed = False
        self._left: Export | None = None
        self._evaluation: QuantizedEvaluation | None = None
        if quantizes_trained(setups[-1].entry):
            self._evaluation = QuantizedEvaluation(self._quantized, self._is_cut)
        with of_stage(0, setups[0].entry.name):
            first: Pruner = made_of(setups[0])
        self._first = first
        self._begun: list[Pruner | Quantizer] = [first]
        self._join_trial(self._evaluations())
        if self._saved_model_check is not None and self._evaluation is not None:
            self._saved_model_check.fix = (
                f"stage {len(setups)}, {setups[-1].entry.name}, quantizes the trained model: evaluate it in eval mode "
                "under torch.no_grad(), after apply_speedup where the script calls that; then report and save"
            )

    @property
    def _is_compressed(self) -> bool:
        return self._compressed

    @property
    def is_decided(self) -> bool:
        """Whether what the first stage removes is known, and no schedule will change it."""
        return self._first.is_decided

    @property
    def teacher(self) -> nn.Module:
        """See `Compressor.teacher`."""
        return self._first.teacher

    def keep_teacher(self, asked: Any) -> None:
        """See `Compressor.keep_teacher`."""
        self._first.keep_teacher(asked)

    @property
    def decision(self) -> PruningDecision | None:
        """What the first stage removes, where that is known."""
        return self._first.decision

    def compress(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Begin all stages but one that quantizes the trained model; see `Compressor.compress`.

        Raises
        ------
        CompressionError
            A stage cannot work on this model, or would begin here and no input of the model is known.
        """
        if self._compressed:
            return self.model
        self._need_input()
        before: Mapping[str, Any] = self._decided_before() or {}
        decided = before.get("stages", [])
        with self._named(0):
            self._first.go_on_from(decided[0] if decided else None)
            self._first.compress(*args, **kwargs)
        for number in range(1, self._at_once):
            made = self._begin(number)
            with self._named(number):
                made.go_on_from(decided[number] if number < len(decided) else None)
                made.compress()
        self._compressed = True
        if self._evaluation is not None:
            self._evaluation.watch(self.model)
        return self.model

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """See `Compressor.count_flops_params`; rounding while the script trains adds nothing to it."""
        last = self._begun[-1]
        return last.count_flops_params(shape) if isinstance(last, Quantizer) else super().count_flops_params(shape)

    def step(self) -> None:
        """See `Compressor.step`."""
        for stage in self._begun:
            stage.step()

    def update_epoch(self, epoch: int) -> None:
        """See `Compressor.update_epoch`."""
        self._first.update_epoch(epoch)

    def get_prune_iterations(self) -> range:
        """See `Compressor.get_prune_iterations`."""
        return self._first.get_prune_iterations()

    def prune_iteration_start(self) -> None:
        """See `Compressor.prune_iteration_start`."""
        self._first.prune_iteration_start()

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> nn.Module:
        """Cut out the channels that go, where that is not done yet; after a training that quantizes, turn it into int8.

        Raises
        ------
        SpeedupError
            As of the stages by themselves.
        """
        self._need_compressed("apply_speedup")
        if not self._is_cut():
            with self._named(0):
                self._first.apply_speedup(dummy_input)
        last = self._begun[-1]
        if isinstance(last, Quantizer) and last.is_trained:
            with self._named(len(self._begun) - 1):
                last.apply_speedup(dummy_input)
        return self.model

    def result(self) -> nn.Module:
        """Return the model that is saved as it is now: where a last stage quantizes it, the quantized copy."""
        if self._evaluation is None:
            return self.model
        return self._evaluation.answering().model

    def rehearse(self, example: Example, ahead: Ahead) -> None:
        """Go through all stages with one input, and raise what a trial would be refused."""
        self._need_input()
        with self._named(0):
            self._first.rehearse(example, replace(ahead, onnx=""))
        for number in range(1, self._at_once):
            made = self._begin(number)
            with self._named(number):
                made.rehearse(example, ahead)
        if self._evaluation is not None:
            with self._named(len(self._setups) - 1):
                quantizer = _quantizer(self._left_of(-1, self.model), clean_copy(self.model), [example])
                quantizer.rehearse(example, ahead)

    @property
    def _at_once(self) -> int:
        """How many stages begin in `compress`."""
        return len(self._setups) - (self._evaluation is not None)

    def _is_cut(self) -> bool:
        """Tell whether the channels that the first stage removes, if it does, are cut out."""
        return not self._setups[0].entry.removes_channels or self._first.is_small

    def _begin(self, number: int) -> Pruner | Quantizer:
        """Make the compressor of a stage, on what those before it have left."""
        if not self._is_cut():
            raise CompressionError(
                f"{self._label(number)} begins in compress(), and there {self._label(0)} does not know yet what goes",
                where="compress",
                fix="let the first stage choose at once, without steps, or take ptq_static, which quantizes at the end",
            )
        with self._named(number):
            made: Pruner | Quantizer = made_of(replace(self._left_of(number, self.model), earlier=self._earlier()))
        self._begun.append(made)
        self._left = None
        return made

    def _quantized(self, model: nn.Module, seen: list[Example] | None) -> Quantizer:
        """Return the quantizer of `model`, a copy of what the stages before have left, when it has quantized it."""
        self.step()
        number = len(self._setups) - 1
        with self._named(number):
            setup = self._setups[number] = _calibrated(self._setups[number], seen)
            left = replace(self._left_of(number, model), earlier=self._earlier())
            made = _quantizer(left, model, setup.samples)
            made.compress()
        return made

    def _left_of(self, number: int, model: nn.Module) -> Setup:
        """Return the setup of a stage, which names no layer that has gone with its residual block.

        Where all that a last stage quantizes has gone, it leaves the rest float.
        """
        setup = self._setups[number]
        gone = self._layers - {name for name, _ in model.named_modules()}
        entries: list[Mapping[str, Any]] = []
        for entry in setup.config_list if gone else ():
            names = [name for name in entry.get("op_names", ()) if name not in gone]
            if names or "op_names" not in entry:
                entries.append({**entry, **({"op_names": names} if names else {})})
        if gone and not entries and setup.entry.name in OF_LAYERS:
            entries = [STAYS_FLOAT]
        return replace(setup, config_list=entries) if gone else setup

    def _earlier(self) -> Export:
        """Return what the stages that have begun leave."""
        if self._left is None:
            self._left = cast("Pruner", self._begun[-1]).saved()
        return self._left

    def _need_input(self) -> None:
        if self._at_once > 1 and self._setups[0].dummy_input is None:
            raise CompressionError(
                f"{self._label(1)} begins in compress(), on what {self._label(0)} leaves, and no input of the model is "
                "known there",
                where="create_compressor",
                fix="pass dummy_input= to create_compressor, such as torch.randn(1, 3, 32, 32)",
            )

    def _label(self, number: int) -> str:
        return f"stage {number + 1} ({self._setups[number].entry.name})"

    def _named(self, number: int) -> Any:
        return of_stage(number, self._setups[number].entry.name)

    def _decided(self) -> dict[str, Any]:
        return {"stages": [stage.decided() for stage in self._begun]}

    def _fingerprint(self) -> Fingerprint:
        self.step()
        return self._begun[-1].fingerprint() if self._evaluation is None else self._evaluation.fingerprint()

    def _check_compressed(self) -> None:
        super()._check_compressed()
        for stage in self._begun:
            stage.check_compressed()

    def _save(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        self.step()
        if speedup or not self._is_cut():
            self.apply_speedup(dummy_input)
        last = self._begun[-1] if self._evaluation is None else self._evaluation.answering(is_sure=False)
        with self._named(len(self._setups) - 1):
            last.save(paths, dummy_input, input_shape, notes=self._notes)

    def _save_by_itself(self, note: str) -> None:
        """Save the model of a script that never did."""
        self._notes = (note,)
        self.export_model("model.pth", "mask.pth")


def _quantizer(setup: Setup, model: nn.Module, samples: Sequence[Example] | None) -> Quantizer:
    made: Quantizer = made_of(replace(setup, model=model, samples=None if samples is None else list(samples)))
    return made


def _calibrated(setup: Setup, seen: list[Example] | None) -> Setup:
    """Return the setup with the inputs to calibrate with: the script's, or those that the model has met."""
    given = setup.arguments.get(_DATA)
    given = setup.calibration if given is None else given
    samples = setup.samples if given is None else from_data(given, setup.model)
    arguments = {**setup.arguments, _DATA: None}
    return replace(setup, arguments=arguments, calibration=None, samples=samples or seen)
