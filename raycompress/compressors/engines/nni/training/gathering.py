"""What filters are judged by that training shows: activations or gradients, gathered while the script trains the model.

On the user's model there are forward hooks, for as long as batches are counted. Of each batch only the statistic is
kept, where NNI keeps all activations. What is chosen is what NNI's pruners of the same names choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.dependency import ties_of
from raycompress.compressors.engines.nni.library import aware_options, config_of, load_nni, positive
from raycompress.compressors.engines.ranking.scores import ACTIVATION_FUNCTIONS, ACTIVATIONS, Score, taylor
from raycompress.compressors.engines.ranking.selection import in_sorted_order, least
from raycompress.errors import CompressionError

ALGORITHMS = {
    "apoz": "ActivationAPoZRankFilterPruner",
    "mean_activation": "ActivationMeanRankFilterPruner",
    "taylorfo": "TaylorFOWeightFilterPruner",
}
"""NNI's name of an algorithm -> its pruner."""


def make_pruner(
    request: Request,
    model: nn.Module,
    algorithm: str,
    batches: int,
    optimizer: torch.optim.Optimizer | None = None,
    trainer: Callable[..., None] | None = None,
    criterion: Any = None,
) -> Any:
    """Return NNI's pruner of `algorithm` on `model`, which it wraps: it trains the model by the script's trainer."""
    options: dict[str, Any] = {"sparsifying_training_batches": batches, **aware_options(request)}
    if algorithm != "taylorfo":
        options["activation"] = _activation(request)
    else:
        _check_gradients(request)
    names = positive(request.targets)
    config_list = [config_of(name, request.targets[name]) for name in names]
    return getattr(load_nni(), ALGORITHMS[algorithm])(model, config_list, optimizer, trainer, criterion, **options)


def _activation(request: Request) -> str:
    name = str(request.arguments.get("activation", "relu"))
    if name not in ACTIVATION_FUNCTIONS:
        raise CompressionError(
            f'{request.compressor.name} has no activation "{name}"',
            where="create_compressor",
            fix='"activation" is "relu" or "relu6"',
        )
    return name


class Gathering:
    """Gathers over a number of batches, then chooses.

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

    Raises
    ------
    CompressionError
        An unknown activation, a frozen layer that is to be judged by gradients, or layers that cannot be followed for
        ``dependency_aware``.
    """

    def __init__(self, request: Request, algorithm: str, batches: int) -> None:
        self._request, self._algorithm, self._batches = request, algorithm, batches
        modules = dict(request.model.named_modules())
        self._layers = {name: modules[name] for name in positive(request.targets)}
        if algorithm in ACTIVATIONS:
            self._function = ACTIVATION_FUNCTIONS[_activation(request)]
        else:
            _check_gradients(request)
        self._ties = ties_of(request)
        self._hooks: dict[str, _Activations] = {}
        self._contributions: dict[str, Tensor] = {}
        self._removed: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._seen = 0
        self.done = True

    @property
    def missing(self) -> str:
        """How many batches were seen, as a text."""
        return f"it chooses after {self._batches} batches of training, and {self._seen} were seen"

    def start(self) -> None:
        """Begin, or begin again; what was chosen before stays chosen."""
        self._release()
        self._seen, self.done = 0, False
        self._contributions.clear()
        if self._algorithm in ACTIVATIONS:
            for name, layer in self._layers.items():
                self._hooks[name] = _Activations(self._function, ACTIVATIONS[self._algorithm])
                self._handles.append(layer.register_forward_hook(self._hooks[name]))

    def after_step(self, sparsities: Mapping[str, float] | None = None) -> dict[str, Tensor] | None:
        """Count a batch; at the last one return weight masks by layer, 1 where a weight stays.

        Parameters
        ----------
        sparsities
            By layer; those of the targets where left out.
        """
        if self.done:
            return None
        self._seen += 1
        if self._algorithm not in ACTIVATIONS:
            self._add_gradients()
        if self._seen < self._batches:
            return None
        self._release()
        return self._masks(sparsities or {})

    def _add_gradients(self) -> None:
        """Add the weights and gradients after this step to the statistics."""
        for name, layer in self._layers.items():
            weight = layer.weight
            assert isinstance(weight, nn.Parameter)
            if weight.grad is None:
                raise CompressionError(
                    f'"{name}" has no gradient after a step of the optimizer',
                    where=f"{self._request.compressor.name}, batch {self._seen}",
                    fix="exclude the layer, or train it: all layers that are judged take part in the loss",
                )
            found = taylor(weight.detach(), weight.grad.detach().to(weight))
            known = self._contributions.get(name)
            self._contributions[name] = found if known is None else known + found

    def _masks(self, sparsities: Mapping[str, float]) -> dict[str, Tensor]:
        values = {name: self._mean(name) for name in self._hooks} if self._hooks else dict(self._contributions)
        self._hooks.clear()
        asked = {name: sparsities.get(name, self._request.targets[name].sparsity) for name in values}
        masks = {}
        for name, removed in least(values, asked, in_sorted_order, self._ties).items():
            self._removed[name] = removed = removed | self._removed.get(name, torch.zeros_like(removed))
            weight = self._layers[name].weight
            assert isinstance(weight, Tensor)
            kept = (~removed).to(weight).view(-1, *[1] * (weight.dim() - 1))
            masks[name] = kept.expand_as(weight).detach().cpu()
        return masks

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

    def __init__(self, activation: Callable[[Tensor], Tensor] | None = None, statistic: Score | None = None) -> None:
        self._activation, self._statistic = activation, statistic
        self._sum: Tensor | None = None
        self._positions = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Add a batch, of shape (batch, channels, height, width); evaluation without gradients is ignored."""
        if self._activation is None or self._statistic is None or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            value = self._statistic(self._activation(output.detach())).double().cpu()
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
