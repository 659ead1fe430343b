"""A shipped cluster file made a person's own: values put in, comments kept."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

_PLACEHOLDERS = {"ImageId": "ami-00000000000000000"}
# what a person has to say for each shipped file -> the keys of the file that take it
QUESTIONS: dict[str, dict[str, str]] = {
    "aws": {
        "name": "cluster_name",
        "region": "region",
        "zones": "availability_zone",
        "image": "ImageId",
        "key_file": "ssh_private_key",
        "key_name": "KeyName",
        "workers": "max_workers",
    },
    "gcp": {
        "name": "cluster_name",
        "project": "project_id",
        "region": "region",
        "zones": "availability_zone",
        "workers": "max_workers",
    },
    "local": {"name": "cluster_name", "head": "head_ip", "user": "ssh_user", "key_file": "ssh_private_key"},
}


def value_of(text: str, key: str) -> str:
    """Return what stands first at `key` in the file `text`; empty where that is only a placeholder."""
    found = re.search(rf"^ *{re.escape(key)}: *([^#\n]*)", text, re.MULTILINE)
    value = found[1].strip() if found else ""
    return "" if value == _PLACEHOLDERS.get(key) else value


def fill(text: str, values: Mapping[str, str | int]) -> str:
    """Return the cluster file `text` with `values`, by YAML key, wherever these stand; comments stay."""
    for key, value in values.items():
        written = yaml.safe_dump(value, width=10_000).splitlines()[0]
        line = re.compile(rf"^( *{re.escape(key)}: *)([^#\n]*?)( *#.*)?$", re.MULTILINE)
        text = line.sub(lambda found, written=written: f"{found[1]}{written}{found[3] or ''}", text)  # type: ignore[misc]
    return text
