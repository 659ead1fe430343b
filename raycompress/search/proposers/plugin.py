"""Wraps a plug-in's proposer: checks its samples, and turns its exceptions into a PluginError."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raycompress.catalog.plugins import Plugin
from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement
from raycompress.config.search_space import SearchSpace
from raycompress.errors import PluginError, RaycompressError
from raycompress.search.stopping.policies import Scores

if TYPE_CHECKING:
    from raycompress.search.proposers.searchers import Proposer, Sample


class PluginProposer:
    """Wraps the proposer of a plug-in.

    Parameters
    ----------
    plugin
        Where it comes from.
    found
        Its class.
    options
        ``objective``, ``seed`` and ``history``; see `raycompress.search.proposers.searchers.make_proposer`.

    Raises
    ------
    PluginError
        Whatever the class raises, when it is made or later; or a proposal that is not in the space.
    """

    def __init__(self, plugin: Plugin, found: type, space: SearchSpace, options: Mapping[str, Any]) -> None:
        self._plugin, self._space = plugin, space
        with self._named("is made"):
            self._proposer: Proposer = found(space, **options)
            self.repeats = bool(self._proposer.repeats)

    @property
    def note(self) -> str:
        """The wrapped proposer's note."""
        with self._named("says its note"):
            return str(self._proposer.note)

    def propose(self, number: int) -> Sample | None:
        """Return its sample for trial `number`, which has one value of each dimension."""
        with self._named("proposes"):
            sample = self._proposer.propose(number)
        if sample is None:
            return None
        names = {dimension.name for dimension in self._space.dimensions}
        wrong = sorted(names ^ set(sample))
        if wrong:
            raise self._error(f'proposed a sample that lacks "{wrong[0]}", or has it beside the dimensions')
        for dimension in self._space.dimensions:
            if not _is_in(dimension, sample[dimension.name]):
                raise self._error(f'proposed {sample[dimension.name]!r}, which "{dimension.name}" cannot be')
        return sample

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Hand it the score of trial `number`."""
        with self._named("learns"):
            self._proposer.learn(number, score, scores, judgement)

    @contextmanager
    def _named(self, when: str) -> Iterator[None]:
        try:
            yield
        except RaycompressError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise self._error(f"failed when it {when}: {text}") from error

    def _error(self, what: str) -> PluginError:
        return PluginError(
            f"{self._plugin} {what}",
            where=self._plugin.where,
            fix=f"tell the author of {self._plugin.project}, or take another proposer, such as optuna",
        )


def _is_in(dimension: Dimension, value: Any) -> bool:
    if dimension.choices is not None:
        return value in dimension.choices
    kinds = (int,) if dimension.kind == "int" else (int, float)
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
