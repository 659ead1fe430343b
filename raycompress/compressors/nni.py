"""NNI's pruners of the v1 API (nni 2.10) as an engine: NNI chooses, and leaves the user's model as it was."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.compressors.engine import Choice, Request
from raycompress.compressors.targets import Target
from raycompress.errors import CompressionError

_IMPORT_LOCK = threading.Lock()
_FILTER_PRUNERS = {"l1_filter": "L1FilterPruner", "l2_filter": "L2FilterPruner", "fpgm": "FPGMPruner"}


def load_nni() -> ModuleType:
    """Import and return ``nni.algorithms.compression.pytorch.pruning``.

    NNI and torch's tensorboard import tensorflow where it is installed, which costs seconds and 865 MB: it is hidden
    during the import. NNI's handler on stdout is taken off, and the root logger is put back as it was.
    """
    with _IMPORT_LOCK:
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        hidden = "tensorflow" not in sys.modules
        if hidden:
            sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            import nni
            import nni.algorithms.compression.pytorch.pruning as pruning
        finally:
            if hidden:
                sys.modules.pop("tensorflow", None)
            root.handlers[:] = handlers
            root.setLevel(level)
        nni.silence_stdout()
        logging.getLogger("nni").setLevel(logging.WARNING)
        module: ModuleType = pruning
        return module


@contextlib.contextmanager
def _quiet(request: Request) -> Iterator[None]:
    """Keep what NNI prints off stdout, and turn its assertions into an error of ours."""
    logger = logging.getLogger("nni.algorithms")
    disabled, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except CompressionError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f"NNI's {request.compressor.name} failed on this model: {said}",
            where=f"create_compressor, {type(request.model).__name__}",
            fix="name other layers, or another compressor; `raycompress compressors` lists them",
        ) from error
    finally:
        logger.disabled = disabled


class NniPruner:
    """level, slim, l1_filter, l2_filter and fpgm."""

    def choose(self, request: Request) -> Choice:
        """Return what NNI would mask; see `raycompress.compressors.engine.Engine`."""
        pruning = load_nni()
        name = request.compressor.name
        if name == "level":
            return self._level(pruning, request)
        if name == "slim":
            return self._slim(pruning, request)
        return self._filters(pruning, request)

    def _level(self, pruning: ModuleType, request: Request) -> Choice:
        model, names = copy.deepcopy(request.model), _positive(request.targets)
        with _quiet(request):
            masks = _masks(pruning.LevelPruner(model, [_entry(name, request.targets[name]) for name in names]))
        weights = {name: masks[name] == 0 for name in names}
        for name, removed in weights.items():
            if removed.all() and removed.numel() > 1:
                raise _everything(request, name, "weights")
        return Choice(weights=weights)

    def _filters(self, pruning: ModuleType, request: Request) -> Choice:
        names = _positive(request.targets)
        options: dict[str, Any] = {}
        if request.arguments.get("dependency_aware", False):
            if request.example is None:
                raise CompressionError(
                    f"{request.compressor.name} with dependency_aware needs to know an input",
                    where="create_compressor",
                    fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32)",
                )
            args = request.example.args
            options = {"dependency_aware": True, "dummy_input": args[0] if len(args) == 1 else args}
        # eval: NNI traces the model, and BatchNorm statistics must not take that for training
        model = copy.deepcopy(request.model).eval()
        pruner = getattr(pruning, _FILTER_PRUNERS[request.compressor.name])
        with _quiet(request):
            masks = _masks(pruner(model, [_entry(name, request.targets[name]) for name in names], **options))
        channels = {name: _removed_channels(masks[name]) for name in names}
        for name in names:
            if len(channels[name]) == len(masks[name]):
                raise _everything(request, name, "channels")
        modules = dict(request.model.named_modules())
        asked = {name: int(target.sparsity * _channels(modules[name])) for name, target in request.targets.items()}
        return Choice(channels=channels, asked=asked)

    def _slim(self, pruning: ModuleType, request: Request) -> Choice:
        if request.arguments.get("trainer") is not None:
            self._train_slim(pruning, request)
        model = copy.deepcopy(request.model)
        channels: dict[str, tuple[int, ...]] = {}
        names = _positive(request.targets)
        # NNI compares all layers against the first entry's sparsity: one run an entry makes each entry mean itself
        for entry in sorted({request.targets[name].entry for name in names}):
            members = [name for name in names if request.targets[name].entry == entry]
            sparsity = request.targets[members[0]].sparsity
            total = sum(_channels(model.get_submodule(name)) for name in members)
            if int(total * sparsity) < 1:
                continue
            config = {"sparsity": sparsity, "op_types": ["BatchNorm2d"], "op_names": members}
            with _quiet(request):
                pruner = pruning.SlimPruner(model, [config], None, None, None, sparsifying_training_epochs=0)
                masks = _masks(pruner)
            for name in members:
                channels[name] = _removed_channels(masks[name])
                if len(channels[name]) == len(masks[name]):
                    raise _everything(request, name, "channels")
        return Choice(channels=channels)

    def _train_slim(self, pruning: ModuleType, request: Request) -> None:
        """Train the user's model with NNI's penalty on the BatchNorm weights."""
        arguments = request.arguments
        optimizer = arguments.get("optimizer")
        if optimizer is None:
            raise CompressionError(
                "slim with trainer= needs the optimizer that it hands to it",
                where="create_compressor",
                fix="pass optimizer=, or leave trainer out to rank the BatchNorm weights as they are",
            )
        names = _positive(request.targets)
        if not names:
            return
        config = {"sparsity": request.targets[names[0]].sparsity, "op_types": ["BatchNorm2d"], "op_names": names}
        patched, step = "step" in vars(optimizer), optimizer.step
        pruner = pruning.SlimPruner(
            request.model,
            [config],
            optimizer,
            arguments["trainer"],
            arguments.get("criterion"),
            sparsifying_training_epochs=arguments["sparsifying_training_epochs"],
        )
        pruner.scale = arguments["scale"]
        pruner.update_mask = lambda: None  # training only: the channels are chosen afterwards, entry by entry
        try:
            pruner.compress()
        finally:
            pruner._unwrap_model()
            if patched:
                optimizer.step = step
            else:
                vars(optimizer).pop("step", None)


def _positive(targets: Mapping[str, Target]) -> list[str]:
    # NNI takes 0 < sparsity < 1 only
    return [name for name, target in targets.items() if target.sparsity > 0]


def _entry(name: str, target: Target) -> dict[str, Any]:
    return {"sparsity": target.sparsity, "op_types": [target.type], "op_names": [name]}


def _masks(pruner: Any) -> dict[str, Tensor]:
    """Run a pruner and return the weight masks of its layers, on the CPU; its wrappers are taken off the model."""
    try:
        if pruner.get_modules_wrapper():
            pruner.compress()
    finally:
        pruner._unwrap_model()
    return {wrapper.name: wrapper.weight_mask.detach().cpu() for wrapper in pruner.get_modules_wrapper()}


def _removed_channels(mask: Tensor) -> tuple[int, ...]:
    kept = mask.reshape(mask.size(0), -1).sum(dim=1) > 0
    return tuple(torch.nonzero(~kept).flatten().tolist())


def _channels(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.size(0)


def _everything(request: Request, name: str, what: str) -> CompressionError:
    target = request.targets[name]
    return CompressionError(
        f'{request.compressor.name} at sparsity {target.sparsity:g} would remove all {what} of "{name}"',
        where=f"config_list[{target.entry}]",
        fix=f'a smaller sparsity, or an entry of its own for "{name}"; its weights may be all alike',
    )
