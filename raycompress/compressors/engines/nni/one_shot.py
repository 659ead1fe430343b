"""NNI's pruners that choose at once, of its v1 API (nni 2.10): they leave the user's model as it was."""

from __future__ import annotations

import copy
from types import ModuleType

from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import (
    aware_options,
    channels_of,
    config_of,
    everything,
    load_nni,
    masks_of,
    positive,
    quiet,
    removed_channels,
)
from raycompress.compressors.engines.nni.rounding import chosen, rounded
from raycompress.errors import CompressionError

__all__ = ["NniPruner", "load_library"]

load_library = load_nni

_FILTER_PRUNERS = {"l1_filter": "L1FilterPruner", "l2_filter": "L2FilterPruner", "fpgm": "FPGMPruner"}


class NniPruner:
    """level, slim, l1_filter, l2_filter and fpgm."""

    def choose(self, request: Request) -> PruningDecision:
        """Return what NNI would mask; see `raycompress.compressors.engine.Engine`."""
        pruning = load_nni()
        name = request.compressor.name
        if name == "level":
            return self._level(pruning, request)
        if name == "slim":
            return self._slim(pruning, request)
        return self._filters(pruning, rounded(request))

    def _level(self, pruning: ModuleType, request: Request) -> PruningDecision:
        model, names = copy.deepcopy(request.model), positive(request.targets)
        with quiet(request):
            masks = masks_of(pruning.LevelPruner(model, [config_of(name, request.targets[name]) for name in names]))
        weights = {name: masks[name] == 0 for name in names}
        for name, removed in weights.items():
            if removed.all() and removed.numel() > 1:
                raise everything(request, name, "weights")
        return PruningDecision(weights=weights)

    def _filters(self, pruning: ModuleType, request: Request) -> PruningDecision:
        names = positive(request.targets)
        options = aware_options(request)
        # eval: NNI traces the model, and BatchNorm statistics must not take that for training
        model = copy.deepcopy(request.model).eval()
        pruner = getattr(pruning, _FILTER_PRUNERS[request.compressor.name])
        with quiet(request):
            masks = masks_of(pruner(model, [config_of(name, request.targets[name]) for name in names], **options))
        choice = chosen(request, masks)
        for name in names:
            if len(choice.channels[name]) == len(masks[name]):
                raise everything(request, name, "channels")
        return choice

    def _slim(self, pruning: ModuleType, request: Request) -> PruningDecision:
        """Rank the channels of all layers of an entry together; a layer keeps at least its strongest one."""
        if request.arguments.get("trainer") is not None:
            self._train_slim(pruning, request)
        model = copy.deepcopy(request.model)
        channels: dict[str, tuple[int, ...]] = {}
        names = positive(request.targets)
        # NNI compares all layers against the first entry's sparsity: one run an entry makes each entry mean itself
        for entry in sorted({request.targets[name].entry for name in names}):
            members = [name for name in names if request.targets[name].entry == entry]
            sparsity = request.targets[members[0]].sparsity
            total = sum(channels_of(model.get_submodule(name)) for name in members)
            if int(total * sparsity) < 1:
                continue
            config = {"sparsity": sparsity, "op_types": ["BatchNorm2d"], "op_names": members}
            with quiet(request):
                pruner = pruning.SlimPruner(model, [config], None, None, None, sparsifying_training_epochs=0)
                masks = masks_of(pruner)
            found = {name: removed_channels(masks[name]) for name in members}
            for name in members:
                if len(found[name]) == len(masks[name]):
                    # NNI removes all that are equal to the threshold: then the weights say nothing of the channels
                    if sum(map(len, found.values())) > int(total * sparsity):
                        raise everything(request, name, "channels")
                    weight = model.get_parameter(f"{name}.weight")
                    strongest = int(weight.detach().abs().argmax())
                    found[name] = tuple(channel for channel in found[name] if channel != strongest)
            channels |= found
        return PruningDecision(channels=channels)

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
        names = positive(request.targets)
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
