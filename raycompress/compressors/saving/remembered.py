"""Scripts that report the best number of their epochs, while the weights are those of the last one.

``best = max(best, accuracy)`` in the loop and ``report(accuracy=best)`` after it: which number is remembered is read
off the script's text, what it and the last one are off the frame that holds them, and whether the weights have been
put back since off the norms of the weights. Only where all three say so is there a finding.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from raycompress.compressors.saving.evaluated import EvaluatedWeights
from raycompress.compressors.saving.witness import Stale

_PACKAGE = f"{Path(__file__).resolve().parents[2]}/"
_REPORTS = ("report", "print_result")


@dataclass(frozen=True)
class _Pair:
    """A number that keeps the best of what another one was in turn, both as expressions."""

    best: ast.expr
    last: ast.expr


class RememberedNumbers:
    """Knows whether the number of a report is one that the model had before its weights changed.

    Parameters
    ----------
    weights
        Those that the saved model had at its evaluations.
    """

    def __init__(self, weights: EvaluatedWeights) -> None:
        self._weights = weights
        self._frame: FrameType | None = None  # of a function that returns what it remembers: its locals are needed

    def add_evaluation(self, frame: FrameType | None) -> None:
        """Note that the model was evaluated with weights that it had not before, by a call in `frame`."""
        self._frame = next((one for one in _frames(frame) if _returns(one.f_code)), None)

    def add_call(self, frame: FrameType | None) -> None:
        """Note that it was evaluated with the weights of the evaluation before."""
        if self._frame is not None and not any(one is self._frame for one in _frames(frame)):
            self._frame = None  # that function has returned, and what is reported is this one's

    def stale(self, value: float, frame: FrameType | None) -> Stale | None:
        """Return what is wrong where `value`, reported by a call in `frame`, is the number of earlier weights."""
        found = self._in_function(value, frame) or self._returned(value, frame)
        return found if found and self._weights.is_last() else None

    def _in_function(self, value: float, frame: FrameType | None) -> Stale | None:
        """Look at the function that reports."""
        caller = next(_frames(frame), None)
        given = None if caller is None else _reported(caller.f_code, caller.f_lineno)
        if caller is None or given is None:
            return None
        inside = [ast.unparse(one) for one in ast.walk(given)]
        for pair in _pairs_of(caller.f_code):
            if ast.unparse(pair.best) in inside and (found := _differing(pair, value, caller)):
                return found
        return None

    def _returned(self, value: float, frame: FrameType | None) -> Stale | None:
        """Look at the function that evaluated last, where it has returned what it remembers."""
        if self._frame is None or any(one is self._frame for one in _frames(frame)):
            return None
        for pair in _pairs_of(self._frame.f_code):
            if found := _differing(pair, value, self._frame):
                return found
        return None


def _differing(pair: _Pair, value: float, frame: FrameType) -> Stale | None:
    best, last = _value(pair.best, frame), _value(pair.last, frame)
    if best is None or last is None or best == last or not _is_close(best, value):
        return None
    return Stale(ast.unparse(pair.best), best, ast.unparse(pair.last), last)


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-3 * max(abs(one), abs(other))  # it may have been rounded


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames from `frame` outwards that are of the script, or of what it imports, and not of ours."""
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            yield frame
        frame = frame.f_back


