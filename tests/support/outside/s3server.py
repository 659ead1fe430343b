"""An S3 on this machine, moto's, with a proxy before it that can be told to fail."""

from __future__ import annotations

import functools
import http.client
import http.server
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "results"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-file-may-hold",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
Fault = Callable[[str, str], str | None]
_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of the test</Message></Error>"
_STATUS = {"SlowDown": 503, "InternalError": 500, "ExpiredToken": 400, "AccessDenied": 403, "lost": 500}


@dataclass
class S3:
    """A server, and the proxy before it.

    Attributes
    ----------
    heedless
        Whether conditions of writes are left out.
    fault
        Given method and path, returns the code of the error to answer with, "lost" for one after the request was done,
        "down" to hang up, or None.
    counts
        How often each fault was answered, and "asked" how often there was a request.
    """

    direct: str
    heedless: bool = False
    url: str = ""
    fault: Fault | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def client(self) -> Any:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.direct, **keys)

    def names(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def body(self, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found


class _Server(http.server.ThreadingHTTPServer):
    """The proxy, one for all tests of this process, so that a Ray that they share knows its address from its start.

    Attributes
    ----------
    s3
        The server of the test that runs; None between tests, when it hangs up.
    """

    daemon_threads = True
    s3: S3 | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed in the middle of what they say."""


@functools.cache
def _proxy() -> _Server:
    proxy = _Server(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return proxy


def environment() -> dict[str, str]:
    """Return what a process has to know of the S3 of all tests, whether or not one runs yet."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_proxy().server_address[1]}"}


@functools.cache
def _moto() -> tuple[str, int]:
    """Start moto, one for all tests of this process: its end would take half a second each time."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    return moto.get_host_and_port()


@contextmanager
def server() -> Iterator[S3]:
    """Have an empty S3 with a bucket behind the proxy."""
    host, port = _moto()
    s3 = S3(f"http://{host}:{port}")
    s3.url = environment()["AWS_ENDPOINT_URL"]
    s3.client.create_bucket(Bucket=BUCKET)
    _proxy().s3 = s3
    try:
        yield s3
    finally:
        _proxy().s3 = None
        s3_reset = http.client.HTTPConnection(host, port)
        s3_reset.request("POST", "/moto-api/reset")
        s3_reset.getresponse().read()
        s3_reset.close()


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self._body()
        s3 = self.server.s3  # type: ignore[attr-defined]
        if s3 is None:  # a driver of an earlier test, on its way out
            self.close_connection = True
            return
        s3.counts["asked"] += 1
        fault = s3.fault(self.command, self.path) if s3.fault is not None else None
        if fault is not None:
            s3.counts[fault] += 1
        if fault == "down":
            self.close_connection = True
            return
        status, headers, answer = self._forward(s3, body) if fault in (None, "lost") else (0, [], b"")
        if fault is not None:
            status, answer = _STATUS[fault], _ERROR.format(code=fault).encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(answer)))]
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _forward(self, s3: S3, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(s3.direct).netloc, timeout=30)
        dropped = ["transfer-encoding", "content-length", "expect"]
        dropped += ["if-match", "if-none-match"] if s3.heedless else []
        kept = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        connection.request(self.command, self.path, body, {**kept, "Content-Length": str(len(body))})
        response = connection.getresponse()
        answer = response.read()
        own = ("transfer-encoding", "connection", "content-length")
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in own]
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        connection.close()
        return response.status, [*headers, ("Content-Length", length or str(len(answer)))], answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def log_message(self, format: str, *args: Any) -> None:
        pass
