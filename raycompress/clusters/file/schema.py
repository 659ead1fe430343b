"""Checks of a cluster file against Ray's JSON Schema."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jsonschema import Draft7Validator

from raycompress.text import describe_value, did_you_mean, dotted, join_names

Keys: TypeAlias = tuple[str | int, ...]


class Mistake(NamedTuple):
    """What is wrong at `keys`, and the fix."""

    keys: Keys
    what: str
    fix: str = ""


_PROVIDERS = ("aws", "gcp", "local", "azure", "vsphere", "aliyun", "external", "fake_multinode", "readonly", "spark")
_KINDS = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
}


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """Return what Ray's schema, and the way its node types refer to each other, find wrong."""
    if "apiVersion" in data:
        return [Mistake((), "this is for Kubernetes, not for Ray's cluster launcher", "`kubectl apply -f` takes it")]
    found = [each for error in _validator().iter_errors(_as_ray_sees_it(data)) for each in _mistakes_of(error)]
    # of two missing keys each is told twice
    return list(dict.fromkeys(found)) or [*_provider(data["provider"]), *_node_types(data)]


def _provider(provider: dict[str, Any]) -> Iterator[Mistake]:
    kind = provider["type"]
    if kind not in _PROVIDERS:
        fix = did_you_mean(kind, _PROVIDERS) or f"Ray has {join_names(_PROVIDERS)}"
        yield Mistake(("provider", "type"), f'Ray has no provider "{kind}"', fix)


def _validator() -> Any:
    # ray is not imported for it: that takes a second, and sets up logging
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.submodule_search_locations
    schema = Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    return Draft7Validator(json.loads(schema.read_text()))


def _as_ray_sees_it(data: dict[str, Any]) -> dict[str, Any]:
    """Ray fills in the resources of a node type, where its cloud tells them, before it looks at its schema."""
    seen = copy.deepcopy(data)
    types = seen.get("available_node_types")
    for node_type in types.values() if isinstance(types, dict) else ():
        if isinstance(node_type, dict):
            node_type.setdefault("resources", {})
    return seen


def _mistakes_of(error: Any) -> Iterator[Mistake]:
    path: Keys = tuple(error.absolute_path)
    place = f'"{dotted(path)}"' if path else "the file"
    match error.validator:
        case "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in error.instance:
                if key not in known:
                    fix = did_you_mean(key, known) or f"remove it; the keys here are {join_names(known, 12)}"
                    yield Mistake((*path, str(key)), f'unknown key "{key}"', fix)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield Mistake(path, f'{place} has no "{key}"', "Ray needs it")
        case "type":
            kinds: list[str] = (
                [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
            )
            wanted = " or ".join(_KINDS.get(kind, kind) for kind in kinds)
            yield Mistake(path, f"{place} must be {wanted}, not {describe_value(error.instance)}")
        case _:
            yield Mistake(path, f"{place}: {error.message.splitlines()[0]}")


def _node_types(data: dict[str, Any]) -> Iterator[Mistake]:
    types: dict[str, Any] = data.get("available_node_types") or {}
    head = data.get("head_node_type")
    if types and head is None:
        yield Mistake((), "no head_node_type", f"name one of the available_node_types: {join_names(types)}")
    elif types and head not in types:
        fix = did_you_mean(head, types) or f"there are {join_names(types)}"
        yield Mistake(("head_node_type",), f'no node type is named "{head}"', fix)
    for name, node_type in types.items():
        least, most = node_type.get("min_workers", 0), node_type.get("max_workers")
        if most is not None and least > most:
            keys = ("available_node_types", name, "min_workers")
            yield Mistake(keys, f"min_workers is {least}, max_workers only {most}", "raise max_workers")
    least = sum(node_type.get("min_workers", 0) for node_type in types.values())
    if least > data.get("max_workers", least):
        what = f"the node types want at least {least} workers, max_workers allows {data['max_workers']}"
        yield Mistake(("max_workers",), what, f"max_workers: {least}")
