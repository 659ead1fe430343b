"""What NNI's maskers of activations and gradients need, gathered from the user's model while the script trains it.

The maskers, and the statistic of one batch, are NNI's own; they live on a copy. On the user's model there are forward
hooks, for as long as batches are counted. Of each batch only the statistic is kept, where NNI keeps all activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.library import aware_options, config_of, load_nni, positive, quiet
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError

ALGORITHMS = {
    "apoz": "ActivationAPoZRankFilterPruner",
    "mean_activation": "ActivationMeanRankFilterPruner",
    "taylorfo": "TaylorFOWeightFilterPruner",
}
"""NNI's name of an algorithm -> its pruner."""

_STATISTIC = {"apoz": "_calc_apoz", "mean_activation": "_cal_mean_activation"}


def make_pruner(
    request: Request,
    model: nn.Module,
    algorithm: str,
    batches: int,
    optimizer: torch.optim.Optimizer | None = None,
    trainer: Callable[..., None] | None = None,
    criterion: Any = None,
) -> Any:
    """Return NNI's pruner of `algorithm` on `model`, which it wraps."""
    options: dict[str, Any] = {"sparsifying_training_batches": batches, **aware_options(request)}
    if algorithm != "taylorfo":
        options["activation"] = request.arguments.get("activation", "relu")
        if options["activation"] not in ("relu", "relu6"):
            raise CompressionError(
                f'{request.compressor.name} has no activation "{options["activation"]}"',
                where="create_compressor",
                fix='"activation" is "relu" or "relu6"',
            )
    else:
        _check_gradients(request)
    names = positive(request.targets)
    config_list = [config_of(name, request.targets[name]) for name in names]
    return getattr(load_nni(), ALGORITHMS[algorithm])(model, config_list, optimizer, trainer, criterion, **options)


class Gathering:
    """Gathers over a number of batches, then lets NNI's masker choose.

    Parameters
    ----------
    request
        The layers with a sparsity above 0 are judged.
    algorithm
        A key of `ALGORITHMS`.
    batches
        How many steps of an optimizer to see.

    Attributes
    ----------
    done
        Whether it gathers no longer.
    """

    def __init__(self, request: Request, algorithm: str, batches: int) -> None:
        self._request, self._algorithm, self._batches = request, algorithm, batches
        self._modules = dict(request.model.named_modules())
        model = clean_copy(request.model).eval()
        with quiet(request):
            self._pruner = make_pruner(request, model, algorithm, batches)
        self._hooks: dict[str, _Activations] = {}
        self._handles: list[RemovableHandle] = []
        self._seen = 0
        self.done = True

    @property
    def missing(self) -> str:
        """How far it came, in words."""
        return f"it chooses after {self._batches} batches of training, and {self._seen} were seen"

    def start(self) -> None:
        """Begin, or begin again."""
        self._release()
        self._seen, self.done = 0, False
        self._pruner.iterations = 0
        masker = self._pruner.masker
        for wrapper in self._pruner.get_modules_wrapper():
            wrapper.contribution, wrapper.if_calculated = None, False
            if self._algorithm in _STATISTIC:
                hook = _Activations(self._pruner.activation, masker, getattr(type(masker), _STATISTIC[self._algorithm]))
                self._hooks[wrapper.name] = hook
                self._handles.append(self._modules[wrapper.name].register_forward_hook(hook))

    def after_step(self, sparsities: dict[str, float] | None = None) -> dict[str, Tensor] | None:
        """Count a batch; at the last one return NNI's weight masks by layer, 1 where a weight stays.

        Parameters
        ----------
        sparsities
            By layer; those of the targets where left out.
        """
        if self.done:
            return None
        self._seen += 1
        if self._algorithm == "taylorfo":
            self._take_gradients()
        if self._seen < self._batches:
            return None
        self._release()
        return self._masks(sparsities or {})

    def _take_gradients(self) -> None:
        """Show NNI's masker the weights and gradients as they are after this step."""
        for wrapper in self._pruner.get_modules_wrapper():
            live = self._modules[wrapper.name].weight
            assert isinstance(live, nn.Parameter)
            if live.grad is None:
                raise CompressionError(
                    f'"{wrapper.name}" has no gradient after a step of the optimizer',
                    where=f"{self._request.compressor.name}, batch {self._seen}",
                    fix="exclude the layer, or train it: all layers that are judged take part in the loss",
                )
            weight = wrapper.module.weight
            weight.data.copy_(live.data)
            weight.grad = live.grad.detach().to(weight)
        self._pruner.masker.calc_contributions()

    def _masks(self, sparsities: dict[str, float]) -> dict[str, Tensor]:
        pruner = self._pruner
        wrappers = pruner.get_modules_wrapper()
        for index, wrapper in enumerate(wrappers):
            if wrapper.name in sparsities:
                wrapper.config["sparsity"] = sparsities[wrapper.name]
            if wrapper.name in self._hooks:
                # NNI asks for one entry a batch, and folds them by the function that is replaced
                pruner.collected_activation[index] = [self._mean(wrapper.name)] * self._batches
        if self._algorithm in _STATISTIC:
            setattr(pruner.masker, _STATISTIC[self._algorithm], lambda folded: folded[0])
        with quiet(self._request):
            pruner.update_mask()
        self._hooks.clear()
        return {wrapper.name: wrapper.weight_mask.detach().cpu() for wrapper in wrappers}

    def _mean(self, name: str) -> Tensor:
        mean = self._hooks[name].mean()
        if mean is None:
            raise CompressionError(
                f'"{name}" was not called in {self._seen} batches of training',
                where=self._request.compressor.name,
                fix="exclude the layer, or train with a loss that it takes part in",
            )
        return mean

    def _release(self) -> None:
        self.done = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Activations:
    """Forward hook of a layer: the mean over all batches of a statistic of its activations, channel by channel.

    A deep copy or a pickle of the model carries a hook that does nothing.
    """

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor] | None = None,
        masker: Any = None,
        statistic: Callable[[Any, list[Tensor]], Tensor] | None = None,
    ) -> None:
        self._activation, self._masker, self._statistic = activation, masker, statistic
        self._sum: Tensor | None = None
        self._positions = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Take in a batch, of shape (batch, channels, height, width); evaluation without gradients is passed over."""
        if self._activation is None or self._statistic is None or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            value = self._statistic(self._masker, [self._activation(output.detach())]).double().cpu()
        positions = output.numel() // output.size(1)
        self._positions += positions
        self._sum = value * positions + (0 if self._sum is None else self._sum)

    def __reduce__(self) -> tuple[type[_Activations], tuple[()]]:
        return _Activations, ()

    def mean(self) -> Tensor | None:
        """Return the mean, weighted by the positions of each batch, of shape (channels,); None before any batch."""
        return None if self._sum is None else self._sum / self._positions


def _check_gradients(request: Request) -> None:
    modules = dict(request.model.named_modules())
    for name in positive(request.targets):
        weight = modules[name].weight
        if isinstance(weight, Tensor) and not weight.requires_grad:
            raise CompressionError(
                f'{request.compressor.name} judges by gradients, and "{name}" is frozen',
                where=f"config_list[{request.targets[name].entry}]",
                fix="train the layer (requires_grad_()), or exclude it",
            )
