"""The six networks, with random weights, and what `group_l1` leaves of them at half and a quarter of the FLOPs."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from tests.benchmarks import ROOT

SHARES = (0.5, 0.25)
STEPS = 3
TOLERANCE = 0.08
ROUND_TO = 8
_SIDE = 128


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes
    ----------
    name
        As the table has it.
    build
        Makes it.
    example
        One input.
    exclude
        Layers that keep their outputs.
    coupled
        What is in the names of further ones, which a residual stream couples with what cannot be cut.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    exclude: tuple[str, ...] = ()
    coupled: tuple[str, ...] = ()


def networks() -> list[Network]:
    """Return them; an import of a library waits until one is built."""
    return [
        Network("ResNet of configs/digits_resnet", _example_resnet, lambda: _images(8, channels=1), ("fc",)),
        Network("torchvision mobilenet_v3_small", _torchvision("mobilenet_v3_small"), _images, ("classifier.3",)),
        Network("torchvision resnet18", _torchvision("resnet18"), _images, ("fc",)),
        Network("timm mobilenetv4_conv_small", _timm("mobilenetv4_conv_small"), _images, ("classifier",)),
        Network("timm vit_tiny_patch16_224", _timm("vit_tiny_patch16_224", img_size=_SIDE), _images, ("head",)),
        Network("transformers BertModel", _bert, _tokens, coupled=("output.dense", "pooler")),
    ]


def pruned(network: Network) -> Iterator[tuple[float, nn.Module]]:
    """Yield (share of the multiply-adds, model): the dense network, then about half and a quarter of it."""
    torch.manual_seed(0)
    dense = network.build().eval()
    for module in dense.modules():  # as after training: what is 1 and 0 everywhere would be folded away
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.2)
    yield 1.0, dense
    for share in SHARES:
        yield _pruned(dense, network, share)


def _pruned(dense: nn.Module, network: Network, share: float) -> tuple[float, nn.Module]:
    """Return the share that is nearest to the one wanted, of some sparsities tried, and the model."""
    found: list[tuple[float, nn.Module]] = []
    low, high, sparsity = 0.0, 0.95, 1 - share**0.5
    for _ in range(STEPS):
        left, model = _at(dense, network, sparsity)
        found.append((left, model))
        if abs(left - share) < TOLERANCE:
            break
        low, high = (sparsity, high) if left > share else (low, sparsity)
        sparsity = (low + high) / 2
    return min(found, key=lambda one: abs(one[0] - share))


def _at(dense: nn.Module, network: Network, sparsity: float) -> tuple[float, nn.Module]:
    """Return the share of the multiply-adds that is left at a sparsity, and the model."""
    model, dummy = copy.deepcopy(dense), network.example().args[0]
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        and len(layer.weight) > ROUND_TO  # of a narrow one nothing can go
        and name not in network.exclude
        and not any(part in name for part in network.coupled)
    ]
    configuration = {"compressor": "group_l1", "config_list": [{"sparsity": sparsity, "op_names": layers}]}
    compressor = create_compressor(model, configuration, dummy_input=dummy, round_to=ROUND_TO)
    before, _, _ = compressor.count_flops_params(dummy)
    compressor.compress()
    compressor.apply_speedup()
    return compressor.count_flops_params(dummy)[0] / before, model.eval()


def _example_resnet() -> nn.Module:
    spec = importlib.util.spec_from_file_location("digits_resnet", ROOT / "configs" / "digits_resnet" / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ResNet()


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None)

    return build


def _timm(name: str, **keys: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **keys)

    return build


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    return BertModel(BertConfig(vocab_size=2000, **size))


def _images(side: int = _SIDE, channels: int = 3) -> Example:
    torch.manual_seed(1)
    return Example((torch.randn(1, channels, side, side),), {})


def _tokens() -> Example:
    torch.manual_seed(1)
    return Example((torch.randint(0, 2000, (1, 64)),), {})
