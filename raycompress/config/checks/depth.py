"""Checks of the blocks that an experiment may drop against those that the model has."""

from __future__ import annotations

from collections.abc import Iterator

from raycompress.config.depth import blocks_of
from raycompress.config.experiment import Experiment
from raycompress.errors import Problem
from raycompress.model.info import ModelInfo
from raycompress.text import did_you_mean, join_names


def check_depth(experiment: Experiment, model: ModelInfo) -> Iterator[Problem]:
    """Yield what is wrong between the blocks that may go and those that the model has."""
    depth = experiment.compression.depth
    if depth is None:
        return
    found = {block.name: block for block in model.blocks}
    place = ("compression", "depth")
    if model.input_shapes is None:
        what, fix = "which blocks the model has is not known", "let the script call its model once on an input"
        yield Problem(what, experiment.where(place), fix)
        return
    for position, name in enumerate(() if depth["blocks"] == "auto" else depth["blocks"]):
        where = experiment.where((*place, "blocks", position))
        if name not in found:
            what = f'"{name}" is no residual block: it does not compute x + f(x) of its input x'
            others = f"the blocks are {join_names(found)}" if found else 'the model has none: remove "depth"'
            yield Problem(what, where, did_you_mean(name, list(found)) or others)
        elif found[name].why_not:
            yield Problem(found[name].why_not, where, "leave it out")
    able = blocks_of(depth, model)
    if depth["blocks"] == "auto" and not able:
        what = "the model has no residual block that can go: no module computes x + f(x) of its input x"
        yield Problem(what, experiment.where(place), 'remove "depth"')
    drop = depth.get("drop", 0)
    most = drop if isinstance(drop, int) else drop["range"][-1]
    if able and most > len(able):
        what = f"{most} blocks are to go, and there are {len(able)}: {join_names(able)}"
        yield Problem(what, experiment.where((*place, "drop")), f"write at most {len(able)}")


def notes_on_depth(experiment: Experiment, model: ModelInfo) -> Iterator[str]:
    """Yield the blocks that may go, and those that cannot, where they are looked for."""
    depth = experiment.compression.depth
    if depth is None:
        return
    where = experiment.where(("compression", "depth"))
    if able := blocks_of(depth, model, by_influence="drop" in depth):
        order = ", the first of which go first" if "drop" in depth else ""
        yield f"{where}: the blocks that may go are {join_names(able)}{order}"
    for block in model.blocks:
        if block.why_not and depth["blocks"] == "auto":
            yield f"{where}: {block.why_not}"
