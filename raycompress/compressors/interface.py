"""The interface of the compressor that a script gets from `create_compressor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.measure import sizes as measure


class Compressor:
    """Compresses one model; this base prunes nothing and saves nothing.

    Parameters
    ----------
    model
        The user's model; all methods change it in place and return it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.example: Example | None = None

    @property
    def is_decided(self) -> bool:
        """Whether what is removed is known and final, so that `apply_speedup` can be called before the training."""
        return False

    def compress(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """Prune the model and return it: the same object, its class and its parameter names unchanged.

        What is pruned stays zero while the script goes on training. Arguments of the old tool are accepted.
        """
        return self.model

    def step(self) -> None:
        """Do nothing: called after each batch, for compressors that act while the script trains."""

    def update_epoch(self, epoch: int) -> None:
        """Do nothing: called at each epoch, for compressors with a schedule."""

    def get_prune_iterations(self) -> range:
        """Return the rounds of prune and train: one, for a compressor that prunes once."""
        return range(1)

    def prune_iteration_start(self) -> None:
        """Do nothing: called at each round of `get_prune_iterations`, for compressors that prune in rounds."""

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> nn.Module:
        """Make the model physically smaller, in place, and return it.

        Parameters
        ----------
        dummy_input
            An input: a tensor with the batch first, a tuple of arguments, or a dict of keyword arguments; left out,
            the first input of the model is used.
        mask_path
            Accepted for old scripts; the masks are those of this compressor.

        Raises
        ------
        SpeedupError
            The small model is not the masked one, or no parameter fell.
        """
        return self.model

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Return (multiply-adds, parameters, one row a layer), before or after the speed-up.

        Parameters
        ----------
        shape
            Shape of an input, batch first, or an input. FLOPs are torch's count divided by 2, for a batch of one.
        """
        return measure.layer_table(self.model, self._example_of(shape))

    def export_model(
        self,
        model_path: str,
        mask_path: str | None = None,
        folder_name: str = ".",
        speedup: bool = False,
        dummy_input: Any = None,
        **_ignored: Any,
    ) -> None:
        """Save the model; this base saves nothing. See `raycompress.compressors.pruning.pruner.Pruner.export_model`."""

    def _example_of(self, shape: Any) -> Example:
        if not isinstance(shape, Sequence) or not all(isinstance(size, int) for size in shape):
            return Example.from_dummy(shape)
        import torch

        known = self.example
        if known is not None and known.shapes == (tuple(shape),):
            return known
        parameter = next(self.model.parameters(), torch.empty(0))
        assert isinstance(parameter, Tensor)
        return Example((torch.randn(*shape, device=parameter.device, dtype=parameter.dtype),), {})


def count_flops_params(model: nn.Module, x: Any, *_ignored: Any, **_more: Any) -> tuple[int, int, list[dict[str, Any]]]:
    """Return (multiply-adds, parameters, one row a layer); see `Compressor.count_flops_params`.

    Parameters
    ----------
    model
        It is left as it is.
    x
        Shape of an input, batch first, or an input. Further arguments of NNI's function are ignored.
    """
    return Compressor(model).count_flops_params(x)
