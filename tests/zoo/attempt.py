"""One compressor on one network, as a user runs it: pruned, trained, sliced, proved, trained on and saved."""

from __future__ import annotations

import inspect
import json
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import raycompress
from raycompress.bundle import bundle
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.measure.difference import relative_difference
from raycompress.errors import RaycompressError
from tests.zoo.cell import TOLERANCE, randomize
from tests.zoo.networks.network import Network
from tests.zoo.slicing import answers

COMPRESSORS = ("group_l1", "l1_filter")
ENTRY = {"sparsity": 0.5, "op_types": ["default"]}
SECONDS = 60
FACTOR = 4
"""How many times the bytes of a model an attempt may take, on top of what a plain step of training takes."""
ALLOWANCE = 96 << 20
"""What libraries take beside that: code that is imported on use, and memory that is kept to be used again."""

_BEFORE_TRAINING = ("create", "compress")
_OF_THE_NETWORK = ("build", "plain pass", "plain step")
_TRAINING = {"masked step": "does not train masked", "small step": "does not train"}


class Progress:
    """What is known of an attempt so far, in a file: whoever has to end the attempt reads it there.

    Parameters
    ----------
    file
        Is written at the start of each phase.
    """

    def __init__(self, file: Path) -> None:
        self.cell: dict[str, Any] = {}
        self._file = file

    def write(self, **facts: Any) -> None:
        """Add facts to the cell, and write it."""
        self.cell |= facts
        aside = self._file.with_suffix(".new")
        aside.write_text(json.dumps(self.cell))
        aside.replace(self._file)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the phase, its CPU seconds and by how much its peak is above the memory at its start."""
        self.write(phase=name)
        _forget_peak()
        before, started = memory("VmRSS"), time.process_time()
        try:
            yield
        finally:
            self.cell.setdefault("cpu", {})[name] = round(time.process_time() - started, 2)
            self.cell.setdefault("growth", {})[name] = max(0, memory("VmHWM") - before)


def attempt(network: Network, compressor: str, folder: Path, progress: Progress) -> None:
    """Compress `network` and save it into `folder`; what comes of it is in the cell of `progress`."""
    try:
        _attempt(network, compressor, folder, progress)
    except RaycompressError as error:
        first = error.problems[0]
        result = "refused" if progress.cell["phase"] in _BEFORE_TRAINING else "late"
        progress.write(result=result, reason=first.what, where=first.where, fix=first.fix, problems=len(error.problems))
    except Exception as error:  # noqa: BLE001 - whatever it raises is its cell
        phase = progress.cell["phase"]
        result = "no network" if phase in _OF_THE_NETWORK else _TRAINING.get(phase, "traceback")
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        progress.write(result=result, reason=reason, trace=traceback.format_exc()[-3000:])


def _attempt(network: Network, compressor: str, folder: Path, progress: Progress) -> None:
    torch.manual_seed(0)
    with progress.phase("build"):
        model = network.build()
        randomize(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    with progress.phase("plain pass"):
        dummy = inputs_of(network, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    with progress.phase("plain step"):
        train(network, model)
        model.zero_grad()
    growth = progress.cell["growth"]
    limit = FACTOR * size + max(growth["plain pass"], growth["plain step"]) + ALLOWANCE
    progress.write(bytes=size, limit=memory("VmRSS") + limit)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.RLIM_INFINITY))

    config = {"compressor": compressor, "config_list": [ENTRY]}
    with progress.phase("create"):
        made = raycompress.create_compressor(model, config, dummy_input=dummy, optimizer=optimizer)
    with progress.phase("compress"):
        made.compress()
    with progress.phase("masked step"):
        train(network, model, optimizer)
    masked = answers(model, network.tensors)
    with progress.phase("slice"):
        made.apply_speedup()
    progress.write(difference=relative_difference(masked, answers(model, network.tensors)))
    del masked
    with progress.phase("small step"):
        train(network, model, optimizer)
    with progress.phase("save"):
        made.export_model("model.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    manifest = bundle.read(folder / "bundle")
    before, after = manifest.before, manifest.after
    left = {key: round(getattr(after, key) / max(1, getattr(before, key)), 3) for key in ("params", "flops")}
    result = "saved" if progress.cell["difference"] <= TOLERANCE else "differs"
    progress.write(result=result, left=left, notes=list(manifest.notes))


def inputs_of(network: Network, model: nn.Module) -> Any:
    """Return what a user passes as ``dummy_input``: the arguments that the network is called with in eval mode."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = model.register_forward_pre_hook(
        lambda _model, args, kwargs: seen.append((args, dict(kwargs))), with_kwargs=True
    )
    try:
        with torch.no_grad():
            network.call(model.eval())
    finally:
        hook.remove()
    args, kwargs = seen[0]
    if args and kwargs:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    return kwargs or args


def train(network: Network, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Make one step of training in train mode; without an optimizer gradients alone."""
    torch.manual_seed(0)
    model.train()
    outputs = [one for one in tensors_in(network.call(model)) if one.requires_grad]
    loss = sum(one.float().pow(2).mean() for one in outputs)
    assert isinstance(loss, torch.Tensor), "no output has a gradient"
    loss.backward()
    if optimizer is not None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def memory(key: str) -> int:
    """Return a figure of this process's memory in bytes: ``VmRSS`` as it is, ``VmHWM`` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) << 10
    raise KeyError(key)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
