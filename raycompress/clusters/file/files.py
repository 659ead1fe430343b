"""Cluster files: finds them by path or name, reads them, and reports every static mistake at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raycompress.clusters.file import schema, security
from raycompress.clusters.file.schema import Keys, Mistake
from raycompress.errors import ClusterError, Problem
from raycompress.text import did_you_mean, dotted, join_names


@dataclass(frozen=True)
class ClusterFile:
    """A Ray cluster file, read and checked.

    Attributes
    ----------
    path
        Where it lies.
    data
        What it says, as plain dicts and lists.
    """

    path: Path
    data: dict[str, Any]
    _root: yaml.Node | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The ``cluster_name``."""
        return str(self.data["cluster_name"])

    @property
    def provider(self) -> str:
        """The ``provider.type``, such as ``aws`` or ``local``."""
        return str(self.data["provider"]["type"])

    def where(self, *keys: str | int) -> str:
        """Return ``aws.yaml:12  auth.ssh_user`` for the value at `keys`, or for the nearest that there is."""
        node, line = self._root, 1
        for key in keys:
            step = _step(node, key)
            if step is None:
                break
            line, node = step
        return f"{self.path.name}:{line}" + (f"  {dotted(keys)}" if keys else "")


def _step(node: yaml.Node | None, key: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return name.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line + 1, node.value[key]
    return None


def shipped() -> dict[str, Path]:
    """Return the cluster files that come with raycompress, by name."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "shipped" / "cluster", package.parent / "cluster"):
        if folder.is_dir():
            return {path.name: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find(reference: str | Path) -> Path:
    """Return the cluster file that `reference` means: a path, else the name of a shipped file.

    Raises
    ------
    ClusterError
        There is none.
    """
    path = Path(reference).expanduser()
    return path if path.is_file() else find_shipped(reference)


def find_shipped(reference: str | Path) -> Path:
    """Return the shipped cluster file that is called `reference`, with ``.yaml`` or without.

    Raises
    ------
    ClusterError
        There is none.
    """
    known = shipped()
    for name in (str(reference), f"{reference}.yaml"):
        if name in known:
            return known[name]
    path = Path(reference).expanduser()
    meant = did_you_mean(path.name, [*known, *(name.removesuffix(".yaml") for name in known)])
    raise ClusterError(
        f'no cluster file "{reference}"',
        where=str(path.absolute().parent),
        fix=f"{meant} " * bool(meant) + f"give a path, or the name of a shipped file: {join_names(known)}",
    )


def load(path: Path) -> ClusterFile:
    """Read the cluster file at `path`.

    Raises
    ------
    ClusterError
        With every mistake that can be seen without a network, all at once.
    """
    cluster = _read(path)
    mistakes = [*_repeated(cluster._root), *schema.mistakes(cluster.data)]
    # what is no cluster file at all is not looked at further
    if not any(mistake.keys == () for mistake in mistakes):
        mistakes += security.mistakes(cluster.data)
    if mistakes:
        problems = [Problem(each.what, cluster.where(*each.keys), each.fix) for each in mistakes]
        raise ClusterError.of(problems)
    return cluster


def _read(path: Path) -> ClusterFile:
    try:
        text = path.read_text(encoding="utf-8")
        root, data = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"the cluster file cannot be read: {error}", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ClusterError(
            f"the cluster file is no YAML: {what}",
            where=f"{path.name}{line}",
            fix="look at the indentation there, and put texts with a colon or a # in quotes",
        ) from error
    except (RecursionError, ValueError) as error:
        raise ClusterError(f"the cluster file cannot be read: {error}", where=path.name) from error
    if not isinstance(data, dict):
        raise ClusterError(
            "this is no cluster file: it holds no keys", where=path.name, fix="`raycompress cluster init`"
        )
    if str(data.get("apiVersion", "")).startswith("ray.io/"):
        raise ClusterError(
            "this file is for KubeRay, and Ray's cluster launcher does not take it",
            where=path.name,
            fix=f"kubectl apply -f {path}; a cluster that runs is named by its address: --cluster http://127.0.0.1:8265",
        )
    return ClusterFile(path, data, root)


def _repeated(node: yaml.Node | None, path: Keys = ()) -> list[Mistake]:
    """Find keys that stand twice in one object: YAML takes the last and says nothing."""
    found: list[Mistake] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            # merge keys (<<) may be repeated
            if not isinstance(key.value, str) or key.value == "<<":
                continue
            here = (*path, key.value)
            if key.value in seen:
                found.append(Mistake(here, f'"{key.value}" stands here twice', "keep one of them"))
            seen.add(key.value)
            found += _repeated(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found += _repeated(value, (*path, index))
    return found
