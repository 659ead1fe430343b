"""Local files of a cluster that are kept between commands."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from raycompress.disk import translate_os_errors


@dataclass(frozen=True)
class ClusterHome:
    """The files of one cluster.

    ::

        ~/.raycompress/clusters/<cluster_name>/
            token           of Ray's token authentication, made here, put on every node
            prepared.yaml   the cluster file as it is given to Ray
            ray.log         what Ray's launcher printed
            known_hosts     the host keys of this cluster's nodes
            raycompress-0.1.0-py3-none-any.whl
    """

    root: Path

    @classmethod
    def of(cls, name: str) -> ClusterHome:
        """Return the files of the cluster called `name`; the folder is made."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "cluster"
        root = Path.home() / ".raycompress" / "clusters" / slug
        with translate_os_errors("cannot write", root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(root)

    @property
    def prepared(self) -> Path:  # noqa: D102 (each is named in the class's docstring)
        return self.root / "prepared.yaml"

    @property
    def log(self) -> Path:  # noqa: D102
        return self.root / "ray.log"

    @property
    def known_hosts(self) -> Path:  # noqa: D102
        return self.root / "known_hosts"

    def token(self) -> Path:
        """Return the file with the cluster's token, made on first use and readable by its owner alone."""
        path = self.root / "token"
        with translate_os_errors("cannot write", path):
            if not path.exists():
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_hex(32))
        return path
