"""Every pruner of torch on every kind of network: compressed, trained, sliced, proved, exported, reloaded; or refused.

A refusal is one error of ours, raised before anything is trained. There is no third outcome.
"""

from __future__ import annotations

import copy
import functools
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.catalog import CATALOG, CompressorEntry, find
from raycompress.compressors.measure.sizes import parameters
from raycompress.errors import RaycompressError, SpeedupError
from tests.support.models import networks
from tests.tables.reloader import Reloader

PRUNERS = tuple(entry.name for entry in CATALOG if (entry.framework, entry.kind) == ("torch", "pruning"))
NETWORKS = tuple(networks.NETWORKS)
HEADS = {"cnn": "fc2", "resnet": "fc", "mobilenet": "fc", "vgg": "classifier.3", "vit": "head", "torch_vit": "head"}
HEADS |= {"mlp": "fc3", "sequences": "fc2"}
SPARSITY = 0.5
N_TRAIN, STEPS = 1400, 300
EPOCHS, STEPS_AN_EPOCH = 2, 25


@dataclass(frozen=True)
class Outcome:
    """What became of one pruner on one network.

    Attributes
    ----------
    refusal
        The error, where there was one; the other fields are then meaningless.
    sliced
        Whether channels were cut out; otherwise weights were masked.
    left
        Share of the parameters that are left; of a model that keeps its size, share that is not zero.
    accuracy
        After fine-tuning, held out; before slicing and after.
    reload
        Largest difference of an output of the reloaded model, in a fresh process, relative to the largest output.
    """

    refusal: str = ""
    sliced: bool = False
    left: float = 1.0
    accuracy: tuple[float, float] = (0.0, 0.0)
    reload: float = 0.0

    @property
    def cell(self) -> str:
        """The outcome as a word of the table."""
        return "refused" if self.refusal else "small" if self.sliced else "masked"


def run(pruner: str, network: str, reloader: Reloader) -> Outcome:
    """Take one pruner through its whole life on one network."""
    entry = find(pruner)
    assert entry is not None
    model = copy.deepcopy(pretrained(network))
    random.seed(0)
    numpy.random.seed(0)  # NNI's searches draw from it
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    try:
        compressor = create_compressor(
            model,
            {"compressor": pruner, "config_list": _config_list(entry, network)},
            dummy_input=networks.DUMMY,
            optimizer=optimizer,
            **_arguments(entry),
        )
        model = compressor.compress()
    except RaycompressError as error:
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"refused after {changed[0]} was trained: {error}"
        return Outcome(refusal=error.problems[0].what)
    _fine_tune(compressor, model, optimizer)
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        return _finish(entry, network, compressor, model, Path(folder), reloader)


