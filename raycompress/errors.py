"""Every error that raycompress raises on purpose, and the exit code each one ends with.

::

    RaycompressError                1   anything that went wrong and is not listed below
    ├── ExperimentError             2   mistakes in the experiment file, all at once
    ├── UsageError                  2   mistakes in the arguments of a command
    ├── MissingDependencyError      2   a library of an extra is not installed
    ├── PluginError                 2   a plug-in that cannot be loaded, or is not what it must be
    ├── ScriptError                 1   the user's script cannot be run as it is
    │   └── ResultError             1   the script reported what is no result
    ├── CompressionError            1   a compression that did not, or could not, happen
    │   └── SpeedupError            1   the sliced model is not the masked one, or no smaller
    ├── DeploymentError             1   a model that a target's runtime cannot convert, run or time
    ├── BundleError                 1   a bundle that is broken, foreign or does not fit the model
    ├── StorageError                1   results cannot be written or read
    ├── NoValidTrialError           1   a search that ended without one valid trial
    ├── ClusterError                3   the cluster, or Ray, did not do its part
    └── StoppedError                4   stopped by the user; the best so far is saved
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from raycompress.text import printable


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong, where it stands, and how to mend it.

    Attributes
    ----------
    what
        The mistake in one line.
    where
        File, line and path inside the file, e.g. ``exp.json:8  compression.compressor``; may be empty.
    fix
        What to write or do instead; may be empty.
    """

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        lines = [f"error: {printable(self.what)}"]
        if self.where:
            lines.append(f" where: {printable(self.where)}")
        if self.fix:
            lines.append(f"   fix: {printable(self.fix, lines=True)}")
        return "\n".join(lines)


class RaycompressError(Exception):
    """The root of all errors of raycompress.

    Parameters
    ----------
    what, where, fix
        As in `Problem`.
    """

    exit_code = 1
    record: Any = None
    """The `SearchRecord` of a search that ended with this error, where `raycompress.launch` raised it."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.problems: tuple[Problem, ...] = (Problem(what, where, fix),)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Gather several mistakes into one error; `problems` must not be empty."""
        error = cls(problems[0].what)
        error.problems = tuple(problems)
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self).of, (self.problems,)


class ExperimentError(RaycompressError):
    """Mistakes in an experiment file."""

    exit_code = 2


class UsageError(RaycompressError):
    """Mistakes in the arguments of a command or a call."""

    exit_code = 2


class MissingDependencyError(RaycompressError):
    """A library that an extra installs is not there."""

    exit_code = 2


class PluginError(RaycompressError):
    """A plug-in that cannot be loaded, that is not what it must be, or whose name is taken."""

    exit_code = 2


class ScriptError(RaycompressError):
    """The user's script cannot be run as it is."""


class ResultError(ScriptError):
    """The script reported something that is no result."""


class CompressionError(RaycompressError):
    """A compression that did not, or could not, happen."""


class SpeedupError(CompressionError):
    """The sliced model does not equal the masked one, or is no smaller."""


class BudgetError(CompressionError):
    """The compressed model would be larger than the experiment allows."""


class DeploymentError(RaycompressError):
    """A model that a target's runtime cannot convert, run or time, or that computes something else in it."""


class BundleError(RaycompressError):
    """A bundle that is broken, foreign or does not fit the model."""


class StorageError(RaycompressError):
    """Results cannot be written or read."""


class NoValidTrialError(RaycompressError):
    """A search ended without one valid trial."""


class ClusterError(RaycompressError):
    """The cluster, or Ray, did not do its part."""

    exit_code = 3


class StoppedError(RaycompressError):
    """Stopped by the user; the best so far is saved."""

    exit_code = 4
