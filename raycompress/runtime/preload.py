"""Finds the modules that a script will import, by reading it, never by running it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from raycompress.runtime.environment import Environment, Setting
from raycompress.runtime.protocol import Import
from raycompress.script import aup
from raycompress.script.packages import place_of

# framework -> what a compression with it imports late, inside functions; torch's first optimizer imports torch._dynamo
_LATE = {
    "torch": (
        "raycompress.script.entry",
        "raycompress.compressors.create",
        "raycompress.bundle.bundle",
        "torch_pruning",
        "safetensors.torch",
        "torch.utils.serialization.config",
        "torch._dynamo",
    ),
    # TensorFlow itself comes with the script's keras; it starts its threads with its first operation, not before
    "tensorflow": (
        "raycompress.script.entry",
        "raycompress.compressors.create",
        "raycompress.compressors.keras.modes",
        "raycompress.bundle.bundle",
        "safetensors.numpy",
    ),
}

_TENSORFLOW = {"tensorflow", "keras", "tf_keras"}
_TRITON = Import("triton", required=False)
"""Comes with torch's builds for GPUs. Importing it after TensorFlow crashes the process, before it does not."""

# these start threads or processes when imported, or know their own process: a forked copy would not work
_NEVER = ("ray", "__main__", "__future__")


def imports_home(script: Path, module: str = "") -> Path:
    """Return the folder that a script's imports start from; see `raycompress.script.packages.place_of`."""
    return _place_of(script, module)[0]


def _place_of(script: Path, module: str) -> tuple[Path, str]:
    try:
        return place_of(script, script.read_bytes(), module)
    except OSError:  # told when the script runs
        return script.parent, ""


def find_imports(
    script: Path, workingdir: Path, engine: str = "", framework: str = "torch", module: str = ""
) -> tuple[Import, ...]:
    """Return what to import before the script is forked, in the order in which the script would.

    Those are the imports at module level of the script and, since it may change from trial to trial, not its local
    modules themselves but what they import. Under ``try`` and ``if`` an import may fail; what only a type checker
    reads, and what stands in a function or an ``except``, is left out. Between them stand the environment variables
    that the script sets; where only running it tells their values, what comes after is left out.

    Parameters
    ----------
    script
        The script; one that is missing or no Python has no imports.
    workingdir
        Local modules lie beside the script or in here.
    engine
        The module of the compressor's engine, which the script will load too; empty for none.
    framework
        The compressor's: ``torch`` or ``tensorflow``.
    module
        The script's name as a module, where it is run as one.
    """
    home, package = _place_of(script, module)
    found = list(_Reader((home, workingdir)).read(script, required=True, package=package))
    last = max((place for place, item in enumerate(found) if item.module), default=-1)
    found = [item for place, item in enumerate(found) if place < last or not item.unknown]
    ends = [place for place, item in enumerate(found) if item.unknown]
    if ends:
        return tuple(dict.fromkeys(found[: ends[0] + 1]))
    if engine:
        # an engine's module is light until its own library is needed
        found.append(Import(engine, call="load_library"))
    modules = {item.module for item in found if item.module}
    tops = {module.partition(".")[0] for module in modules}
    if framework in tops or aup.__name__ in modules or engine:
        found += [Import(module, required=False) for module in _LATE[framework]]
    tops = {item.module.partition(".")[0] for item in found}
    if "torch" in tops and tops & _TENSORFLOW:
        found.insert(0, _TRITON)
    return tuple(dict.fromkeys(found))


def environment_notes(imports: Sequence[Import]) -> Iterator[str]:
    """Yield a note where imports are left to the trials, since what is set before them is not known."""
    for item in imports:
        if item.unknown:
            yield (
                f"{item.where}: {', '.join(item.unknown)} is set to what is known only when the script runs, so that "
                "each trial imports what the script imports after that; a plain text as its value makes trials start "
                "faster"
            )


def prescript_notes(prescript: str) -> Iterator[str]:
    """Yield a note where shell commands before the script export what a library may read when it is imported."""
    names = dict.fromkeys(re.findall(r"\bexport\s+(\w+)=", prescript))
    early = [name for name in names if name not in ("PATH", "PYTHONPATH") and Setting(name).decides_imports]
    if early:
        yield (
            f"runtime_args.prescript exports {', '.join(early)} when the script's libraries are imported already: one "
            "that reads it then does not see it; what stands in runtime_args.env is set before"
        )


