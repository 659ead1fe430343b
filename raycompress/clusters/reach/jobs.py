"""Client of Ray's Jobs API; a search is a job of the cluster."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycompress.errors import ClusterError

PORT = 8265
"""Where Ray's dashboard, and with it the Jobs API, listens on the head."""

_TALKATIVE = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_STOP_S = 90.0
_NO_AGENT = "No available agent to submit job"
"""What Ray answers, with status 500, until the agent of a node is up."""
_AGENT_S, _POLL_S = 60.0, 0.5


class Jobs:
    """The Jobs API at `address`.

    Parameters
    ----------
    address
        As in ``http://127.0.0.1:8265``.
    token
        The file with the cluster's token; where Ray looks for it by itself by default.

    Raises
    ------
    ClusterError
        Nothing answers there, or it does not let us in.
    """

    def __init__(self, address: str, token: Path | None = None) -> None:
        self.address = address
        # Ray reads these, and the token once a process, as it is imported
        os.environ["RAY_AUTH_MODE"] = "token"
        if token is not None:
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # each would be taken instead of ours
            os.environ.pop(name, None)
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._answered():
            self._client = JobSubmissionClient(address)

    def submit(self, name: str, entrypoint: str, runtime_env: dict[str, Any]) -> None:
        """Submit a job called `name`; the agent that starts it may come up a moment after the cluster."""
        patience = time.monotonic() + _AGENT_S
        while True:
            try:
                with self._answered():
                    self._client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=runtime_env)
                return
            except ClusterError as error:
                if _NO_AGENT not in error.problems[0].what or time.monotonic() > patience:
                    raise
                time.sleep(_POLL_S)

    def status(self, name: str) -> str:
        """Return how a job stands, in Ray's words: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED``, ``STOPPED``."""
        with self._answered():
            return str(self._client.get_job_status(name).value)

    def has_ended(self, name: str) -> bool:
        """Tell whether a job has come to its end, whichever."""
        return self.status(name) in _ENDED

    def message(self, name: str) -> str:
        """Return what Ray says of how a job stands."""
        with self._answered():
            return str(self._client.get_job_info(name).message or "")

    def log(self, name: str) -> str:
        """Return what a job has printed so far."""
        with self._answered():
            return str(self._client.get_job_logs(name))

    def follow(self, name: str, take: Callable[[str], None]) -> None:
        """Call `take` with each chunk of what a job prints, from its beginning, until it ends or the line drops."""

        async def chunks() -> None:
            async for chunk in self._client.tail_job_logs(name):
                take(chunk)

        with self._answered():
            asyncio.run(chunks())

    def stop(self, name: str, driver: int | None = None) -> None:
        """Stop a job, and wait until it has ended; a search then keeps its best so far.

        Parameters
        ----------
        driver
            The process on the head to which this is said. Ray itself would signal the trials there as well, which then
            fail before the search knows that it is to stop.
        """
        with self._answered():
            if driver is not None:
                stopping = f"{name}-stop-{uuid.uuid4().hex[:8]}"
                self._client.submit_job(entrypoint=f"kill -TERM {driver}", submission_id=stopping)
                if self._ends_within(_STOP_S, name):
                    return
            self._client.stop_job(name)
            if not self._ends_within(_STOP_S, name):
                raise ClusterError(f"the job {name} does not stop", where=self.address, fix="tear the cluster down")

    def _ends_within(self, seconds: float, name: str) -> bool:
        deadline = time.monotonic() + seconds
        while not self.has_ended(name):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def nodes(self) -> list[str]:
        """Return the addresses of the nodes that are alive."""
        from ray.util.state import list_nodes

        with self._answered():
            return [str(node.node_ip) for node in list_nodes(self.address, limit=10_000) if node.state == "ALIVE"]

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn what Ray's client raises into an error of ours."""
        import aiohttp
        import requests
        from ray.exceptions import RayError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except (aiohttp.ClientError, requests.RequestException, ConnectionError, RuntimeError, RayError) as error:
            raise self._problem(error) from error
        except RayStateApiException as error:
            raise self._problem(error) from error

    def _problem(self, error: Exception) -> ClusterError:
        lines = str(error).strip().splitlines()
        what = lines[0] if lines else type(error).__name__
        fix = "see that the cluster runs, and that its Jobs API is at this address"
        if "401" in what or "403" in what or "uthentication" in what:
            fix = "put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH to a file with it"
        return ClusterError(f"Ray's Jobs API: {what}", where=self.address, fix=fix)
