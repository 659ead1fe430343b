"""Finds the environment variables and module folders that a script sets before its imports, by reading it.

Libraries read variables such as HF_HOME, MPLBACKEND or OMP_NUM_THREADS once, when they are imported. The warm process
sets them before it does so. An expression is computed where that needs nothing but paths, texts and other variables.
"""

from __future__ import annotations

import ast
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_LAZY = (
    *("CUDA_", "CUBLAS_", "NCCL_", "PYTORCH_CUDA_", "PYTORCH_ALLOC", "WANDB_", "MLFLOW_", "MASTER_", "TOKENIZERS_"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "PYTHONHASHSEED"),
)
"""Beginnings of variables that are read when they are needed, and not at an import."""

_NODES = (
    *(ast.Expression, ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Attribute, ast.Call, ast.Load),
    *(ast.BinOp, ast.Add, ast.Div, ast.Mod, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Compare, ast.Eq),
    *(ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot, ast.IfExp, ast.Subscript, ast.Tuple, ast.List, ast.Dict),
    *(ast.keyword, ast.USub),
)
_ATTRIBUTES = {
    *("path", "join", "dirname", "abspath", "realpath", "expanduser", "basename", "normpath", "exists", "isdir"),
    *("environ", "get", "getenv", "getcwd", "sep", "pathsep", "cpu_count"),
    *("Path", "parent", "parents", "resolve", "absolute", "home", "cwd", "joinpath", "as_posix", "name", "stem"),
    *("format", "strip", "lower", "upper", "replace"),
}


@dataclass(frozen=True)
class Setting:
    """A variable that a script sets, or a folder that it adds to ``sys.path``.

    Attributes
    ----------
    name
        The variable; ``sys.path`` for a folder.
    value
        Its value; None removes the variable.
    is_default
        Whether it is set only where it is not set yet.
    is_known
        Whether the value could be computed.
    """

    name: str
    value: str | None = None
    is_default: bool = False
    is_known: bool = True

    @property
    def decides_imports(self) -> bool:
        """Whether libraries may read it when they are imported."""
        return not self.name.startswith(_LAZY)


class UnknownError(Exception):
    """An expression cannot be computed without running the script."""