def _finish(
    entry: CompressorEntry, network: str, compressor: Any, model: nn.Module, folder: Path, reloader: Reloader
) -> Outcome:
    dense = parameters(pretrained(network))
    masked = accuracy(model)
    if entry.given({}).removes_channels or _base(entry):
        compressor.apply_speedup()
        left = parameters(model) / dense
        assert left < 1
    else:
        with pytest.raises(SpeedupError, match="mask"):
            compressor.apply_speedup()
        left = sum(int(parameter.count_nonzero()) for parameter in model.parameters()) / dense
        assert left < 0.95
    compressor.export_model("model.pth", "mask.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    images, _ = held_out()
    expected = _outputs(model, images)
    got = reloader.outputs(folder / "bundle", network, images)
    assert set(torch.load(folder / "model.pth", weights_only=True)) == set(pretrained(network).state_dict())
    difference = float((expected - got).abs().max() / expected.abs().max())
    return Outcome("", parameters(model) < dense, left, (masked, accuracy(model)), difference)


def _fine_tune(compressor: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in compressor.get_prune_iterations():
        compressor.prune_iteration_start()
        for epoch in range(EPOCHS):
            compressor.update_epoch(epoch)
            networks.train(model, STEPS_AN_EPOCH, seed=epoch, optimizer=optimizer)


@functools.cache
def pretrained(network: str) -> nn.Module:
    """Return one kind of network, trained on the digits; not to be changed."""
    torch.manual_seed(0)
    model = networks.NETWORKS[network]()
    networks.train(model, STEPS, optimizer=torch.optim.Adam(model.parameters(), lr=2e-3))
    return model


def held_out() -> tuple[Tensor, Tensor]:
    """Return images and labels of the last 397 digits."""
    images, labels = networks.digits()
    return images[N_TRAIN:], labels[N_TRAIN:]


def accuracy(model: nn.Module) -> float:
    """Return the share of the last digits that are read rightly."""
    images, labels = held_out()
    return float((_outputs(model, images).argmax(1) == labels).float().mean())


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        answer: Tensor = model(images)
    return answer


def _base(entry: CompressorEntry) -> bool:
    return bool(entry.base) and entry.given(_arguments(entry)).removes_channels


def _config_list(entry: CompressorEntry, network: str) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"sparsity": SPARSITY} if "sparsity" in entry.keys else {}
    if "prune_iterations" in entry.keys:
        settings["prune_iterations"] = 2
    entries: list[dict[str, Any]] = [{**settings, "op_types": ["default"]}]
    kind = type(dict(pretrained(network).named_modules())[HEADS[network]]).__name__
    if entry.removes_channels and kind in entry.layer_types:
        entries.append({"op_names": [HEADS[network]], "exclude": True})
    return entries


def trainer(model: nn.Module, optimizer: Any = None, criterion: Any = None, epoch: int = 0, **more: Any) -> None:
    """Train for some steps, as NNI's pruners call it."""
    model.train()
    images, labels = networks.digits()
    order = torch.randperm(N_TRAIN, generator=torch.Generator().manual_seed(epoch or 0))
    for batch in order.split(64)[:STEPS_AN_EPOCH]:
        optimizer.zero_grad()
        (criterion or F.cross_entropy)(model(images[batch]), labels[batch]).backward()
        if more.get("callback"):
            more["callback"]()
        optimizer.step()


def fine_tuner(model: nn.Module) -> None:
    """Train for some steps."""
    trainer(model, torch.optim.Adam(model.parameters(), lr=2e-3))


def percent(_batches: Any, model: nn.Module) -> float:
    """Return the accuracy as AMC takes it."""
    return 100 * accuracy(model)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return some labelled batches."""
    images, labels = networks.digits()
    return [(images[start : start + 64], labels[start : start + 64]) for start in range(0, 256, 64)]


_SMALL = {"round_to": 4}  # the networks are small: some layers have 12 channels
_TRAINED = {"trainer": trainer, "criterion": F.cross_entropy}
_SEARCHED = {"evaluator": accuracy, "search_timeout_s": 120}
_ANNEALED = {"start_temperature": 100, "stop_temperature": 85}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "slim": {"sparsifying_training_epochs": 1, **_TRAINED},
    "agp": {"pruning_algorithm": "l1"},
    "admm": {"num_iterations": 2, "epochs_per_iteration": 1, **_TRAINED},
    "sensitivity": {"finetuner": fine_tuner, **_SEARCHED},
    "net_adapt": {"short_term_fine_tuner": fine_tuner, "sparsity_per_iteration": 0.1, **_SEARCHED},
    "simulated_annealing": {**_ANNEALED, **_SEARCHED},
    "auto_compress": {
        "num_iterations": 2,
        "admm_num_iterations": 1,
        "admm_epochs_per_iteration": 1,
        **_ANNEALED,
        **_TRAINED,
        **_SEARCHED,
    },
    "amc": {
        "train_episode": 3,
        "warmup": 1,
        "flops_ratio": SPARSITY,
        "channel_round": 4,
        "val_loader": batches(),
        "n_calibration_batches": 4,
        "evaluator": percent,
        "search_timeout_s": 120,
        "seed": 0,
    },
    **dict.fromkeys(("group_l1", "group_l2", "group_fpgm", "group_lamp", "bn_scale", "random"), _SMALL),
    **{
        name: {"calibration": batches(), **_SMALL}
        for name in ("group_wanda", "group_flap", "group_fisher", "group_obs")
    },
    **{name: {"statistics_batch_num": 4, **_SMALL} for name in ("group_taylor", "group_hessian")},
}


def _arguments(entry: CompressorEntry) -> dict[str, Any]:
    return dict(ARGUMENTS.get(entry.name, {}))
