"""What the engine says of one network: how much can go, at which price, and whether the proof holds."""

from __future__ import annotations

import collections
import resource
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.structures import tensors_in
from raycompress.compressors.structure.axes.recorder import Couplings, record
from tests.zoo.networks.network import Network
from tests.zoo.slicing import KeptOnly, answers, choose, masked, sliced

TOLERANCE = 1e-3


def measure(network: Network) -> dict[str, Any]:
    """Return the cell: seconds, megabytes, what is left, the difference or the reason."""
    torch.manual_seed(0)
    model = network.build().eval()
    randomize(model)
    started = time.process_time()
    dense = answers(model, network.tensors)
    forward = time.process_time() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    couplings = record(model, network.call)
    cell: dict[str, Any] = {
        "forward": round(forward, 2),
        "seconds": round(time.process_time() - started, 2),
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
        "model": sum(tensor.numel() * tensor.element_size() for tensor in model.parameters()) >> 20,
        "operations": sum(couplings.operations.values()),
        "unknown": sorted(couplings.unknown),
        **_freedom(couplings),
    }
    gone = choose(couplings)
    small = sliced(model, couplings, gone)
    cell["left"] = round(_size(small) / max(1, _size(model)), 3)
    if not len(gone):
        return {**cell, "result": "nothing can go"}
    try:
        found = answers(small, network.tensors)
    except Exception as error:  # noqa: BLE001 - whatever a network raises is its cell
        return {**cell, "result": "does not run", "reason": f"{type(error).__name__}: {error}"[:300]}
    wanted = expected(model, couplings, gone, network)
    cell["difference"] = difference(found, wanted)
    cell["effect"] = difference(dense, wanted)
    cell["result"] = "ok" if cell["difference"] < TOLERANCE else "differs"
    try:
        small.train()
        torch.manual_seed(0)
        loss = sum(one.float().pow(2).mean() for one in tensors_in(network.call(small)) if one.requires_grad)
        loss.backward()
    except Exception as error:  # noqa: BLE001 - whatever a network raises is its cell
        cell["result"], cell["reason"] = "does not train", f"{type(error).__name__}: {error}"[:300]
    return cell


def randomize(model: nn.Module) -> None:
    """Give norms values that differ from channel to channel, so that a mistake shows."""
    for module in model.modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            if tensor.dim() > 1 and isinstance(tensor, nn.Parameter) and not bool(tensor.any()):
                nn.init.normal_(tensor, 0, 0.1)  # a head that begins as zeros
            if tensor.dim() != 1:
                continue
            with torch.no_grad():
                if key == "running_var":
                    tensor.uniform_(0.8, 1.2)
                elif key in ("bias", "running_mean"):
                    tensor.normal_(0, 0.1)
                elif key == "weight":
                    tensor.uniform_(0.8, 1.2)
                elif isinstance(tensor, nn.Parameter) and float(tensor.abs().max()) < 1e-4:
                    tensor.uniform_(0.2, 0.4)


def expected(model: nn.Module, couplings: Couplings, gone: np.ndarray, network: Network) -> list[Tensor]:
    """Return the answers of the masked model, its reductions taken over what stays."""
    from raycompress.compressors.structure.axes.recorder import followed

    copied = masked(model, couplings, gone)
    torch.manual_seed(0)
    return list(followed(copied, network.tensors, lambda *rest: KeptOnly(couplings, gone, *rest)))


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest relative difference of two lists of tensors."""
    if len(found) != len(wanted):
        return float("inf")
    worst = 0.0
    for one, two in zip(found, wanted, strict=True):
        if one.shape != two.shape:
            return float("inf")
        if two.is_floating_point() and two.numel():
            finite = two.isfinite()
            if not torch.equal(finite, one.isfinite()):
                return float("inf")
            scale = two[finite].norm()
            worst = max(worst, float((one[finite] - two[finite]).norm() / scale.clamp_min(1e-12)))
    return worst


def _size(model: nn.Module) -> int:
    return sum(map(Tensor.numel, model.parameters()))


def _freedom(couplings: Couplings) -> dict[str, Any]:
    """Return which share of the output channels of layers can go, and the commonest reasons of the others."""
    free = of = 0
    why: collections.Counter[str] = collections.Counter()
    for name, axes in couplings.axes.items():
        if len(axes) < 2:
            continue
        reasons = couplings.reason(name, 0)
        free, of = free + reasons.count(""), of + len(reasons)
        why.update({reason for reason in reasons if reason})
    return {"free": round(free / max(1, of), 3), "why": why.most_common(4)}
