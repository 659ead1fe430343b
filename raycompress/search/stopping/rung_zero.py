"""Rung 0: trials are scored before training and the worst are ended, while those scores predict the final ones."""

from __future__ import annotations

from collections.abc import Mapping

from raycompress.results.ranking import rank_correlation

_ENOUGH = 8
"""Trials that have both scores before any is ended, or the rung switched off."""
_RANKS = 0.3
"""Rank correlation from which on the score before the training says enough of the one after it."""
_AUDITED = 4
"""One of so many that would be ended goes on: otherwise nobody would see what was lost."""


class RungZero:
    """Decides, by the score before training, which trials are trained.

    The first few all do. Of the others those do that are in the best ``1 / eta`` of all that were scored.

    Parameters
    ----------
    eta
        One of so many goes on.
    sign, final_sign
        1 where a larger score before the training, and after it, is better; else -1.
    """

    def __init__(self, eta: int, sign: float, final_sign: float) -> None:
        self._eta, self._sign, self._final_sign = eta, sign, final_sign
        self._scores: dict[int, float] = {}
        self._finals: dict[int, float] = {}
        self._doomed = 0

    @property
    def pairs(self) -> Mapping[int, tuple[float, float]]:
        """Trial -> (score before training, final score), turned so that larger is better."""
        return {number: (self._scores[number], final) for number, final in self._finals.items()}

    @property
    def correlation(self) -> float | None:
        """Rank correlation of both scores; None with fewer than eight trials that have both."""
        return rank_correlation(self.pairs.values()) if len(self._finals) >= _ENOUGH else None

    @property
    def is_off(self) -> bool:
        """Whether the rung has switched itself off."""
        correlation = self.correlation
        return correlation is not None and correlation < _RANKS

    @property
    def note(self) -> str:
        """Note for the user while the rung is off; empty otherwise."""
        if not self.is_off:
            return ""
        return (
            f"rung 0 is off: over {len(self._finals)} trials its scores and those after training have a rank "
            f"correlation of {self.correlation:.2f}, below {_RANKS:g}; trials are trained without it"
        )

    def judge(self, number: int, score: float) -> str:
        """Add the score of a trial before it trains; return why it is to end, or an empty string."""
        self._scores[number] = self._sign * score
        if len(self._finals) < _ENOUGH or self.is_off:
            return ""
        better = sum(other > self._scores[number] for other in self._scores.values())
        if better < len(self._scores) / self._eta:
            return ""
        self._doomed += 1
        if self._doomed % _AUDITED == 0:
            return ""
        return f"before training: not in the best 1/{self._eta} of {len(self._scores)}"

    def end(self, number: int, score: float) -> None:
        """Add the score of a trial that has trained to its end."""
        if number in self._scores:
            self._finals[number] = self._final_sign * score

    def restore(self, number: int, score: float, final: float | None) -> None:
        """Add a trial of an earlier run of the search."""
        self._scores[number] = self._sign * score
        if final is not None:
            self.end(number, final)
