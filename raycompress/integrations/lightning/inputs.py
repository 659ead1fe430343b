"""What is compressed of a LightningModule, an input of it, and the metrics that its validation logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.loaders import apart, calls_in
from raycompress.errors import UsageError
from raycompress.integrations.compressing import as_dummy, same_random_numbers
from raycompress.integrations.lightning.in_training import CALL


@dataclass(frozen=True)
class FitData:
    """The data that a call of ``trainer.fit`` was given; the module's own where it was given none.

    Attributes
    ----------
    train, validation
        Loaders, several in a list or mapping, or None.
    datamodule
        A LightningDataModule, or None.
    """

    train: Any = None
    validation: Any = None
    datamodule: Any = None

    @classmethod
    def of(cls, train: Any, validation: Any, datamodule: Any) -> FitData:
        """Read the arguments of ``trainer.fit``, whose first loader may be a LightningDataModule."""
        is_module = hasattr(train, "train_dataloader")
        return cls(None if is_module else train, validation, train if is_module else datamodule)

    def for_training(self, module: Any) -> Any:
        """Return what the training reads."""
        owner = module if self.datamodule is None else self.datamodule
        return owner.train_dataloader() if self.train is None else self.train

    @property
    def for_validation(self) -> dict[str, Any]:
        """The arguments of ``trainer.validate`` for the same data."""
        return {"dataloaders": self.validation} if self.datamodule is None else {"datamodule": self.datamodule}


def network_of(module: Any, name: str | None) -> nn.Module:
    """Return the part of a LightningModule that is compressed.

    Parameters
    ----------
    name
        Its name; None for the only submodule with parameters, or the LightningModule itself where there are several.

    Raises
    ------
    UsageError
        There is no such part, or it has no parameters yet.
    """
    every = {id(one) for one in module.parameters()}
    if not every:
        raise UsageError(
            f"{type(module).__name__} has no layers yet: its setup() or configure_model() makes them",
            where=CALL,
            fix="make them in its __init__",
        )
    if name is None:
        whole = [
            part for part in module.children() if _is_callable(part) and {id(p) for p in part.parameters()} == every
        ]
        itself: nn.Module = module
        return whole[0] if whole else itself
    try:
        found: nn.Module = module.get_submodule(name)
    except AttributeError:
        found = nn.Identity()
    if not any(True for _ in found.parameters()):
        named = ", ".join(child for child, part in module.named_children() if any(True for _ in part.parameters()))
        raise UsageError(
            f'{type(module).__name__} has no network "{name}"', where=CALL, fix=f"name one of its parts: {named}"
        )
    return found


def first_input(trainer: Any, module: Any, network: nn.Module, data: FitData) -> Any:
    """Return one input of `network`, as ``dummy_input`` is given: of the module's example, or of the first batch.

    The network is called as the module's ``training_step`` calls it. Random numbers that were drawn for the batch are
    drawn again by the training.

    Raises
    ------
    UsageError
        Neither says how the network is called.
    """
    calls: list[Callable[[nn.Module], Any]]
    if module.example_input_array is not None:
        calls = [Example.for_model(module.example_input_array, module).call]
    else:
        with same_random_numbers():
            batch = trainer.strategy.batch_to_device(_first_batch(data.for_training(module)), torch.device("cpu"))
        of_forward = next(calls_in([batch], module)).call
        calls = [lambda _: module.training_step(batch, 0), of_forward]
    for call in calls:
        found = _first_call(module, network, call)
        if found is not None:
            return as_dummy(Example.of_first_call(network, *found))
    raise UsageError(
        f"training_step of {type(module).__name__} cannot be asked for an input of its {type(network).__name__} before "
        "the training",
        where=CALL,
        fix="pass dummy_input=, such as the images of one batch, or set example_input_array of the module",
    )


def metrics_of(found: Mapping[str, Any], before: Mapping[str, Any], monitored: str | None) -> dict[str, float]:
    """Return what a validation logged, the metric that the Trainer's callbacks monitor first.

    Parameters
    ----------
    found
        The Trainer's ``callback_metrics``.
    before
        The same before the validation: what is in it still comes from the training.
    """
    names = [monitored] if monitored in found else []
    names += [name for name, value in found.items() if before.get(name) is not value]
    return {name: float(found[name]) for name in dict.fromkeys(names) if name is not None}


class _Found(BaseException):
    """Leaves a step of the user's module where the network is called; no ``except Exception`` of it may keep this."""


def _first_call(
    module: Any, network: nn.Module, call: Callable[[nn.Module], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return how `call` first calls the network; None where it does not."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _Found

    handle = network.register_forward_pre_hook(leave, with_kwargs=True, prepend=True)
    try:
        with evaluating(module), torch.no_grad():
            call(module)
    except _Found:
        return found[0]
    except Exception:  # noqa: BLE001 - whatever a step of the user's raises, outside of a training
        return None
    finally:
        handle.remove()
    return None


def _first_batch(loaders: Any) -> Any:
    """Return the first batch, of several loaders as they are nested."""
    loaders = getattr(loaders, "iterables", loaders)  # of a CombinedLoader
    if isinstance(loaders, Mapping):
        return {name: _first_batch(one) for name, one in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [_first_batch(one) for one in loaders]
    items: Iterator[Any] = iter(apart(loaders))
    return next(items)


def _is_callable(part: nn.Module) -> bool:
    """Tell whether a module can be called: a ModuleList cannot."""
    return not isinstance(part, (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict))
