"""``"uniform": true``: the layers of repeated blocks keep equally many channels, as most loaders of models want them.

A config of transformers, and with it vLLM or a converter to GGUF, has one number for the width of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.errors import CompressionError
from raycompress.model.groups import role
from raycompress.text import join_names


def by_role(targets: Sequence[GroupTarget]) -> list[list[GroupTarget]]:
    """Return the groups of channels that repeated blocks have in common: of one role, and equally wide."""
    found: dict[tuple[str, int, int], list[GroupTarget]] = {}
    for target in targets:
        found.setdefault((role(target.name), target.group.size, target.group.parts), []).append(target)
    return list(found.values())


def check_uniform(graph: ChannelGraph, targets: Sequence[GroupTarget]) -> None:
    """Raise CompressionError where blocks are asked for different sparsities, or one of them for none."""
    for alike in by_role(targets):
        first = alike[0]
        of_role = [name for name in graph.producers() if role(name) == role(first.name)]
        wide = graph.channels(first.name)
        taken = {layer for target in alike for layer in (target.name, *target.layers)}
        whole = [name for name in of_role if name not in taken and graph.channels(name) == wide]
        if whole:
            raise _refused(first, f"{join_names(whole)} would keep all channels", whole)
        asked = {target.sparsity for target in alike}
        if len(asked) > 1:
            values = ", ".join(f"{target.sparsity:g} of {target.name}" for target in alike)
            raise _refused(first, f"the config_list asks for {values}", [target.name for target in alike])


def _refused(first: GroupTarget, what: str, names: Sequence[str]) -> CompressionError:
    return CompressionError(
        f'"uniform" keeps {role(first.name)} equally wide in all blocks, and {what}',
        where=f"config_list[{first.entry}]",
        fix=f"one sparsity for {join_names([*dict.fromkeys([first.name, *names])])}, or leave uniform out",
    )
