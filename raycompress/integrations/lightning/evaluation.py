"""evaluator(model) of a LightningModule: its own validation, of any network in the place of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from raycompress.integrations.compressing import same_random_numbers
from raycompress.integrations.lightning.callback import monitored
from raycompress.integrations.lightning.inputs import FitData, metrics_of


class Evaluator:
    """evaluator(model): what the validation logs, by a Trainer of its own, since it is asked for in the midst of `fit`.

    Parameters
    ----------
    trainer, module, data
        The Trainer, the LightningModule that it fits, and on what; they are left as they were.
    network
        The part of the module that is compressed.
    library
        The library of the Trainer.
    """

    def __init__(self, trainer: Any, module: Any, network: nn.Module, data: FitData, library: ModuleType) -> None:
        self._trainer, self._module, self._data, self._library = trainer, module, data, library
        self._network = network
        self._name = next(name for name, part in module.named_modules() if part is network)

    def __call__(self, model: nn.Module) -> float:
        """Return the metric that the Trainer's callbacks monitor, or the first one that is logged."""
        training, devices = model.training, [one.device for one in model.parameters()][:1]
        with same_random_numbers(), self._in_place(model) as module, _quiet(self._library.__name__):
            trainer = self._library.Trainer(**_options(self._trainer))
            trainer.validate(module, verbose=False, **self._data.for_validation)
            found = metrics_of(trainer.callback_metrics, {}, monitored(self._trainer))
            for device in devices:
                module.to(device)
        model.train(training)
        return next(iter(found.values()))

    @contextmanager
    def _in_place(self, model: nn.Module) -> Iterator[Any]:
        """Yield a LightningModule that computes with another network."""
        if not self._name:  # the network is the module
            yield model
            return
        parent, _, name = self._name.rpartition(".")
        owner = self._module.get_submodule(parent)
        flags = [(part, part.training) for part in self._module.modules()]
        setattr(owner, name, model)
        try:
            yield self._module
        finally:
            setattr(owner, name, self._network)
            self._module.trainer = self._trainer
            if self._data.datamodule is not None:
                self._data.datamodule.trainer = self._trainer
            for part, training in flags:
                part.training = training


def _options(trainer: Any) -> dict[str, Any]:
    """Return the arguments of a Trainer that validates as another one does, and leaves nothing behind."""
    device = trainer.strategy.root_device
    place = {"accelerator": "cpu", "devices": 1} if device.type == "cpu" else {"devices": [device.index or 0]}
    shown = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode")
    taken = {"precision": trainer.precision, "limit_val_batches": trainer.limit_val_batches}
    return {**place, **taken, **dict.fromkeys(shown, False)}


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Leave out what a Trainer says of the machine when it is made."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
