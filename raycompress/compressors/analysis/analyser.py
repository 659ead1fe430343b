"""The compressor of mode ``analyze``: it measures the sensitivity of the script's model, and leaves the script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.agreement import Agreement
from raycompress.compressors.analysis.calls import Calls
from raycompress.compressors.analysis.cost import model_cost
from raycompress.compressors.analysis.sensitivity import layer_sensitivity
from raycompress.compressors.analysis.targets import channel_dependency
from raycompress.compressors.create import evaluator_of
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, RaycompressError
from raycompress.results.analysis.data import Analysis, Dependency
from raycompress.script.context import EndOfInspection, Trial


class Analyser(Compressor):
    """Analyses the model as it is when `create_compressor` is called.

    Where the script passes ``evaluator=``, that is the metric, and the script is left at once. Otherwise the script
    goes on until it has called its model with enough samples, and the metric is how far a pruned copy agrees with the
    dense model on them.
    """

    ANSWER = "analysis"

    def __init__(self, model: nn.Module, trial: Trial, dummy: Any, arguments: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._trial = trial
        self._wanted = dict(trial.analysis)
        self._sent = False
        self._dummy = None if dummy is None else Example.for_model(dummy, model)
        self._calibration = arguments.get("calibration")
        evaluator = evaluator_of(arguments)
        if evaluator is not None:
            self._leave(lambda: self._by_evaluator(evaluator))
        self._dense = clean_copy(model)
        self._calls = Calls(self._wanted["samples"], lambda: self._leave(self._by_agreement)).watch(model)
        trial.on_report.append(self._report)
        trial.on_finish.append(lambda: self._leave(self._by_agreement))

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Count on the copy, so that its random input is no call of the script's."""
        return measure.layer_table(self._dense, self._example_of(shape))

    def _report(self, _values: Mapping[str, float]) -> None:
        if self._calls.batches:
            self._leave(self._by_agreement)

    def _leave(self, analyse: Callable[[], Analysis]) -> NoReturn:
        """Send the result of the analysis, or its error; only once, in case the script catches the exception."""
        if self._sent:
            raise EndOfInspection
        self._sent = True
        try:
            self._trial.send({"type": self.ANSWER, self.ANSWER: analyse().to_json()})
        except RaycompressError as error:
            self._trial.send({"type": "refused", "problems": [asdict(problem) for problem in error.problems]})
        raise EndOfInspection

    def _by_evaluator(self, evaluate: Callable[[nn.Module], Any]) -> Analysis:
        first = Calls(1).watch(self.model)
        try:
            return self._analysis(self.model, evaluate, "the script's evaluator", lambda: self._dummy or _first(first))
        finally:
            first.cancel()

    def _by_agreement(self) -> Analysis:
        self._calls.cancel()
        batches = self._calls.batches
        if not batches:
            raise CompressionError(
                "the script never called its model after create_compressor, so that no input of it is known",
                where="create_compressor",
                fix="call the model that compress() returns, or pass evaluator= to create_compressor",
            )
        agreement = Agreement(self._dense, batches)
        what = "agreement with the dense model" if agreement.is_share else "1 - relative difference of the outputs"
        metric = f"{what}, {agreement.samples} samples"
        return self._analysis(self._dense, agreement, metric, lambda: self._dummy or _first(self._calls))

    def _analysis(
        self,
        model: nn.Module,
        evaluate: Callable[[nn.Module], Any],
        metric: str,
        example: Callable[[], Example],
    ) -> Analysis:
        sensitivity = layer_sensitivity(
            model, evaluate, dummy_input=self._dummy, metric=metric, progress=self._progress, **self._wanted
        )
        dependency, notes = _dependency(model, example())
        return Analysis(type(model).__name__, sensitivity, dependency, model_cost(model, example()), notes)

    def _progress(self, done: int, total: int, layer: str) -> None:
        self._trial.send({"type": "progress", "done": done, "total": total, "layer": layer})


def _first(calls: Calls) -> Example:
    if not calls.batches:
        raise CompressionError(
            "the evaluator never called the model, so that no input of it is known",
            where="create_compressor",
            fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32), and let evaluator(model) call its argument",
        )
    return calls.batches[0].first()


def _dependency(model: nn.Module, example: Example) -> tuple[Dependency | None, tuple[str, ...]]:
    try:
        return channel_dependency(model, example), ()
    except CompressionError as error:
        return None, (f"{error.problems[0].what}, so that tied layers are not known",)
