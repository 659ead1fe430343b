"""The compressor that prunes: an engine decides, masks are applied while the script trains, slicing makes it small."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog.entry import COMPENSATE
from raycompress.compressors.base import SavingCompressor
from raycompress.compressors.compensation.in_pruner import check_inputs, compensated, wants_compensation
from raycompress.compressors.create import Setup
from raycompress.compressors.deploying.in_trial import calibration_of, targets_of
from raycompress.compressors.depth.depth import Dropping
from raycompress.compressors.depth.in_pruner import drop_asked
from raycompress.compressors.distillation import survivors
from raycompress.compressors.engine import PruningDecision, PruningSchedule, Request, engine_of
from raycompress.compressors.foresight import Ahead
from raycompress.compressors.interface import Compressor
from raycompress.compressors.masking.masks import FirstCall, Masks
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.pruning import decided, gate, refusals
from raycompress.compressors.pruning.dense_sizes import CHANGED, DenseSizes
from raycompress.compressors.saving.export import Export, export
from raycompress.compressors.saving.files import Paths
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.saving.onnx_export import rehearse_onnx
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.structure import slicing
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.structure.graph_cache import GraphCache
from raycompress.compressors.structure.optimizers import StepWatch, hand_over
from raycompress.compressors.structure.plan import plan_of
from raycompress.compressors.targets.torch import select
from raycompress.compressors.wrappers import refuse_replicas
from raycompress.config.objective import Bound
from raycompress.errors import CompressionError, SpeedupError
from raycompress.script.workers.agreement import agreed, follows


class Pruner(SavingCompressor, Compressor):
    """Prunes one model.

    Parameters
    ----------
    setup
        What `create_compressor` was given. Without ``dummy_input`` the first input of the model after `compress` is
        used. With ``slice`` the speed-up happens by itself, in `compress` or when the model is saved. Optimizers go on
        with the small model's parameters after it.
    """

    def __init__(self, setup: Setup) -> None:
        model: nn.Module = setup.model
        super().__init__(model)
        self._entry, self._arguments, self._asked = setup.entry, setup.arguments, setup.asked
        self._is_stage, self._earlier = setup.is_stage, setup.earlier
        self._targets = select(model, setup.config_list, setup.entry) if setup.config_list or not setup.depth else {}
        self._given = None if setup.dummy_input is None else Example.for_model(setup.dummy_input, model)
        self._optimizer = setup.optimizer if isinstance(setup.optimizer, torch.optim.Optimizer) else None
        self._masks = Masks(model)
        self._decision: PruningDecision | None = None
        self._schedule: PruningSchedule | None = None
        self._first_call = FirstCall()
        self._watch = StepWatch()
        self._before: measure.Sizes | None = None
        self._slicing: slicing.Slicing | None = None
        self._graphs = GraphCache(model)
        self._dense_sizes = DenseSizes(model)
        self._proved: tuple[Example, Fingerprint] | None = None
        self._kept: dict[str, Tensor] = {}
        self._dense: nn.Module | None = None
        self._small = self._is_told = self._goes_on = False
        self._slice_when = setup.slice if setup.entry.removes_channels else None
        self._evaluator, self._calibration = setup.evaluator, setup.calibration
        self._compensates, self._compensation = wants_compensation(setup), ""
        self._setup, self._depth, self._dropping = setup, setup.depth, Dropping()
        self._is_all = setup.depth is None and not setup.is_stage
        self._join_trial(self._evaluations())
        self._int8_inputs: list[Example] = []

    @property
    def is_decided(self) -> bool:
        """Whether the decision is made, and no schedule will change it."""
        return self._decision is not None if self._schedule is None else not self._schedule.missing()[0]

    def compress(self, *_args: Any, **kwargs: Any) -> nn.Module:
        """Prune; see `Compressor.compress`. What is passed by name goes to the engine.

        Raises
        ------
        CompressionError
            The method cannot work on this model, or a layer that was to lose channels would lose none. Where no
            ``dummy_input`` was given, this is raised from the model's first call.
        """
        if self._is_compressed:
            return self.model
        refusals.need_free(self.model, CHANGED, in_trial=self._trial is not None and not self._is_stage)
        if self._depth is not None and self._given is None:  # an input shows which blocks there are
            self._first_call = FirstCall(lambda example: self._begin(example, kwargs)).watch(self.model)
        else:
            self._begin(self._given, kwargs)
        return self.model

    def _begin(self, given: Example | None, call: dict[str, Any]) -> None:
        """Decide what goes, and mask it; `given` is an input, where one is known."""
        self._given = given if given is None else self._dense_sizes.check_input(given)
        if self._trial is not None and (self._trial.latency or self._trial.rung0):
            self._dense = clean_copy(self.model)
        self._int8_inputs = calibration_of(targets_of(self._trial), self.model, self._calibration, self._evaluator)
        before = self._decided_before()
        if self._depth is not None and self._given is not None:
            self._drop_blocks(self._given, before)
        outcome, example = self._chosen(call, before)
        if isinstance(outcome, PruningSchedule):
            self._schedule = outcome
            self._apply(outcome.start())
            self._watch = StepWatch(self.model, lambda: self._apply(outcome.after_step()))
        else:
            self._apply(outcome)
        if self._slice_when == "before" and not self.is_decided:
            raise CompressionError(
                f"{self._entry.name} chooses what goes while the script trains, so that nothing can be sliced before",
                where="slice",
                fix='write "slice": "after"',
            )
        if example is not None:
            self._meet(example)
        else:
            self._first_call = FirstCall(self._meet).watch(self.model)
        if self._entry.returns_small:
            self.apply_speedup()

    def _drop_blocks(self, given: Example, before: dict[str, Any] | None) -> None:
        """Drop the blocks that the depth asks for, or that had gone before the checkpoint, and the targets in them."""
        dense = self._dense_sizes.of(given)
        self._dropping = drop_asked(self._setup, given, self._trial, before)
        if self._dropping.blocks:
            self._dense_sizes.keep(dense)
        self._targets = {name: one for name, one in self._targets.items() if not self._dropping.has(name)}

    def _chosen(
        self, call: dict[str, Any], before: dict[str, Any] | None
    ) -> tuple[PruningDecision | PruningSchedule, Example | None]:
        """Return what the engine decides, or decided before the checkpoint, and an input where one is known."""
        if before is not None:
            self._goes_on, self._compensates, self._compensation = True, False, before["compensation"]
            return decided.restored(before, self.model), self._given or decided.example_of(before, self.model)
        if self._depth is not None and not self._targets:
            return PruningDecision(), self._given
        engine = engine_of(self._entry)
        arguments, graphs = self._arguments, self._graphs
        request = Request(self._entry, self.model, self._targets, arguments, self._given, call, graphs)
        if self._given is not None and self._entry.removes_channels and arguments.get("trainer") is not None:
            slicing.rehearse(self.model, self._given, self._targets, self._entry, self._graphs.graph(self._given))
        seen: list[Example] = []  # inputs of a method that trains the model inside choose()
        if self._given is None:
            self._first_call = FirstCall(seen.append).watch(self.model)
        try:
            outcome = engine.choose(request)
        finally:
            self._first_call.cancel()
        return outcome, self._given or next(iter(seen), None)

    def _decided(self) -> dict[str, Any]:
        example = None if self._given is not None else self.example
        of_layers = (self._decision, self._schedule, self._slicing)
        more = {"compensation": self._compensation, "dropped": dict(self._dropping.blocks)}
        return {**decided.state_of(self._entry.name, *of_layers, example), **more}

    @property
    def decision(self) -> PruningDecision | None:
        """What goes, where that is known; a schedule may still change it, see `is_decided`."""
        return self._decision

    def restore(self, decision: PruningDecision) -> None:
        """Remove what was chosen in a run that goes on here, in the place of choosing anew; nothing is sliced by it."""
        self._schedule = None
        self._watch.cancel()
        self._apply(decision)

    def step(self) -> None:
        """Set what is pruned to zero: a step of an optimizer may have moved it, until the next forward."""
        self._masks.apply()

    def update_epoch(self, epoch: int) -> None:
        """Remove what the compressor's schedule removes at this epoch."""
        if self._schedule is not None and not self._small:
            self._masks.apply()  # a step of the optimizer may have moved what is pruned, until the next forward
            self._apply(self._schedule.at_epoch(epoch))

    def get_prune_iterations(self) -> range:
        """Return the rounds of prune and train."""
        return range(1 if self._schedule is None else self._schedule.rounds)

    def prune_iteration_start(self) -> None:
        """Remove what the compressor's schedule removes in the next round."""
        if self._schedule is not None and not self._small:
            self._masks.apply()
            self._apply(self._schedule.at_round())

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> nn.Module:
        """Make the model small, in place; see `Compressor.apply_speedup`."""
        refusals.need_channels(self._entry, "apply_speedup")
        if self._small:
            if self._slice_when == "before" and not self._is_told:
                self._is_told = True
                refusals.note_sliced_already()
            return self.model
        if dummy_input is not None:
            dummy = self._dense_sizes.check_input(Example.for_model(dummy_input, self.model))
            if self._slicing is None:
                self._set_example(dummy)
            self.example = dummy
        self._need_decision("apply_speedup")
        refusals.need_example(self.example, "apply_speedup")
        assert self._slicing is not None and self.example is not None
        refusals.need_removal(self._slicing, self._arguments, is_all=self._is_all)
        self._masks.apply()
        masked = fingerprint(self.model)
        is_known = self._proved is not None and self._proved[0] is self.example and self._proved[1] == masked
        if not is_known and not follows(self._trial):
            self._slicing.prove(self.model, self.example.random(slicing.AGAIN), ())
        self._shrink()
        if self._saved_model_check is not None:
            self._saved_model_check.carry_over(masked, fingerprint(self.model))
        return self.model

    def refuse_ahead(self, ahead: Ahead) -> None:
        """Raise SpeedupError for a speed-up of a compressor that masks single weights."""
        if ahead.speedup:
            refusals.need_channels(self._entry, ahead.speedup)

    def rehearse(self, example: Example, ahead: Ahead) -> None:
        """Compress, and raise what a trial would be refused; see `BaseCompressor.rehearse`."""
        if self._compensates:
            check_inputs(self.model, self._calibration)
        self._compensates = False
        example.outputs(self.compress())
        if self.is_decided and self._slicing is not None:
            refusals.need_removal(self._slicing, self._arguments, is_all=self._is_all)
            if "speedup" in ahead.never and self._slice_when is None:
                refusals.need_plain(self._slicing)
        elif self._schedule is not None and self._schedule.needs in ahead.never:
            self._need_decision("create_compressor")
        example.check_storable(self.model)
        if ahead.onnx:
            rehearse_onnx(self.model, example)

    def _save(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        self._need_decision("export_model")
        refusals.need_whole(self.model, "export_model")
        if not self._small and (speedup or self._slice_when is not None):
            self.apply_speedup(dummy_input)
        elif dummy_input is not None and self.example is None:
            self._set_example(self._dense_sizes.check_input(Example.for_model(dummy_input, self.model)))
        export(self.saved(), self._trial, paths)

    def saved(self) -> Export:
        """Return the model as it is now, ready to be saved, or handed on to a next stage."""
        refusals.need_example(self.example, "export_model")
        kept = {**self._dropping.masks, **(self._kept or self._masks.kept())}
        refusals.need_masks(kept, is_all=self._is_all)
        if not self._small:
            refusals.need_plain(self._slicing)
        self._masks.apply()
        assert self.example is not None and self._before is not None
        return Export(
            model=self.model,
            masks=kept,
            plan=plan_of(self.model),
            example=self.example,
            before=self._before,
            after=measure.sizes(self.model, self.example),
            removed={**self._dropping.removed, **({} if self._slicing is None else self._slicing.removal.counts())},
            asked=self._asked,
            notes=(*self._notes, *filter(None, [self._compensation]), *refusals.about_choice(self._slicing)),
            dense=self._dense if self._trial is not None and self._trial.latency else None,
            calibration=self._int8_inputs,
        ).following(self._earlier)

    @property
    def is_small(self) -> bool:
        """Whether what goes is cut out."""
        return self._small

    @property
    def _is_compressed(self) -> bool:
        return any((self._decision, self._schedule, self._depth is not None and self._first_call.waits))

    def _save_by_itself(self, note: str) -> None:
        self._notes = (note,)
        self.export_model("model.pth", "mask.pth")

    def _apply(self, choice: PruningDecision | None) -> None:
        """Mask what the engine decided to remove; None leaves everything as it is."""
        if choice is None:
            return
        self._decision = choice
        if not self._entry.removes_channels:
            weights = agreed(self._trial, lambda: {"weights": choice.weights})["weights"]
            self._decision = replace(choice, weights=weights)
            self._masks.hold({(layer, "weight"): removed for layer, removed in weights.items()})
        elif self.example is not None:
            self._slice(self.example)

    def _meet(self, example: Example) -> None:
        """Take the first input that is known: what is removed is masked and, with ``slice`` before, cut out at once."""
        self._set_example(example)
        if self._slice_when == "before":
            self.apply_speedup()

    def _set_example(self, example: Example) -> None:
        """Extend the masks to the coupled layers, now that an input is known; the model has computed nothing yet."""
        self._first_call.cancel()
        if self._trial is not None and self._trial.save_model:
            example.check_storable(self.model)
        self._before = self._dense_sizes.of(example)
        if self._entry.removes_channels:
            if self._decision is None and self._schedule is not None:
                slicing.rehearse(self.model, example, self._targets, self._entry, self._graphs.graph(example))
            self._slice(example)
        self.example = example  # known only now: what failed here was no input of the model's

    def _slice(self, example: Example) -> None:
        """Mask what goes: in each worker of the trial what the first of them has decided and proved."""
        if self._decision is not None:
            graph = self._graphs.graph(example)
            found = agreed(self._trial, lambda: self._settle(example, graph))
            if follows(self._trial):
                self._slicing = decided.followed(found, self.model, example, self._targets, self._entry, graph)
            assert self._slicing is not None
            if self._teacher is not None:
                survivors.remember(self._teacher, survivors.Survivors.of(graph, self._slicing))
            if self._trial is not None and self._trial.rung0 and self.is_decided and not self._goes_on:
                gate.send_score(self._trial, self._dense, self.model, self._slicing, self._evaluator, self._calibration)
            self._masks.hold(self._slicing.removed(self.model))
            # the same weights need no second proof in apply_speedup
            self._proved = (example, fingerprint(self.model)) if found["is_proved"] else None

    def _settle(self, example: Example, graph: ChannelGraph) -> dict[str, Any]:
        """Decide and prove what is sliced, and compensate for it; return what other workers need to do the same."""
        earlier, decision, weights = self._slicing, self._decision or PruningDecision(), None
        self._slicing = slicing.make(self.model, example, decision, self._targets, self._entry, graph)
        self._check_before_training(example)
        is_proved = self.is_decided and bool(self._slicing.tensors)
        if self._compensates and self.is_decided and self._slicing.tensors and self._before is not None:
            inputs, is_asked = (self._calibration, self._evaluator), bool(self._arguments.get(COMPENSATE))
            found = compensated(self.model, self._slicing, *inputs, self._before.flops, earlier, is_asked)
            self._compensation = str(found)
            print(f"raycompress: {found} ({found.seconds:.1f} s)", file=sys.stderr)
            is_proved = is_proved and not found.is_kept
            weights = self.model.state_dict() if found.is_kept else None
        return {**decided.removal_of(self._slicing), "weights": weights, "is_proved": is_proved}

    def _check_before_training(self, example: Example) -> None:
        """Raise BudgetError where the pruned model would be too large; of several decisions the last one counts."""
        trial = self._trial
        if trial is None or self._slicing is None or self._before is None or not self.is_decided:
            return
        if trial.save_model:  # there would be nothing to save
            refusals.need_removal(self._slicing, self._arguments, is_all=self._is_all)
        gate.check(self.model, example, self._slicing, self._before, [Bound(*one) for one in trial.budget])

    def _need_decision(self, where: str) -> None:
        """Raise CompressionError where the masks are not known yet, or not final."""
        self._need_compressed(where)
        what, fix = ("", "") if self._schedule is None else self._schedule.missing()
        if what:
            raise CompressionError(f"{self._entry.name}: {what}", where=where, fix=fix)

    def _check_compressed(self) -> None:
        super()._check_compressed()
        self._need_decision("at the end of the script")

    def _shrink(self) -> None:
        assert self._slicing is not None
        before = measure.parameters(self.model)
        self._kept = self._masks.kept()
        self._masks.release()
        self._watch.cancel()
        changed = self._slicing.apply(self.model)
        hand_over(changed, self._optimizer)
        refuse_replicas(self.model)
        self._small = True
        self._graphs.clear()
        if self._before is not None:
            self._dense_sizes.keep(self._before)
        if self._slicing.tensors and measure.parameters(self.model) >= before:
            raise SpeedupError("no parameter fell", where="apply_speedup", fix="raise the sparsities")

    def _fingerprint(self) -> dict[str, tuple[float, float]]:
        refusals.need_whole(self.model, "report")
        self._masks.apply()
        return fingerprint(self.model)
