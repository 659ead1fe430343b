"""An AWS on this machine: moto's server in a process of its own, and a stand-in for the two services it has not."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
ACCOUNT = "123456789012"
IMAGE = "ami-0123456789abcdef0"
_IMAGE = {
    **{"ami_id": IMAGE, "name": "an Ubuntu", "description": "", "owner_id": "099720109477", "public": True},
    **{"state": "available", "image_type": "machine", "image_location": "amazon/ubuntu", "platform": None},
    **{"architecture": "x86_64", "virtualization_type": "hvm", "hypervisor": "xen", "sriov": "simple"},
    **{"root_device_type": "ebs", "root_device_name": "/dev/sda1"},
}


class Aws:
    """A running server.

    Attributes
    ----------
    answers
        What the stand-in says, by operation: ``GetServiceQuota``, ``GetProducts``; a text is an error's code.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}

    def post(self, path: str, body: str = "") -> None:
        # as a form, which is urllib's default, moto would not see the body
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/{path}", body.encode(), headers)
        urllib.request.urlopen(request, timeout=10).close()

    def client(self, service: str, region: str = "us-east-1") -> Any:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, region_name=region, endpoint_url=self.url, **keys)

    def user(self, name: str, policy: dict[str, Any]) -> dict[str, str]:
        """Make a user with one policy, and let the server ask from now on who may do what; return its keys.

        moto knows the actions of a policy alone: resources and conditions are left out.
        """
        iam = self.client("iam")
        iam.create_user(UserName=name)
        kept = [{key: each[key] for key in ("Effect", "Action")} | {"Resource": "*"} for each in policy["Statement"]]
        policy = {**policy, "Statement": kept}
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self.post("reset-auth", "0")
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@contextmanager
def server(folder: Path, described: Sequence[dict[str, Any]] = (_IMAGE,)) -> Iterator[Aws]:
    """Start the server, on a loopback port of its own, with one image, or a few, instead of moto's thousands."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    images = folder / "images.json"
    images.write_text(json.dumps(list(described)))
    environment = {**os.environ, **ENVIRONMENT, "MOTO_AMIS_PATH": str(images)}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    aws = Aws(f"http://127.0.0.1:{port}")
    try:
        _wait(process, port)
        yield aws
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, "moto's server has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server does not answer")


@contextmanager
def stand_in(aws: Aws) -> Iterator[str]:
    """Serve `aws.answers` in the JSON protocol of AWS; yield the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            answer = aws.answers[operation](request) if operation in aws.answers else "AccessDeniedException"
            refused = isinstance(answer, str)
            body = json.dumps({"__type": answer, "message": "not you"} if refused else answer).encode()
            self.send_response(400 if refused else 200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as own:
        threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{own.server_address[1]}"
        own.shutdown()
