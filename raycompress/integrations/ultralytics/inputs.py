"""Images that a trainer of ultralytics trains on, and what its validation says of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.integrations.compressing import same_random_numbers

_METRICS = "metrics/"
_OBJECTIVES = ("mAP50-95(M)", "mAP50-95(P)", "mAP50-95(B)", "accuracy_top1")


def image_for(trainer: Any, model: Any) -> Tensor:
    """Return an image of the size that a trainer trains on, [1, channels, size, size], of random pixels in [0, 1]."""
    stride = max(int(model.stride.max()), 32)
    size = math.ceil(max(_sizes(trainer.args.imgsz)) / stride) * stride
    shape = (1, trainer.data.get("channels", 3), size, size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(trainer.device)


def metrics_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what a validation says of a model: the metrics of ultralytics without ``metrics/``, its task's first.

    Examples
    --------
    >>> metrics_of({"metrics/precision(B)": 0.5, "metrics/mAP50-95(B)": 0.25, "val/box_loss": 1.5})
    {'mAP50-95(B)': 0.25, 'precision(B)': 0.5}
    """
    found = {name.removeprefix(_METRICS): float(value) for name, value in metrics.items() if name.startswith(_METRICS)}
    first = [name for name in _OBJECTIVES if name in found]
    return {name: found[name] for name in dict.fromkeys([*first[:1], *found])}


@contextmanager
def as_exported(network: nn.Module) -> Iterator[None]:
    """Let blocks compute as in an export, where some divide their channels by numbers that training does not read.

    What slicing changes is known of what was read.
    """
    blocks = [one for one in network.modules() if hasattr(one, "forward_split") and "forward" not in vars(one)]
    for block in blocks:
        vars(block)["forward"] = block.forward_split
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


class Images:
    """The images of the training, in batches [N, channels, height, width], as the network gets them.

    Parameters
    ----------
    trainer
        Its model is there, and its data loaders need not be.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loader: Any = None

    def __iter__(self) -> Iterator[Tensor]:
        trainer = self._trainer
        if self._loader is None:
            self._loader = trainer.get_dataloader(trainer.data["train"], _batch(trainer), rank=-1, mode="train")
        if not hasattr(trainer, "stride"):  # by which images of several scales are made
            trainer.stride = max(int(trainer.model.stride.max()), 32)
        for batch in self._loader:
            yield trainer.preprocess_batch(batch)["img"]


class Evaluator:
    """evaluator(model): the trainer's own validation, of any network in the place of its own.

    Parameters
    ----------
    trainer
        Its model is there, and its data loaders need not be.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loader: Any = None

    def __call__(self, model: nn.Module) -> float:
        """Return the metric that trials are compared by: mAP50-95 of the task, or the accuracy."""
        return next(iter(self.metrics(model).values()))

    def metrics(self, model: Any) -> dict[str, float]:
        """Return all that the validation says of a network, which is left as it is."""
        trainer, training = self._trainer, model.training
        ends = getattr(model, "end2end", None)
        with same_random_numbers():
            validator = self._validator()
            validator.args.plots = False
            try:
                if ends is not None:
                    model.end2end = trainer.args.nms is False  # as the validations of the training have it
                found = validator(model=_AsItIs(model.eval()))
            finally:
                model.train(training)
                if ends is not None:
                    model.end2end = ends
        return metrics_of(found)

    def _validator(self) -> Any:
        trainer = self._trainer
        if "test_loader" in vars(trainer):
            return trainer.get_validator()
        if self._loader is None:
            data = trainer.data[trainer.args.split]
            self._loader = trainer.get_dataloader(data, _batch(trainer), rank=-1, mode="val")
        trainer.test_loader = self._loader
        try:
            return trainer.get_validator()
        finally:
            del trainer.test_loader  # the trainer makes its own


class _AsItIs(nn.Module):
    """A network as a validator gets it that would otherwise copy it, and fold its BatchNorms into the convolutions.

    So whoever watches the network's calls sees them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._inner = [model]  # in a list it is no part of this: nothing is converted or frozen

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        return getattr(self._inner[0], name)

    def __deepcopy__(self, _memo: Any) -> _AsItIs:
        return self

    def fuse(self, *_args: Any, **_kwargs: Any) -> _AsItIs:
        """Leave the network as it is."""
        return self

    def forward(self, images: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """Return the network's answers."""
        return self._inner[0](images)


def _batch(trainer: Any) -> int:
    """Return the size of a batch; 16 where the trainer will find one by itself."""
    return int(trainer.batch_size) if trainer.batch_size >= 1 else 16


def _sizes(size: Any) -> tuple[int, ...]:
    return tuple(map(int, size)) if isinstance(size, list | tuple) else (int(size),)