class Environment:
    """Reads the statements of one file, in their order.

    Parameters
    ----------
    file
        The file; what ``__file__`` is in it.
    workingdir
        Where the script runs.
    body
        All statements of its module level.
    functions
        Those of the files that were read before, by name; this file's are added.
    """

    def __init__(
        self, file: Path, workingdir: Path, body: Sequence[ast.stmt], functions: dict[str, ast.FunctionDef]
    ) -> None:
        self._variables = dict(os.environ)
        self._functions = functions
        functions.update({node.name: node for node in body if isinstance(node, ast.FunctionDef)})
        place = SimpleNamespace(
            path=os.path,
            environ=self._variables,
            getenv=self._variables.get,
            getcwd=lambda: str(workingdir),
            cpu_count=os.cpu_count,
            sep=os.sep,
            pathsep=os.pathsep,
        )
        self._names: dict[str, Any] = {
            **{"os": place, "environ": self._variables, "getenv": place.getenv, "pathlib": pathlib, "Path": Path},
            **{"str": str, "int": int, "len": len, "__file__": str(file)},
        }
        self._workingdir = workingdir

    def settings(self, node: ast.stmt) -> Iterator[Setting]:
        """Yield what a statement sets, those within it included."""
        for setting in self._of(node):
            if setting.is_known and setting.name != "sys.path":
                if setting.value is None:
                    self._variables.pop(setting.name, None)
                elif not (setting.is_default and setting.name in self._variables):
                    self._variables[setting.name] = setting.value
            yield setting

    def _of(self, node: ast.stmt) -> Iterator[Setting]:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from self._assigned(target, value)
            case ast.AugAssign(target=target, value=value) if _is_environ(target):
                yield from self._updated([value], [])
            case ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Subscript) and _is_environ(target.value):
                        yield self._set(target.slice, None)
            case ast.Expr(value=ast.Call() as call):
                yield from self._called(call)
            case ast.If(test=test, body=body, orelse=orelse):
                yield from self._branch(test, body, orelse)
            case ast.For(target=ast.Name(id=name), iter=values, body=body):
                yield from self._loop(name, values, body)
            case ast.Try(body=body, orelse=orelse, finalbody=last):
                yield from self._all([*body, *orelse, *last])
            case ast.With(body=body):
                yield from self._all(body)
            case _:
                return

    def _all(self, body: Iterable[ast.stmt]) -> Iterator[Setting]:
        for node in body:
            yield from self.settings(node)

    def _assigned(self, target: ast.expr, value: ast.expr) -> Iterator[Setting]:
        if isinstance(target, ast.Subscript) and _is_environ(target.value):
            yield self._set(target.slice, value)
        elif isinstance(target, ast.Name):
            try:
                self._names[target.id] = self._computed(value)
            except UnknownError:
                self._names.pop(target.id, None)

    def _called(self, call: ast.Call) -> Iterator[Setting]:
        match call:
            case ast.Call(func=ast.Attribute(attr=method, value=owner), args=arguments) if _is_environ(owner):
                if method == "update":
                    yield from self._updated(arguments, call.keywords)
                elif method == "setdefault" and len(arguments) == 2:
                    yield self._set(arguments[0], arguments[1], is_default=True)
                elif method == "pop" and arguments:
                    yield self._set(arguments[0], None)
            case ast.Call(func=ast.Attribute(attr="putenv") | ast.Name(id="putenv"), args=[name, value]):
                yield self._set(name, value)
            case ast.Call(func=ast.Attribute(attr="insert" | "append" | "extend", value=owner), args=arguments):
                if ast.unparse(owner) == "sys.path" and arguments:
                    yield from self._folders(arguments[-1])
            case ast.Call(func=ast.Attribute(attr="load_dotenv") | ast.Name(id="load_dotenv")):
                yield Setting(".env", is_known=False)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in self._functions:
                yield from self._all(self._functions.pop(name).body)  # once, however it calls itself
            case _:
                return

    def _branch(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> Iterator[Setting]:
        try:
            yield from self._all(body if self._computed(test) else orelse)
        except UnknownError:
            for setting in self._all([*body, *orelse]):
                yield Setting(setting.name, is_known=setting.name == "sys.path" and setting.is_known)

    def _loop(self, name: str, values: ast.expr, body: list[ast.stmt]) -> Iterator[Setting]:
        try:
            found = list(self._computed(values))
        except (UnknownError, TypeError):
            found = []
        for value in found:
            self._names[name] = value
            yield from self._all(body)

    def _updated(self, mappings: Sequence[ast.expr], keywords: Sequence[ast.keyword]) -> Iterator[Setting]:
        for keyword in keywords:
            if keyword.arg is not None:
                yield self._set(ast.Constant(keyword.arg), keyword.value)
        for mapping in mappings:
            if isinstance(mapping, ast.Dict):
                for key, value in zip(mapping.keys, mapping.values, strict=True):
                    yield Setting("**", is_known=False) if key is None else self._set(key, value)
                continue
            try:
                found = self._computed(mapping)
            except UnknownError:
                found = None
            if isinstance(found, Mapping):
                yield from (Setting(str(key), str(value)) for key, value in found.items())
            else:
                yield Setting(ast.unparse(mapping), is_known=False)

    def _folders(self, argument: ast.expr) -> Iterator[Setting]:
        with_folders: Any
        try:
            with_folders = self._computed(argument)
        except UnknownError:
            return  # a module that is found there is not found now, and left to the trial
        for folder in with_folders if isinstance(with_folders, list | tuple) else [with_folders]:
            yield Setting("sys.path", str(self._workingdir / str(folder)))

    def _set(self, name: ast.expr, value: ast.expr | None, *, is_default: bool = False) -> Setting:
        try:
            key = str(self._computed(name))
        except UnknownError:
            return Setting(ast.unparse(name), is_known=False)
        if value is None:
            return Setting(key)
        try:
            return Setting(key, str(self._computed(value)), is_default)
        except UnknownError:
            return Setting(key, is_known=False)

    def _computed(self, node: ast.expr) -> Any:
        """Return the value of an expression that reads nothing but names, paths and variables.

        Raises
        ------
        UnknownError
            It needs more than that.
        """
        for part in ast.walk(node):
            known = isinstance(part, _NODES)
            if isinstance(part, ast.Name):
                known = part.id in self._names
            elif isinstance(part, ast.Attribute):
                known = part.attr in _ATTRIBUTES
            if not known:
                raise UnknownError
        try:
            code = compile(ast.fix_missing_locations(ast.Expression(node)), "<environment>", "eval")
            return eval(code, {"__builtins__": {}}, self._names)
        except Exception as error:
            raise UnknownError from error


def _is_environ(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] == "environ"
