"""Ray's cluster files: found by path or by name, read, and every mistake in them told before anything is started."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raycompress.clusters import exposure
from raycompress.errors import ClusterFileError, Problem, UsageError
from raycompress.experiment.words import did_you_mean, dotted, listed, near, said, shown

PROVIDERS = ("aws", "gcp", "local", "azure", "vsphere", "aliyun", "external", "fake_multinode", "readonly", "spark")
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file, as it was written.

    Attributes
    ----------
    path
        Where it is.
    data
        What it says; Ray fills in what it leaves out.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.data["cluster_name"])

    @property
    def provider(self) -> str:
        """Who has the machines: ``aws``, ``gcp``, ``local`` ..."""
        return str(self.data["provider"]["type"])

    def where(self, *keys: str | int) -> str:
        """Return file, line and key, for an error; of a key that is not there, the line of what should hold it."""
        path = keys
        while path and path not in self.lines:
            path = path[:-1]
        line = f":{self.lines[path]}" if path in self.lines else ""
        return f"{self.path}{line}" + (f"  {dotted(keys)}" if keys else "")


def shipped() -> Path:
    """Return the folder of the cluster files that come with raycompress."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped" / "cluster"
    return installed if installed.is_dir() else package.parent / "cluster"


def find(reference: str | Path) -> Path:
    """Return the cluster file that `reference` names: a path, or else one of those that come with raycompress.

    Raises
    ------
    UsageError
        There is none.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    names = sorted(file.name for file in shipped().glob("*.yaml"))
    if len(path.parts) == 1:
        wanted = path.name if path.suffix in _SUFFIXES else f"{path.name}.yaml"
        if wanted in names:
            return shipped() / wanted
    raise UsageError(
        f'no cluster file "{reference}"',
        where=str(path.absolute()),
        fix=did_you_mean(path.name, names) or f"write one (`raycompress cluster init`), or take {listed(names)}",
    )


def load(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises
    ------
    ClusterFileError
        Everything that is wrong with it, at once: it is no YAML, not what Ray's launcher takes, or would open the
        cluster to the world.
    """
    cluster = _read(path)
    problems = list(_schema_problems(cluster))
    if not problems:
        problems = [*_sense_problems(cluster), *exposure.problems(cluster.data, cluster.where)]
    if problems:
        raise ClusterFileError.of(problems)
    return cluster


def _read(path: Path) -> ClusterFile:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterFileError(f"the cluster file cannot be read: {error}", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ClusterFileError(f"the cluster file is no YAML: {what}", where=where, fix="mend that line") from error
    if not isinstance(data, dict):
        raise ClusterFileError("the cluster file holds no keys", where=str(path), fix=_START)
    if str(data.get("apiVersion", "")).startswith("ray.io/"):
        raise ClusterFileError(
            "this file is for KubeRay, and Ray's cluster launcher does not take it",
            where=str(path),
            fix=f"kubectl apply -f {path}, and then `--cluster http://127.0.0.1:8265` through `kubectl port-forward`",
        )
    return ClusterFile(path, data, dict(_lines(node)))


_START = "begin with one that works: raycompress cluster init"


def _lines(node: yaml.Node | None, above: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Yield the line of every key and member."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*above, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*above, index), value.start_mark.line + 1
            yield from _lines(value, (*above, index))


@cache
def _schema() -> dict[str, Any]:
    """Return Ray's own schema of cluster files, without importing Ray."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], "autoscaler", "ray-schema.json")
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def _schema_problems(cluster: ClusterFile) -> Iterator[Problem]:
    from jsonschema import Draft7Validator

    for error in sorted(Draft7Validator(_schema()).iter_errors(cluster.data), key=lambda error: list(error.path)):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", ()))
            for key in (key for key in error.instance if key not in known):
                fix = did_you_mean(key, known) or f"it can be: {listed(known)}"
                yield Problem(f'Ray knows no key "{key}" here', cluster.where(*path, key), fix)
        elif error.validator == "required":
            for key in (key for key in error.validator_value if key not in error.instance):
                yield Problem(f'the key "{key}" is missing', cluster.where(*path), _START)
        elif error.validator == "type":
            what = f"this must be of type {error.validator_value}, and is {said(error.instance)}"
            yield Problem(what, cluster.where(*path), "write it so")
        else:
            yield Problem(f"Ray does not take {shown(error.instance)} here: {error.message}", cluster.where(*path), "")


def _sense_problems(cluster: ClusterFile) -> Iterator[Problem]:
    """Yield what Ray's schema lets pass, and what fails minutes later, or never tells."""
    if near(cluster.provider, PROVIDERS) != cluster.provider:
        fix = did_you_mean(cluster.provider, PROVIDERS) or f"Ray has {listed(PROVIDERS)}"
        yield Problem(f'Ray knows no provider "{cluster.provider}"', cluster.where("provider", "type"), fix)
    types = cluster.data.get("available_node_types")
    if types is None:
        if cluster.provider not in ("local", "external"):
            yield Problem("the file says of no machine what it is", cluster.where("available_node_types"), _START)
        return
    head = cluster.data.get("head_node_type")
    if head not in types:
        fix = did_you_mean(head, types) or f"write one of {listed(types)}"
        yield Problem(f"the head's type is {shown(head)}, and there is none", cluster.where("head_node_type"), fix)
    for name, kind in types.items():
        least, most = kind.get("min_workers", 0), kind.get("max_workers", cluster.data.get("max_workers"))
        if most is not None and least > most:
            what = f'"{name}" has {least} workers at least and {most} at most'
            yield Problem(what, cluster.where("available_node_types", name), "raise max_workers")
    for index, command in enumerate(cluster.data.get("head_start_ray_commands", ())):
        if "ray start" in command and "--head" in command and "--autoscaling-config" not in command:
            yield Problem(
                "the head would never start its workers",
                cluster.where("head_start_ray_commands", index),
                "add --autoscaling-config=~/ray_bootstrap_config.yaml",
            )
