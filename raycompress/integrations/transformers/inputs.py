"""An input of the model that a Trainer trains, and the metric that it evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.loaders import calls_in
from raycompress.errors import UsageError
from raycompress.integrations.compressing import as_dummy, same_random_numbers

_ABOUT_THE_RUN = ("_runtime", "_per_second", "_time", "epoch")


def first_input(trainer: Any) -> Any:
    """Return one input of the model, as ``dummy_input`` is given, from the batches that the Trainer makes.

    Labels are left out. Random numbers that were drawn for the batch are drawn again by the training.

    Raises
    ------
    UsageError
        The Trainer has no data.
    """
    if trainer.train_dataset is None and trainer.eval_dataset is None:
        raise UsageError(
            "the Trainer has no data, from which an input of the model could be taken",
            where="compress_trainer",
            fix="pass dummy_input=, such as a tokenizer's output for one text",
        )
    with same_random_numbers():
        loader = trainer.get_train_dataloader() if trainer.train_dataset is not None else trainer.get_eval_dataloader()
        batch = next(iter(loader))
    (call,) = calls_in([dict(batch) if isinstance(batch, Mapping) else batch], trainer.model)
    return as_dummy(Example.of_first_call(trainer.model, call.args, call.kwargs))


def metrics_of(metrics: Mapping[str, Any], objective: str | None) -> dict[str, float]:
    """Return what an evaluation says of the model, by the names of the Trainer; how fast it ran is left out.

    Parameters
    ----------
    objective
        The Trainer's ``metric_for_best_model``, which comes first; None where it has none.
    """
    found = {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float, np.number)) and not name.endswith(_ABOUT_THE_RUN)
    }
    first = [name for name in (objective, f"eval_{objective}") if name in found]
    return {name: found[name] for name in dict.fromkeys([*first, *found])}


class Evaluator:
    """evaluator(model): the Trainer's own evaluation, of any model in the place of its own.

    Parameters
    ----------
    trainer
        It is left as it was.

    Attributes
    ----------
    is_running
        Whether an evaluation is one of these.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.is_running = False

    def __call__(self, model: nn.Module) -> float:
        """Return the metric that the Trainer compares models by: ``metric_for_best_model``, or the loss."""
        trainer = self._trainer
        kept = trainer.model, trainer.model_wrapped, model.training
        trainer.model = trainer.model_wrapped = model
        self.is_running = True
        try:
            with same_random_numbers():
                metrics = trainer.evaluate()
        finally:
            self.is_running = False
            plain_forward(trainer)
            trainer.model, trainer.model_wrapped, training = kept
            model.train(training)
        return next(iter(metrics_of(metrics, trainer.args.metric_for_best_model).values()))


def plain_forward(trainer: Any) -> None:
    """Let the model compute in its own precision: accelerate may have wrapped its ``forward`` in autocast.

    Masked and small model are compared, and outputs stored, in the precision of the weights.
    """
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
