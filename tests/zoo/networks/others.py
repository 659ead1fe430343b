"""U-Nets of segmentation_models_pytorch, detectors of ultralytics, and networks of torch's own layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.networks.network import Network, on_images

UNETS = "Unet UnetPlusPlus FPN PSPNet Linknet MAnet PAN DeepLabV3Plus UPerNet"
DETECTORS = "yolov8n yolo11n yolo26n yolov8n-seg yolo11n-pose yolov5n yolov10n rtdetr-l"


def networks() -> list[Network]:
    """Return them."""
    found = [
        Network(f"smp/{name}", _unet(name), on_images(128 if name == "PAN" else 64), "segmentation")
        for name in UNETS.split()
    ]
    found += [
        Network(f"ultralytics/{name}", _detector(name), on_images(128), "detection", _heads(name))
        for name in DETECTORS.split()
    ]
    rows = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    for kind in ("LSTM", "GRU", "RNN"):
        found.append(Network(f"torch/{kind}", lambda kind=kind: Recurrent(kind), lambda m: m(rows), "sequences"))
    for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        name = layer.__name__.removesuffix("Layer")
        found.append(Network(f"torch/{name}", _stack(layer), lambda m: m(rows), "sequences"))
    return found


def _unet(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch

        return getattr(segmentation_models_pytorch, name)("resnet18", encoder_weights=None, classes=3)

    return build


def _detector(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from ultralytics.nn import tasks

        kinds = {"seg": tasks.SegmentationModel, "pose": tasks.PoseModel}
        kind = (
            tasks.RTDETRDetectionModel if "rtdetr" in name else kinds.get(name.partition("-")[2], tasks.DetectionModel)
        )
        return kind(f"{name}.yaml", verbose=False)

    return build


def _heads(name: str) -> tuple[str, ...]:
    # what chooses the queries; the decoder behind takes them in another order where two are nearly equal
    return ("model.28.enc_score_head", "model.28.enc_bbox_head") if "rtdetr" in name else ()


class Recurrent(nn.Module):
    """A recurrent layer in two directions between two linear ones."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.into = nn.Linear(12, 10)
        self.middle = getattr(nn, kind)(10, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.into(x))[0])


class Stack(nn.Module):
    """Transformer layers as torch has them, between two linear ones."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.into = nn.Linear(12, 16)
        self.layers = nn.ModuleList(kind(16, 4, 32, batch_first=True, dropout=0.0) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = memory = self.into(x)
        for layer in self.layers:
            x = layer(x, memory) if isinstance(layer, nn.TransformerDecoderLayer) else layer(x)
        return self.head(x)


def _stack(kind: Any) -> Callable[[], nn.Module]:
    return lambda: Stack(kind)
