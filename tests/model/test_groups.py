"""Channel groups as plain data: how they round, and that journals keep their keys."""

from __future__ import annotations

import json

import pytest

from raycompress.model.costs import CostModel
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import ModelInfo

ADDED = ChannelGroup(
    ("conv1", "conv2"),
    ("bn",),
    16,
    root="conv1",
    blocks=tuple((("conv1", index), ("conv2", index), ("bn", index)) for index in range(16)),
    followers=frozenset({"bn"}),
)


def test_the_channels_of_the_root_are_found_block_by_block() -> None:
    assert ADDED.root_blocks == tuple((index,) for index in range(16))
    halves = ChannelGroup(("fc",), (), 2, root="fc", blocks=((("fc", 0), ("fc", 2)), (("fc", 1), ("fc", 3))))
    assert halves.root_blocks == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("parts", "round_to", "multiple", "removed"),
    [(1, 8, 8, 8), (1, 1, 1, 6), (4, 8, 2, 6), (3, 8, 8, 8), (0, 8, 1, 6)],
)
def test_blocks_are_rounded_as_their_channels_are(parts: int, round_to: int, multiple: int, removed: int) -> None:
    group = ChannelGroup(("fc",), (), 16, parts)
    assert group.multiple(round_to) == multiple
    assert group.removable(0.4, round_to) == removed


def test_a_journal_keeps_the_summary_under_the_keys_of_older_versions() -> None:
    data = {"layers": ["conv1", "conv2"], "norms": ["bn"], "blocks": 16, "divides": 1}
    assert ADDED.to_json() == data
    assert ChannelGroup.from_json(data) == ADDED.summary() != ADDED
    costs = CostModel((ADDED.summary(),), (), (), 1, 2, 4)
    model = ModelInfo((), None, (), 1, 2, 4, None, costs=costs)
    assert ModelInfo.from_json(json.loads(json.dumps(model.to_json()))) == model
