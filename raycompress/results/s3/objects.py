"""The objects below an address on S3: read, written on a condition, listed, deleted."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ResponseStreamingError
from botocore.loaders import Loader, create_loader
from s3transfer.exceptions import RetriesExceededError

from raycompress.config.places import S3Address
from raycompress.errors import StorageError
from raycompress.results.s3.problems import code_of, explained, may_pass

PATIENCE_S = 600.0
"""How long a search waits for S3, or for fresh credentials, before it ends."""
ATTEMPTS = 6
"""How often boto3 itself makes a request that fails, with longer and longer pauses."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_MISSING = ("NoSuchKey", "404")
_REFUSED = ("PreconditionFailed", "412")


class OvertakenError(Exception):
    """The object is not what it was when it was last seen: somebody else writes it."""


@dataclass(frozen=True)
class Object:
    """What S3 has under a key.

    Attributes
    ----------
    etag
        Names this content; a write can be made to depend on it.
    age_s
        Since it was written, both times by S3's own clock.
    """

    body: bytes
    etag: str
    age_s: float


@dataclass(frozen=True)
class Listed:
    """A key, relative to the address, with the size and the ETag of what is there."""

    key: str
    bytes: int
    etag: str


class Objects:
    """The objects below `address`.

    Parameters
    ----------
    patience_s
        How long to go on trying where S3 cannot be reached or credentials have expired, beyond boto3's own attempts.
    """

    notify: ClassVar[Callable[[str], None]] = staticmethod(lambda _text: None)
    """Takes a line when this process begins to wait for S3."""

    def __init__(self, address: S3Address, *, patience_s: float = 0.0) -> None:
        self.address = address
        self._patience_s = patience_s

    def get(self, key: str) -> Object | None:
        """Return the object under `key`; None where there is none."""

        def read(client: Any) -> Object:
            answer = client.get_object(**self._at(key))
            return Object(answer["Body"].read(), answer["ETag"], _age(answer))

        try:
            found: Object = self._ask(read, key)
            return found
        except ClientError as error:
            if code_of(error) in _MISSING:
                return None
            raise explained(error, self._where(key)) from error

    def put(self, key: str, body: bytes, *, instead_of: str | None) -> str:
        """Write `body` in place of the object with the ETag `instead_of`; None: there must be none. Return its ETag.

        Raises
        ------
        OvertakenError
            Something else is there by now.
        """
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of}
        try:
            answer = self._ask(lambda client: client.put_object(**self._at(key), Body=body, **condition), key)
        except ClientError as error:
            if code_of(error) not in (*_REFUSED, *_MISSING):
                raise explained(error, self._where(key)) from error
            found = self.get(key)
            if found is None or found.body != body:
                raise OvertakenError(key) from error
            return found.etag  # an earlier attempt had been heard, and its answer was lost
        return str(answer["ETag"])

    def put_anyhow(self, key: str, body: bytes) -> None:
        """Write `body` whatever is there."""
        self._request(lambda client: client.put_object(**self._at(key), Body=body), key)

    def upload(self, path: Path, key: str, sha256: str) -> None:
        """Copy a file there, large ones in parts, and its hash with it."""

        def send(client: Any) -> None:
            with path.open("rb") as file:
                client.upload_fileobj(file, **self._at(key), ExtraArgs={"Metadata": {"sha256": sha256}})

        self._request(send, key)

    def download(self, key: str, path: Path) -> None:
        """Copy an object into a file."""

        def receive(client: Any) -> None:
            with path.open("wb") as file:
                try:
                    client.download_fileobj(**self._at(key), Fileobj=file)
                except RetriesExceededError as error:
                    raise ResponseStreamingError(error=error.last_exception) from error

        self._request(receive, key)

    def measured(self, key: str) -> tuple[int, str] | None:
        """Return the size of an object and the SHA-256 that it was uploaded with; None where there is none."""
        try:
            answer = self._ask(lambda client: client.head_object(**self._at(key)), key)
        except ClientError as error:
            if code_of(error) in _MISSING:
                return None
            raise explained(error, self._where(key)) from error
        return int(answer["ContentLength"]), str(answer.get("Metadata", {}).get("sha256", ""))

    def listing(self, below: str = "") -> list[Listed]:
        """Return what there is below ``below/``, by key."""
        return [
            Listed(entry["Key"][len(self.address.key("")) :], int(entry["Size"]), entry["ETag"])
            for page in self._pages(below)
            for entry in page.get("Contents", ())
        ]

    def folders(self, below: str = "") -> list[str]:
        """Return the names of what would be folders below ``below/``."""
        start = len(self._prefix(below))
        pages = self._pages(below, Delimiter="/")
        return [entry["Prefix"][start:].rstrip("/") for page in pages for entry in page.get("CommonPrefixes", ())]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what is under `keys`; where nothing is, nothing happens."""
        named = [{"Key": self.address.key(key)} for key in keys]
        for start in range(0, len(named), 1000):
            doomed = {"Objects": named[start : start + 1000], "Quiet": True}
            bound = functools.partial(_delete, Bucket=self.address.bucket, Delete=doomed)
            answer = self._request(bound, "")
            for refused in answer.get("Errors", ()):
                what = f"S3 does not delete: {refused.get('Message', refused.get('Code'))}"
                raise StorageError(
                    what, where=f"s3://{self.address.bucket}/{refused['Key']}", fix="look at your rights"
                )

    def _pages(self, below: str, **more: str) -> Iterator[Any]:
        def read(client: Any) -> list[Any]:
            pages = client.get_paginator("list_objects_v2")
            return list(pages.paginate(Bucket=self.address.bucket, Prefix=self._prefix(below), **more))

        yield from self._request(read, below)

    def _prefix(self, below: str) -> str:
        return self.address.key(f"{below}/" if below else "")

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.key(key)}

    def _where(self, key: str) -> str:
        return str(self.address / key) if key else str(self.address)

    def _request(self, request: Callable[[Any], Any], key: str) -> Any:
        try:
            return self._ask(request, key)
        except ClientError as error:
            raise explained(error, self._where(key)) from error

    def _ask(self, request: Callable[[Any], Any], key: str) -> Any:
        """Make a request; again and again, while waiting may help.

        Raises
        ------
        ClientError
            S3 has answered that it will not.
        StorageError
            Anything else.
        """
        until, pause = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return request(_client(os.getpid()))
            except (ClientError, BotoCoreError) as error:
                problem = explained(error, self._where(key))
                if not may_pass(error) or time.monotonic() + pause > until:
                    if isinstance(error, ClientError) and not may_pass(error):
                        raise
                    raise self._final(problem) from error
            if pause == _FIRST_PAUSE_S:
                type(self).notify(f"{problem.problems[0].what}: waiting, for {self._patience_s:.0f} s at most")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            new_client()

    def _final(self, problem: StorageError) -> StorageError:
        if not self._patience_s:
            return problem
        first = problem.problems[0]
        fix = f"{first.fix}; then `raycompress resume {self.address}` goes on"
        return StorageError(f"{first.what}, for {self._patience_s:.0f} s", where=first.where, fix=fix)


def new_client() -> None:
    """Have the next request made by a new client, which reads the environment and the files of credentials again."""
    _client.cache_clear()


def _delete(client: Any, **what: Any) -> Any:
    return client.delete_objects(**what)


@functools.cache
def _client(_process: int) -> Any:
    """Return this process's client; a forked process must not share its parent's connections."""
    retries = {"mode": "standard", "max_attempts": ATTEMPTS}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=32)
    return new_session().client("s3", config=config)


def new_session(**options: str) -> boto3.Session:
    """Return a session of boto3 with credentials of its own, which shares the service descriptions of all others.

    A session alone parses them again, which takes longer than most requests; a forked process has its parent's.
    """
    inner = botocore.session.get_session()
    inner.register_component("data_loader", _service_descriptions(inner.get_config_variable("data_path")))
    return boto3.Session(botocore_session=inner, **options)


@functools.cache
def _service_descriptions(data_path: str | None) -> Loader:
    return create_loader(data_path)


def _age(answer: Any) -> float:
    from email.utils import parsedate_to_datetime

    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return float((now - answer["LastModified"]).total_seconds())
