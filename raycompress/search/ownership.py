"""Checks that what a trial proposes reaches `create_compressor`: scripts have configurations of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycompress.config.search_space import SearchSpace
from raycompress.errors import ScriptError
from raycompress.runtime.protocol import Message

Inspect = Callable[[Mapping[str, Any]], Sequence[Message]]
"""Sample -> the messages ``given`` of a run in mode ``inspect``."""


def check_given(given: Sequence[Message], space: SearchSpace, inspect_again: Inspect) -> None:
    """Raise where the script compresses by a configuration that is not the trial's, whatever the trial proposes.

    A script may change what it is given, and so a difference alone is no mistake. It is one where another sample does
    not change what the script passes on; the script is inspected a second time to find out, if there is a difference.

    Parameters
    ----------
    given
        The messages of the inspection with the sample in the middle of all ranges.

    Raises
    ------
    ScriptError
        What the script passes on is the same for another sample.
    """
    if not given or any(not message["differs"] for message in given):
        return
    again = inspect_again(another_sample(space)) if space.dimensions else given
    fixed = _common(given[0]["differs"], again[0]["differs"] if again else {})
    if fixed:
        key, value = next(iter(fixed.items()))
        raise ScriptError(
            f"the script passes create_compressor a `{key}` of its own, {_shortened(value)}, and not the trial's: "
            "all trials would compress alike, whatever is proposed",
            where=given[0]["where"],
            fix=f"pass what the trial is given: create_compressor(model, config), or config.{key} in a dictionary of "
            "your own",
        )


def another_sample(space: SearchSpace) -> dict[str, Any]:
    """Return a sample that differs from the one in the middle in every dimension that has more than one value."""
    sample = space.centre()
    for dimension in space.dimensions:
        centre = sample[dimension.name]
        if dimension.choices is not None:
            sample[dimension.name] = dimension.choices[-1]
        elif dimension.high is not None:
            halfway = dimension.nearest((centre + dimension.high) / 2)
            sample[dimension.name] = dimension.nearest(dimension.high) if halfway == centre else halfway
    return sample


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key in other and other[key] == value}


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"
