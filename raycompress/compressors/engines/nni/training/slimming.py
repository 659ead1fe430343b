"""The training of slim, by NNI: a penalty on the BatchNorm weights, which makes those of weak channels small."""

from __future__ import annotations

from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.library import load_nni, positive
from raycompress.errors import CompressionError


def train_slim(request: Request) -> None:
    """Train the user's model with NNI's penalty on the BatchNorm weights."""
    pruning, arguments = load_nni(), request.arguments
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