def local_files(script: Path, workingdir: Path, module: str = "") -> list[Path]:
    """Return the script and the modules of the user's own that it imports at module level."""
    home, package = _place_of(script, module)
    reader = _Reader((home, workingdir))
    for _ in reader.read(script, required=True, package=package):
        pass
    return sorted(reader.files)


def code_hash(script: Path, workingdir: Path, module: str = "") -> str:
    """Return what the script and the modules of its own are known by: it changes with any of them."""
    known = hashlib.sha256()
    for file in local_files(script, workingdir, module):
        with contextlib.suppress(OSError):  # told when the script runs
            known.update(file.name.encode() + b"\0" + file.read_bytes())
    return known.hexdigest()[:16]


class _Reader:
    """Reads files for their imports, each file once."""

    def __init__(self, homes: Sequence[Path]) -> None:
        self._homes = tuple(dict.fromkeys(home.resolve() for home in homes))
        self._workingdir = homes[-1]
        self._functions: dict[str, ast.FunctionDef] = {}
        self.files: set[Path] = set()

    def read(self, file: Path, *, required: bool, package: str = "") -> Iterator[Import]:
        """Yield the imports of `file`, a member of `package`; of local modules, theirs instead."""
        if file in self.files:
            return
        self.files.add(file)
        try:
            tree = ast.parse(file.read_bytes(), str(file))
        except (OSError, SyntaxError, ValueError):  # told, with its line, when the script runs
            return
        environment = Environment(file, self._workingdir, tree.body, self._functions)
        for node in tree.body:
            where = f"{file.name}:{node.lineno}"
            yield from self._set(environment.settings(node), where)
            for statement, always in _statements([node], required):
                where = f"{file.name}:{statement.lineno}"
                for module, names in _modules(statement, package):
                    yield from self._follow(Import(module, names, always, where))

    def _set(self, settings: Iterable[Setting], where: str) -> Iterator[Import]:
        for setting in settings:
            if setting.name == "sys.path":
                if setting.value is not None:
                    self._homes = tuple(dict.fromkeys([*self._homes, Path(setting.value).resolve()]))
            elif setting.is_known:
                env = (setting.name, setting.value, *(["default"] if setting.is_default else []))
                yield Import("", required=False, where=where, env=env)
            elif setting.decides_imports:
                yield Import("", required=False, where=where, unknown=(setting.name,))

    def _follow(self, item: Import) -> Iterator[Import]:
        parts = item.module.split(".")
        if parts[0] in _NEVER:
            return
        if parts[0] == "aup":  # in a trial it is ours, whatever else goes by that name
            asked = (item.module, *(f"{item.module}.{name}" for name in item.names))
            behind = dict.fromkeys(module for name in asked for module in aup.modules_behind(name))
            yield from (Import(module, required=False) for module in behind)
            return
        if parts[0] == "raycompress" or not self._is_local(parts[0]):
            yield item
            return
        modules = [parts[: i + 1] for i in range(len(parts))] + [[*parts, name] for name in item.names]
        for module in modules:
            for home in self._homes:
                base = home.joinpath(*module)
                for file, package in ((base / "__init__.py", module), (base.with_suffix(".py"), module[:-1])):
                    if file.is_file():
                        yield from self.read(file, required=item.required, package=".".join(package))

    def _is_local(self, name: str) -> bool:
        if name in sys.stdlib_module_names:
            return False
        bases = [home / name for home in self._homes]
        if any((base / "__init__.py").is_file() or base.with_suffix(".py").is_file() for base in bases):
            return True
        # a folder without __init__.py gives way to any installed module of that name
        return any(base.is_dir() for base in bases) and PathFinder.find_spec(name) is None


def _statements(body: Sequence[ast.stmt], always: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the import statements that run when a module is imported, and whether they always do."""
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node, always
            case ast.If():
                if not _is_type_checking(node.test):
                    yield from _statements(node.body, False)
                yield from _statements(node.orelse, False)
            case ast.Try():
                yield from _statements([*node.body, *node.orelse, *node.finalbody], False)
            case ast.With() | ast.ClassDef():
                yield from _statements(node.body, always)
            case ast.For() | ast.While():
                yield from _statements(node.body, False)
            case _:
                continue


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _modules(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the full module names of `statement`, with what it asks of them."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name, ()
        return
    names = tuple(alias.name for alias in statement.names if alias.name != "*")
    if statement.level == 0:
        yield statement.module or "", names
        return
    above = package.split(".") if package else []
    above = above[: len(above) - statement.level + 1]
    module = ".".join([*above, *([statement.module] if statement.module else [])])
    if module:
        yield module, names
