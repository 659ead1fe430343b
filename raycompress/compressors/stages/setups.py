"""What each stage of a compression is made of, and which stage an error is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from raycompress.catalog.stages import why_not_after
from raycompress.compressors.create import TOLERATED, Setup, entry_of, setup_of
from raycompress.errors import BudgetError, ExperimentError, RaycompressError


def setups_of(
    model: Any, configs: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], dummy: Any
) -> list[Setup]:
    """Return what each stage is made of; each gets those of `arguments` that it takes.

    Raises
    ------
    ExperimentError
        As for one compressor, with the stage; or one cannot follow another.
    """
    entries = []
    for number, config in enumerate(configs):
        with of_stage(number, str(config.get("compressor"))):
            entries.append(entry_of(model, config))
    for number, (before, entry) in enumerate(pairwise(entries), 1):
        what, fix = why_not_after(entry, before)
        if what:
            raise ExperimentError(f"stage {number + 1}: {what}", where=f"compression[{number}].compressor", fix=fix)
    known = {argument.name for entry in entries for argument in entry.arguments}
    found = []
    for number, (config, entry) in enumerate(zip(configs, entries, strict=True)):
        takes = {argument.name for argument in entry.arguments} | TOLERATED
        given = {name: value for name, value in arguments.items() if name in takes or name not in known}
        with of_stage(number, entry.name):
            setup = setup_of(model, config, given, dummy, is_first=number == 0)
        found.append(replace(setup, is_stage=True))
    if found[0].slice is None and not found[0].entry.why_not_sliced("before")[0]:
        found[0] = replace(found[0], slice="before")
    return found


@contextmanager
def of_stage(number: int, name: str) -> Iterator[None]:
    """Have errors name the stage that they are of; `number` counts from 0."""
    try:
        yield
    except BudgetError:  # ends a trial that is no failure
        raise
    except RaycompressError as error:
        prefix = f"stage {number + 1} ({name}): "
        raise type(error).of(
            [
                problem
                if problem.what.startswith("stage ")
                else replace(problem, what=prefix + problem.what, where=_where(problem.where, number))
                for problem in error.problems
            ]
        ) from error


def _where(where: str, number: int) -> str:
    return f"compression[{number}].{where}" if where.startswith("config_list") else where
