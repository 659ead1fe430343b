"""Which compressor may follow which, where an experiment compresses in stages."""

from __future__ import annotations

from collections.abc import Sequence

from raycompress.catalog.entry import PRUNER, CompressorEntry


def quantizes_trained(entry: CompressorEntry) -> bool:
    """Tell whether it quantizes a model that is trained already, in a call of its own."""
    return entry.framework == "torch" and entry.kind == "quantization" and entry.acts == "in compress()"


def is_for_stages(entry: CompressorEntry) -> bool:
    """Tell whether it can be one of several stages: of torch models, and no class of a plug-in's own."""
    return entry.framework == "torch" and not (entry.distribution and entry.compressor != PRUNER)


def may_follow(entry: CompressorEntry, others: Sequence[CompressorEntry]) -> list[str]:
    """Return the names of those of `others` that it may follow."""
    return [other.name for other in others if not why_not_after(entry, other)[0]]


def why_not_after(entry: CompressorEntry, before: CompressorEntry) -> tuple[str, str]:
    """Return (why `entry` cannot follow `before`, what to do instead); empty texts where it can.

    Channels go first, then single weights, and bits last: a stage works on what the one before left.
    """
    for one in (before, entry):
        if not is_for_stages(one):
            keras = f"{one.name} is for Keras models, which are compressed in one stage"
            plug_in = f"{one.name} is a class of a plug-in's own, which compresses in one stage"
            return keras if one.framework != "torch" else plug_in, "write one object in the place of the list"
    if before.kind == "quantization":
        return f"{before.name} quantizes the model, and nothing can follow that", f"make {before.name} the last stage"
    if entry.kind == "pruning" and entry.removes_channels:
        if before.removes_channels:
            what = f"{before.name} and {entry.name} both remove channels, which is one stage"
            return what, "name all layers in one config_list"
        return f"{entry.name} removes channels, and {before.name} masks weights of them", f"make {entry.name} the first"
    if quantizes_trained(entry):
        return "", ""
    return _why_not_while_training(entry, before)


def _why_not_while_training(entry: CompressorEntry, before: CompressorEntry) -> tuple[str, str]:
    """Return why what acts from compress() on, while the script trains, cannot follow `before`."""
    fix = "take a compressor that quantizes the trained model, such as ptq_static"
    if not before.removes_channels:
        if entry.kind == "pruning":
            return f"{before.name} and {entry.name} both mask single weights, which is one stage", "keep one of the two"
        return f"{entry.name} trains quantized weights, which the masks of {before.name} do not reach", fix
    if before.trains and not before.returns_small:
        what = f"{before.name} chooses what goes while the script trains, and {entry.name} begins before"
        return what, f"{fix}, or one that chooses in compress() before it, such as group_l1"
    if entry.kind == "pruning" and entry.trains:
        what = f"{entry.name} trains to choose what goes, which is for a stage by itself"
        return what, "take level, which chooses in compress()"
    return "", ""
