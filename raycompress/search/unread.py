"""Hyperparameters of an experiment that its script never reads: the search spends a dimension on each for nothing."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from raycompress.config.experiment import Experiment
from raycompress.runtime.preload import local_files


def unread_notes(experiment: Experiment, reads: Sequence[str] | None) -> list[str]:
    """Return a note for each hyperparameter that the script cannot read, since its files nowhere name it.

    Parameters
    ----------
    reads
        The keys of its configuration that the script has read up to its first batch; None where that is not known.
    """
    names = [parameter["name"] for parameter in experiment.parameter_config]
    unread = [name for name in unnamed(experiment, names) if name not in (reads or ())]
    known = {*names, "compressor", "config_list", "arguments", "save_model", "folder_name"}
    others = [name for name in reads or () if name not in known]
    return [_note(experiment, name, others) for name in unread]


def _note(experiment: Experiment, name: str, others: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.5) or [one for one in others if len(others) == 1]
    meant = f'; it reads "{near[0]}"' if near else ""
    return (
        f'"{name}": never read by {experiment.script_path.name}{meant}; the search spends a dimension of '
        "parameter_config on it"
    )


def unnamed(experiment: Experiment, names: Sequence[str]) -> list[str]:
    """Return which of `names` neither the script nor a local module that it imports has in a form that could read it.

    That is as a text, an attribute, a parameter of a function or part of a text that is put together; the name of a
    keyword, as in ``Adam(lr=0.1)``, and of a variable is none.
    """
    if not names:
        return []
    found: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for file in local_files(experiment.script_path, experiment.workingdir):
        tree = _parsed(file)
        if tree is None:
            return []
        for text, is_pattern in _mentions(tree):
            if is_pattern:
                patterns.append(re.compile(text))
            else:
                found.add(text)
    return [name for name in names if name not in found and not any(one.fullmatch(name) for one in patterns)]


def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError):  # told, with its line, when the script runs
        return None


def _mentions(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield (text, False) for what can name a key of a configuration, (pattern, True) for texts put together."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                yield text, False
                yield from ((option, False) for option in _of_option(text))
                if re.search(r"%\w|\{", text) and (pattern := _wildcards(re.split(r"%\w|\{[^}]*\}", text))):
                    yield pattern, True
            case ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, False
            case ast.JoinedStr(values=parts):
                fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                if any(fixed):
                    yield "".join(".*" if text is None else re.escape(str(text)) for text in fixed), True
            case ast.BinOp(op=ast.Add(), left=ast.Constant(value=str(text))) if text:
                yield f"{re.escape(text)}.*", True
            case ast.BinOp(op=ast.Add(), right=ast.Constant(value=str(text))) if text:
                yield f".*{re.escape(text)}", True
            case _:
                continue


def _of_option(text: str) -> list[str]:
    """Return the attribute that an option of argparse or click is found under: ``--batch-size`` is batch_size."""
    return [text.lstrip("-").replace("-", "_")] if re.fullmatch(r"--?[A-Za-z][\w-]*", text) else []


def _wildcards(parts: Sequence[str]) -> str:
    return ".*".join(map(re.escape, parts)) if any(parts) else ""
