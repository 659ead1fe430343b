"""What a script will call behind the line where it is now, read in the source of the functions that are running."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeGuard

from raycompress.runtime.preload import local_files

NAMED = ("speedup", "update_epoch", "prune_iteration_start")
"""Words of calls without which some compressors do not come to their end."""
_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_DEPTH = 4
_CATCHING = frozenset({"suppress", "raises"})
_ENDING = frozenset({"exit", "_exit", "quit"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Ahead:
    """Calls that a script will make.

    Attributes
    ----------
    speedup
        Where it surely makes the model small, such as ``/home/me/train.py:42``; empty where that is not sure.
    onnx
        Where it surely writes the model as ONNX.
    never
        Which of `NAMED` no file of the script's speaks of, where it keeps the compressor to itself.
    """

    speedup: str = ""
    onnx: str = ""
    never: frozenset[str] = frozenset()


def look_ahead() -> Ahead:
    """Return what the script that called this will call.

    Sure is what stands behind the running line of a function on the stack, under no condition, in no loop and with
    nothing that catches errors around it; and what such a call of a function of the same file leads to.
    """
    frames = list(_script_frames(sys._getframe(1)))
    speedup = onnx = ""
    for frame in frames:
        source = _Source(Path(frame.f_code.co_filename))
        if source.catches(frame.f_lineno):  # what the functions that it called are refused
            speedup = onnx = ""
        for call in source.behind(frame.f_lineno):
            place = f"{source.file}:{call.lineno}"
            keywords = {one.arg: one.value for one in call.keywords}
            if _name(call) == "apply_speedup" or _is_true(keywords.get("speedup")):
                speedup = speedup or place
            if _is_text(keywords.get("onnx_path")):
                onnx = onnx or place
    return Ahead(speedup, onnx, _never_named([_text(file) for file in _files(frames)]) if frames else frozenset())


def _never_named(texts: Sequence[str]) -> frozenset[str]:
    """Return which of `NAMED` no text has; none where a compressor is passed on, to code that may call it."""
    found = [re.findall(r"^\s*(\w+)\s*=[^=\n]*create_compressor", text, re.MULTILINE) for text in texts]
    names = {name for one in found for name in one}
    passed = any(re.search(rf"[(,=]\s*{name}\s*[,)]", text) for name in names for text in texts)
    return frozenset() if passed or not names else frozenset(n for n in NAMED if not any(n in text for text in texts))


def _script_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of the script and of modules of its own, the innermost first."""
    while frame is not None:
        if _is_own(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def _is_own(name: str) -> bool:
    file = Path(name)
    return (
        file.is_absolute()
        and file.is_file()
        and not file.resolve().is_relative_to(_PACKAGE)
        and not any(file.is_relative_to(folder) for folder in _LIBRARIES)
        and not {"site-packages", "dist-packages"} & {*file.parts}
    )


def _files(frames: Sequence[FrameType]) -> set[Path]:
    """Return the files that the script may run: those it runs, those it imports of its own, and what lies beside it."""
    found = {Path(frame.f_code.co_filename) for frame in frames}
    script = Path(frames[-1].f_code.co_filename)
    return found.union(local_files(script, Path.cwd()), script.parent.glob("*.py"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class _Source:
    """One file of the script's."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._tree = ast.parse(file.read_bytes(), str(file))
        except (OSError, SyntaxError, ValueError):
            self._tree = ast.Module([], [])
        self._functions = {node.name: node for node in self._tree.body if isinstance(node, Function)}

    def behind(self, line: int) -> list[ast.Call]:
        """Return the calls that are surely made behind a line, in the function that it is in."""
        found: list[ast.Call] = []
        self._rest(self._function(line).body, line, found)
        return found

    def catches(self, line: int) -> bool:
        """Tell whether a line is where errors are caught, in the function that it is in."""
        return any(
            _catches(node) and _holds(node.body[0], line, node.body[-1]) for node in ast.walk(self._function(line))
        )

    def _function(self, line: int) -> Function | ast.Module:
        inside = [node for node in ast.walk(self._tree) if isinstance(node, Function) and _holds(node, line)]
        return max(inside, key=lambda node: node.lineno) if inside else self._tree

    def _rest(self, body: Sequence[ast.stmt], line: int, found: list[ast.Call]) -> bool:
        """Collect what comes behind a line; return whether what follows `body` is surely reached."""
        place = next((number for number, node in enumerate(body) if _holds(node, line)), None)
        if place is None:
            return True
        node = body[place]
        if _catches(node):  # what follows in it may be caught; what follows it is reached
            return not _may_end(node) and self._sure(body[place + 1 :], found, _DEPTH)
        for block in _blocks(node):
            if any(_holds(one, line) for one in block) and not self._rest(block, line, found):
                return False
        return self._sure(body[place + 1 :], found, _DEPTH)

    def _sure(self, body: Sequence[ast.stmt], found: list[ast.Call], depth: int) -> bool:
        """Collect the calls that statements surely make; return whether what follows them is surely reached."""
        for node in body:
            if isinstance(node, (Function, ast.ClassDef)):
                continue
            if isinstance(node, (ast.With, ast.AsyncWith, ast.Try)) and not _catches(node):
                if not self._sure(node.body, found, depth):
                    return False
            elif isinstance(node, (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.AsyncFor)):
                if _may_end(node):
                    return False
            else:
                self._calls(node, found, depth)
            if isinstance(node, (ast.Return, ast.Raise)) or _ends(node):
                return False
            if isinstance(node, (ast.Break, ast.Continue)):  # what follows the loop is reached
                return True
        return True

    def _calls(self, node: ast.AST, found: list[ast.Call], depth: int) -> None:
        """Collect the calls of an expression that no part of it leaves out."""
        if isinstance(node, (ast.Lambda, ast.IfExp, ast.BoolOp, ast.ListComp, ast.SetComp, ast.DictComp)):
            return
        if isinstance(node, ast.Call):
            found.append(node)
            function = self._functions.get(node.func.id) if isinstance(node.func, ast.Name) else None
            if function is not None and depth:
                self._sure(function.body, found, depth - 1)
        for child in ast.iter_child_nodes(node):
            self._calls(child, found, depth)


def _holds(node: ast.stmt, line: int, last: ast.stmt | None = None) -> bool:
    """Tell whether a line is in a statement, or from it to the last of several."""
    end = node if last is None else last
    return node.lineno <= line <= (end.end_lineno or end.lineno)


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    """Return the blocks of a compound statement, of which a function's or a class's are other scopes."""
    if isinstance(node, (Function, ast.ClassDef)):
        return []
    blocks = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(node, "handlers", ())] + [c.body for c in getattr(node, "cases", ())]
    return [block for block in blocks if isinstance(block, list)]


def _catches(node: ast.AST) -> TypeGuard[ast.With | ast.AsyncWith | ast.Try]:
    """Tell whether errors of the body of a statement are caught, and not raised again."""
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return any(_name(item.context_expr) in _CATCHING for item in node.items)
    return isinstance(node, ast.Try) and not all(
        isinstance(one.body[-1], ast.Raise) or _ends(one.body[-1]) for one in node.handlers
    )


def _name(node: ast.AST) -> str:
    """Return the last name of a call: ``suppress`` of ``contextlib.suppress(...)``."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _ends(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value) in _ENDING


def _may_end(node: ast.AST) -> bool:
    """Tell whether a statement may leave its function, or the script."""
    return any(isinstance(one, (ast.Return, ast.Raise)) or _ends(one) for one in ast.walk(node))


def _is_true(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_text(node: ast.AST | None) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
