"""Networks of torchvision: every family of classification, segmentation, detection, video and optical flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.networks.network import Network, images, on_images

CLASSIFICATION = {
    64: """
        convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet mnasnet0_5 mobilenet_v2
        mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5
        squeezenet1_0 swin_t swin_v2_t vgg11_bn wide_resnet50_2 alexnet
    """,
    224: "vit_b_16 maxvit_t",
    299: "inception_v3",
}
SEGMENTATION = "deeplabv3_resnet50 deeplabv3_mobilenet_v3_large fcn_resnet50 lraspp_mobilenet_v3_large"
DETECTION = """
    fasterrcnn_resnet50_fpn fasterrcnn_mobilenet_v3_large_320_fpn fcos_resnet50_fpn retinanet_resnet50_fpn
    ssd300_vgg16 ssdlite320_mobilenet_v3_large maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn
"""
VIDEO = {
    (4, 32, 32): "r3d_18 mc3_18 r2plus1d_18",
    (16, 224, 224): "s3d mvit_v2_s",
    (4, 64, 64): "swin3d_t",
}


def networks() -> list[Network]:
    """Return them."""
    found = []
    for size, names in CLASSIFICATION.items():
        found += [_classifier(name, size) for name in names.split()]
    found += [
        Network(f"torchvision/{name}", _made("segmentation", name), on_images(64), "segmentation")
        for name in SEGMENTATION.split()
    ]
    found += [
        Network(f"torchvision/{name}", _made("detection", name), _detect(name), "detection", _heads(name))
        for name in DETECTION.split()
    ]
    for edges, names in VIDEO.items():
        found += [
            Network(f"torchvision/{name}", _made("video", name), on_images(edges, 1 if edges[0] > 4 else 2), "video")
            for name in names.split()
        ]
    flow = Network("torchvision/raft_small", _made("optical_flow", "raft_small"), _flow, "optical flow")
    return [*found, flow]


def _classifier(name: str, size: int) -> Network:
    def build() -> nn.Module:
        import torchvision.models

        keys = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **keys)

    return Network(f"torchvision/{name}", build, on_images(size))


def _made(module: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision.models

        keys = {} if module in ("video", "optical_flow") else {"weights_backbone": None}
        if module == "detection":
            keys |= {"num_classes": 5} if "keypoint" not in name else {}
            keys |= {} if "320" in name or "ssd" in name else {"min_size": 96, "max_size": 96}
        return torchvision.models.get_model(name, weights=None, **keys)

    return build


def _heads(name: str) -> tuple[str, ...]:
    return ("rpn.head", "roi_heads.box_predictor") if "rcnn" in name else ("head",)


def _detect(name: str) -> Callable[[nn.Module], Any]:
    def call(model: nn.Module) -> Any:
        batch = list(images(96))
        boxes = torch.tensor([[8.0, 8.0, 60.0, 60.0], [20.0, 30.0, 80.0, 90.0]])
        target: dict[str, Any] = {"boxes": boxes, "labels": torch.tensor([1, 1])}
        if "mask" in name:
            target["masks"] = torch.ones(2, 96, 96, dtype=torch.uint8)
        if "keypoint" in name:
            target["keypoints"] = torch.ones(2, 17, 3) * 40
        return model(batch, [target, target]) if model.training else model(batch)

    return call


def _flow(model: nn.Module) -> Any:
    return model(images(128), images(128).flip(0), num_flow_updates=2)
