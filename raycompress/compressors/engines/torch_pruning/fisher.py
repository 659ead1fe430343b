"""Fisher information of channels: how much the loss of each sample changes with a channel, squared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycompress.bundle.example import Example, device_of, evaluating
from raycompress.bundle.structures import map_tensors, tensors_in
from raycompress.compressors.engines.torch_pruning.input_moments import reading
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer
from raycompress.compressors.layer_kinds import channel_dim
from raycompress.compressors.loaders import apart, calls_in, labels_in
from raycompress.errors import CompressionError

Criterion = Callable[[Any, Any], Tensor]
Sample = tuple[Example, Any]
"""An input of one sample, and its labels; None where none are known."""


def samples_in(calibration: Iterable[Any], model: nn.Module, number: int) -> Iterator[Sample]:
    """Yield the first samples of a loader one by one, on the model's device.

    One by one, so that the gradient is that of a sample whatever a layer makes of the batch.
    """
    items: list[Any] = []

    def noted() -> Iterator[Any]:
        for item in apart(calibration):
            items.append(item)
            yield item

    device = device_of(model)
    for call in calls_in(noted(), model):
        labels, batch = labels_in(items.pop()), call.batch
        for place in range(batch):
            if not number:
                return
            number -= 1
            one = call.part(place, place + 1).map(lambda tensor: tensor.detach().clone())
            own = map_tensors(labels, functools.partial(_row, place=place, batch=batch))
            if device is not None:
                one, own = one.to(device), map_tensors(own, lambda tensor: tensor.to(device))
            yield one, own


def _row(tensor: Tensor, place: int, batch: int) -> Tensor:
    return tensor[place : place + 1] if tensor.dim() and len(tensor) == batch else tensor


def mask_gradients(
    model: nn.Module, samples: Sequence[Sample], criterion: Criterion | None, seed: int = 0
) -> dict[str, Tensor]:
    """Return layer -> the gradient of each sample's loss by a factor of one on each input channel, (samples, channels).

    Parameters
    ----------
    criterion
        criterion(outputs, labels) is the loss. Without it the loss is that of an answer drawn from the model's own
        distribution, which makes it Fisher information proper: a class by the softmax of outputs of shape (samples,
        classes); for all others a normal distribution of variance one around the outputs.

    Raises
    ------
    CompressionError
        There is a criterion and no labels, a sample is no input of the model, or no gradient reaches its weights.
    """
    _check(model, samples)
    rows: dict[str, Tensor] = {}  # zero where a sample does not pass a layer, such as an expert
    masks: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, inputs: Tensor) -> Tensor:
        dim = channel_dim(module, inputs)
        if name not in masks:
            masks[name] = torch.ones(inputs.size(dim), dtype=inputs.dtype, device=inputs.device, requires_grad=True)
        shape = [-1 if place == dim else 1 for place in range(inputs.dim())]
        return inputs * masks[name].reshape(shape)

    generator = torch.Generator().manual_seed(seed)
    with reading(model, look), evaluating(model), torch.enable_grad():
        for place, (example, labels) in enumerate(samples):
            masks.clear()
            loss = _loss(example.call(model), labels, criterion, generator)
            if not loss.requires_grad:
                raise CompressionError(
                    f"no gradient of the loss of {type(model).__name__} reaches its weights",
                    where="create_compressor",
                    fix="let forward() return the numbers that a loss is computed of, not indices or detached ones",
                )
            found = torch.autograd.grad(loss, list(masks.values()), allow_unused=True)
            for (name, mask), gradient in zip(masks.items(), found, strict=True):
                if name not in rows:
                    rows[name] = torch.zeros(len(samples), len(mask), dtype=torch.float64, device=mask.device)
                if gradient is not None:
                    rows[name][place] = gradient.detach()
    return rows


def _check(model: nn.Module, samples: Sequence[Sample]) -> None:
    if samples and not samples[0][0].runs(model):
        raise CompressionError(
            f"{type(model).__name__} cannot be called with one sample of what calibration= gives",
            where="create_compressor",
            fix="pass calibration= a loader of batches of inputs, their first dimension the samples",
        )


def _loss(outputs: Any, labels: Any, criterion: Criterion | None, generator: torch.Generator) -> Tensor:
    if criterion is not None:
        if labels is None:
            raise CompressionError(
                "criterion= needs labels, and the items of calibration= have none",
                where="create_compressor",
                fix="leave criterion= out, or give a loader whose items are (inputs, labels)",
            )
        return criterion(outputs, labels)
    found = [one for one in tensors_in(outputs) if one.requires_grad and one.is_floating_point()]
    if len(found) == 1 and found[0].dim() == 2 and found[0].size(1) > 1:
        chances = found[0].detach().float().softmax(1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator).flatten()
        return functional.cross_entropy(found[0].float(), drawn.to(found[0].device))
    noise = [torch.randn(one.shape, generator=generator).to(one) for one in found]
    return sum(((one * by).sum() for one, by in zip(found, noise, strict=True)), torch.zeros(()))


def group_fisher(layers: Sequence[ScoredLayer], gradients: Mapping[str, Tensor]) -> Tensor | None:
    """Return the Fisher information of each channel: the mean over samples of the squared gradient by its mask.

    Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021: layers that read the same channel
    share its mask, so that their gradients are added before they are squared.
    """
    total: Tensor | None = None
    for layer in layers:
        if layer.reads and layer.name in gradients:
            own = gradients[layer.name]
            if total is None:
                total = own.new_zeros(len(own), max(max(one.root_idxs) for one in layers) + 1)
            places = torch.tensor(layer.root_idxs, device=own.device)
            total.index_add_(1, places, own[:, torch.tensor(layer.idxs, device=own.device)])
    return None if total is None else total.square().mean(0)
