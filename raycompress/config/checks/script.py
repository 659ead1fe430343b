"""Checks of the script that an experiment names: it is there, and it is Python."""

from __future__ import annotations

import ast
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from raycompress.config.places import Files, is_file, is_folder
from raycompress.errors import Problem
from raycompress.text import did_you_mean

_DATA = (".json", ".jsonc", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".txt", ".md", ".csv")
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh", "fish", "csh")


def check_script(files: Files, where: str) -> Iterator[Problem]:
    """Yield what is wrong with the script; nothing is imported or run.

    Parameters
    ----------
    where
        The place of the key in the experiment file.
    """
    script = files.script
    if is_folder(script):
        yield Problem(f"the script is a folder: {script}", where, _in_folder(script, files.workingdir))
    elif not is_file(script):
        what = (
            f"there is no module {files.module} in {files.workingdir}"
            if files.module
            else f"there is no script {script}"
        )
        yield Problem(what, where, _of_command(files) or _other_script(files))
    elif found := _no_script(script, where):
        yield found
    else:
        yield from _check_python(script, where)


def _in_folder(folder: Path, workingdir: Path) -> str:
    if is_file(folder / "__main__.py") and folder.is_relative_to(workingdir):
        return f'write "script": "-m {".".join(folder.relative_to(workingdir).parts)}"'
    return "write a file in it"


def _other_script(files: Files) -> str:
    script = files.script
    slashed = Path(str(script).replace("\\", "/"))
    if slashed != script and is_file(slashed):
        return f'write "script": {json.dumps(str(slashed.relative_to(files.workingdir)))}'
    if files.module:
        return "write a module as `python -m` takes it, run in workingdir"
    beside = [file.name for file in script.parent.glob("*.py")] if is_folder(script.parent) else []
    return did_you_mean(script.name, beside) or "write its path, relative to workingdir"


def _of_command(files: Files) -> str:
    """Return what to write for a command that starts a script: ``python train.py``, ``torchrun train.py``."""
    words = [files.script.name, *files.script_args]
    is_command = "=" in words[0] or shutil.which(words[0]) is not None or words[0] in ("accelerate", "torchrun")
    if files.module or not is_command:
        return ""
    for place, word in enumerate(words[1:], 1):
        if word.endswith(".py") and is_file(files.workingdir / word):
            return f'write "script": {json.dumps(" ".join(words[place:]))}; trials are started by raycompress'
        if word == "-m" and place + 1 < len(words):
            return f'write "script": {json.dumps(" ".join(words[place:]))}; trials are started by raycompress'
    return "write the Python script that the command starts, and its arguments"


def _no_script(script: Path, where: str) -> Problem | None:
    """Return that a file holds something other than a script, if its name or its beginning says so."""
    if script.suffix == ".ipynb":
        fix = f'`jupyter nbconvert --to script {script.name}` makes a script of it; write "script": "{script.stem}.py"'
        return Problem(f"{script.name} is a notebook, not a script", where, fix)
    if script.suffix in _DATA:
        return Problem(f"{script.name} is no Python script", where, _beside(script))
    try:
        with script.open("rb") as file:
            first = file.readline(200).decode(errors="replace").strip()
    except OSError:  # told by whoever reads all of it
        return None
    shell = first.removeprefix("#!").rpartition("/")[2].split(" ")
    if script.suffix == ".sh" or (first.startswith("#!") and {*shell} & {*_SHELLS}):
        fix = 'write the Python script that it starts; what it sets up before is for "runtime_args": {"prescript": ...}'
        return Problem(f"{script.name} is a script of the shell, not of Python", where, fix)
    return None


def _beside(script: Path) -> str:
    beside = [file.name for file in script.parent.glob("*.py") if file != script]
    return did_you_mean(script.name, beside) or "write a Python script"


def _check_python(script: Path, where: str) -> Iterator[Problem]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the script's own, such as an invalid escape: its run tells them
            tree = ast.parse(script.read_bytes(), filename=str(script))
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        excerpt = f": {error.text.strip()[:60]}" if error.text else ""
        yield Problem(f"the script is no Python: {error.msg}", f"{script}{line}{excerpt}", "mend this line")
    except ValueError as error:
        yield Problem(f"the script is no Python: {error}", str(script), "write the path of a Python file")
    except OSError as error:
        yield Problem(
            f"the script cannot be read: {error.strerror}", where, f"give yourself the right to read {script}"
        )
    else:
        match tree.body:
            case [ast.Expr(value=ast.Dict() | ast.List())]:  # JSON is a Python expression, and runs as one
                yield Problem(f"{script.name} holds data and no statement", where, _beside(script))
