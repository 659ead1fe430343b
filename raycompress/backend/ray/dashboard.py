"""Ray's dashboard of a search on this machine, and the metrics beside it: where they are, and who may look."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from raycompress.extras import check_installed

HOST = "127.0.0.1"
PORT = 8265
_LIBRARIES = ("aiohttp_cors", "opencensus", "prometheus_client")


def check_libraries() -> None:
    """Raise MissingDependencyError where Ray was installed without its dashboard."""
    check_installed(_LIBRARIES, "ray[default]", "Ray's dashboard", where="--dashboard")


def notes(address: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person needs to look at a running Ray, whose address information this is."""
    url = str(address["webui_url"])
    yield f"Ray's dashboard: http://{url}, its token: {_token()}"
    if not url.endswith(f":{PORT}"):
        yield f"another program has port {PORT}, so the dashboard has the next free one"
    yield f"metrics for Prometheus: http://{HOST}:{address['metrics_export_port']}/metrics"


def _token() -> str:
    """Return how a person gets the token that the dashboard asks for."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "echo $RAY_AUTH_TOKEN"
    return f"cat {os.environ.get('RAY_AUTH_TOKEN_PATH', '~/.ray/auth_token')}"
