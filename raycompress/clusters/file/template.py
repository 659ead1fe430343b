"""Fills a shipped cluster file with the user's values, and keeps its comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

MARK = "# EDIT"
"""Stands in the lines of a shipped file whose values are a person's."""


@dataclass(frozen=True)
class Blank:
    """Something that a person says of their cluster.

    Attributes
    ----------
    name
        What it is called on the command line.
    question
        What it is, for a person.
    keys
        The keys of the file that take it, wherever they stand.
    kind
        ``text``, ``count``, or ``list`` where the key holds a list.
    """

    name: str
    question: str
    keys: tuple[str, ...]
    kind: str = "text"


_NAME = Blank("name", "a name for the cluster", ("cluster_name",))
_REGION = Blank("region", "region", ("region",))
_WORKERS = Blank("workers", "workers, beside the head", ("min_workers", "max_workers"), "count")
_KEY_FILE = Blank("key-file", "the file with your private SSH key", ("ssh_private_key",))
_AWS = (
    _NAME,
    _REGION,
    _WORKERS,
    Blank("instance", "type of the machines", ("InstanceType",)),
    Blank("key-name", "EC2 key pair", ("KeyName",)),
    _KEY_FILE,
    Blank("profile", "instance profile of the machines", ("Name",)),
    Blank("image", "image (AMI)", ("ImageId",)),
)
BLANKS: dict[str, tuple[Blank, ...]] = {
    "aws.yaml": _AWS,
    "aws-gpu-spot.yaml": _AWS,
    "gcp.yaml": (
        _NAME,
        Blank("project", "project", ("project_id",)),
        _REGION,
        Blank("zone", "zone", ("availability_zone",)),
        _WORKERS,
        _KEY_FILE,
        Blank("public-key", "the public half of that key, as in ubuntu:ssh-ed25519 ...", ("value",)),
        Blank("image", "image of the disks", ("sourceImage",)),
    ),
    "kuberay.yaml": (
        Blank("image", "your image", ("image",)),
        Blank("workers", "workers, beside the head", ("replicas", "minReplicas", "maxReplicas"), "count"),
    ),
    "local-ssh.yaml": (
        _NAME,
        Blank("head", "address of the head", ("head_ip",)),
        Blank("workers", "addresses of the workers, with commas", ("worker_ips",), "list"),
        Blank("user", "your account there", ("ssh_user",)),
        _KEY_FILE,
    ),
}
"""What there is to say of each shipped file, in the order in which it is asked."""


PLACEHOLDERS = (
    *("ami-00000000000000000", "your-project", "ubuntu:ssh-ed25519 AAAA..."),
    "your-images/raycompress:0.1.0-ray2.60.0",
)
"""Values of shipped files that can be nobody's."""


def implied(given: Mapping[str, str]) -> dict[str, str]:
    """Return what follows from values, by the names of their blanks: policies name the profile after the cluster."""
    return {"profile": f"raycompress-{given['name']}"} if "name" in given else {}


def value_of(text: str, blank: Blank) -> str:
    """Return what the file `text` says, as it would be written on the command line."""
    key = blank.keys[0]
    if blank.kind == "list":
        found = _list_of(key).search(text)
        return ",".join(re.findall(r"^ *- *([^#\s]+)", found["items"], re.MULTILINE)) if found else ""
    found = _line_of(key).search(text)
    return str(yaml.safe_load(found["value"])) if found else ""


def fill(text: str, values: Mapping[Blank, str]) -> str:
    """Return the file `text` with `values` where the keys of their blanks stand; the marks of their lines go."""
    for blank, value in values.items():
        for key in blank.keys:
            if blank.kind == "list":
                items = [item.strip() for item in value.split(",") if item.strip()]
                text = _list_of(key).sub(lambda found, items=items: _listed(found, items), text)  # type: ignore[misc]
            else:
                written = value if blank.kind == "count" else _as_yaml(value)
                text = _line_of(key).sub(lambda found, new=written: _filled(found, new), text)  # type: ignore[misc]
    return text


def still_to_edit(text: str) -> list[tuple[int, str]]:
    """Return the lines that are marked as a person's own, each with its number."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.removesuffix(MARK).strip()) for number, line in lines if line.endswith(MARK)]


def _line_of(key: str) -> re.Pattern[str]:
    return re.compile(rf"^(?P<key> *(?:- )?{re.escape(key)}: *)(?P<value>[^#\n]*?)(?P<comment> *#.*)?$", re.MULTILINE)


def _list_of(key: str) -> re.Pattern[str]:
    return re.compile(rf"^(?P<key> *{re.escape(key)}:.*\n)(?P<items>(?: *- .*\n)+)", re.MULTILINE)


def _filled(found: re.Match[str], new: str) -> str:
    return f"{found['key']}{new}{(found['comment'] or '').removesuffix(MARK).rstrip()}"


def _listed(found: re.Match[str], items: list[str]) -> str:
    indent = re.match(" *", found["items"])
    assert indent is not None
    return found["key"] + "".join(f"{indent[0]}- {_as_yaml(item)}\n" for item in items)


def _as_yaml(value: str) -> str:
    """Return a text as YAML reads it again, in quotes where it would be something else."""
    return str(yaml.safe_dump(value, width=10_000, allow_unicode=True)).splitlines()[0]