@functools.lru_cache(maxsize=64)
def _tree(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def _scope(code: CodeType) -> tuple[ast.AST, ...]:
    """Return the nodes of the function, or the module, that `code` was compiled from, without those inside it."""
    if "site-packages" in code.co_filename or (tree := _tree(code.co_filename)) is None:
        return ()
    root: ast.AST | None = tree
    if code.co_name != "<module>":
        functions = (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
        lines = {min([one.lineno, *(each.lineno for each in one.decorator_list)]): one for one in functions}
        root = lines.get(code.co_firstlineno)
    return tuple(_inside(root)) if root is not None else ()


def _inside(root: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(root):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from _inside(child)


@functools.lru_cache(maxsize=1024)
def _pairs_of(code: CodeType) -> tuple[_Pair, ...]:
    """Return the numbers that a function remembers: ``b = max(b, a)``, ``if a > b: b = a``, ``max(numbers)``."""
    found: list[_Pair] = []
    for node in _scope(code):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            found += _of_assignment(node.targets[0], node.value)
        elif isinstance(node, ast.If):
            compared = [ast.unparse(one) for test in _compares(node.test) for one in (test.left, *test.comparators)]
            for best, last in _assigned(node.body):
                if ast.unparse(best) in compared and ast.unparse(last) in compared:
                    found.append(_Pair(best, last))
        elif isinstance(node, ast.Call) and _called(node) in _REPORTS:
            found += _extremes(node)
    return tuple(found)


def _of_assignment(target: ast.expr, value: ast.expr) -> Iterator[_Pair]:
    best = ast.unparse(target)
    if isinstance(value, ast.IfExp):
        yield from _of_assignment(target, value.body)
        yield from _of_assignment(target, value.orelse)
        compared = [ast.unparse(one) for test in _compares(value.test) for one in (test.left, *test.comparators)]
        chosen = [one for one in (value.body, value.orelse) if ast.unparse(one) != best]
        if best in compared and len(chosen) == 1 and ast.unparse(chosen[0]) in compared:
            yield _Pair(target, chosen[0])
    elif isinstance(value, ast.Call) and _called(value) in ("max", "min") and len(value.args) == 2:
        names = [ast.unparse(one) for one in value.args]
        if best in names:
            yield _Pair(target, value.args[1 - names.index(best)])
    yield from (_Pair(target, one.last) for one in _extremes(value))


@functools.lru_cache(maxsize=1024)
def _returns(code: CodeType) -> bool:
    """Tell whether a function returns one of the numbers that it remembers, alone or among others."""
    best = {ast.unparse(pair.best) for pair in _pairs_of(code)}
    returned = [node.value for node in _scope(code) if isinstance(node, ast.Return) and node.value is not None]
    return any(isinstance(one, ast.expr) and ast.unparse(one) in best for node in returned for one in ast.walk(node))


def _compares(test: ast.expr) -> list[ast.Compare]:
    return [one for one in ast.walk(test) if isinstance(one, ast.Compare)]


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=False)
            else:
                yield target, value


def _extremes(value: ast.expr) -> Iterator[_Pair]:
    """Yield each ``max(numbers)`` in an expression; the last one is the last of the list."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and _called(node) in ("max", "min") and len(node.args) == 1:
            last = ast.Subscript(node.args[0], ast.UnaryOp(ast.USub(), ast.Constant(1)), ast.Load())
            yield _Pair(node, ast.fix_missing_locations(last))


def _called(node: ast.expr) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _reported(code: CodeType, line: int) -> ast.expr | None:
    """Return the first number of the report that a function makes in a line."""
    for node in _scope(code):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or 0) and _called(node) in _REPORTS:
            given = [*node.args, *(one.value for one in node.keywords)]
            first = given[0] if given else None
            return first.elts[0] if isinstance(first, ast.List | ast.Tuple) and first.elts else first
    return None


def _value(node: ast.expr, frame: FrameType) -> float | None:
    """Return the number that an expression is in a frame; None for one that would have to call something."""
    try:
        return float(_evaluated(node, frame))
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError):
        return None


def _evaluated(node: ast.expr, frame: FrameType) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return frame.f_locals[name] if name in frame.f_locals else frame.f_globals[name]
        case ast.Attribute(inner, name):
            return vars(_evaluated(inner, frame))[name]
        case ast.UnaryOp(ast.USub(), inner):
            return -_evaluated(inner, frame)
        case ast.Subscript(inner, index):
            holder = _evaluated(inner, frame)
            if not isinstance(holder, dict | list | tuple):
                raise TypeError
            return holder[_evaluated(index, frame)]
        case ast.Call(args=[inner]) if (extreme := _EXTREMES.get(_called(node))) is not None:
            numbers = _evaluated(inner, frame)
            if not isinstance(numbers, list | tuple):
                raise TypeError
            return extreme(float(one) for one in numbers)
        case _:
            raise TypeError


_EXTREMES: dict[str, Callable[..., float]] = {"max": max, "min": min}
