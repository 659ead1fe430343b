"""AWS on loopback: moto's server for most of it, and a stand-in over HTTP for the two services that moto lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import yaml
from moto.server import ThreadedMotoServer

REGION = "us-east-1"
CLUSTER_FILES = Path(__file__).resolve().parents[2] / "cluster"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's server on a free port of loopback; yield its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def stand_in(answers: dict[str, Any]) -> Iterator[str]:
    """Answer JSON calls by the last part of their X-Amz-Target; what is not in `answers` is refused."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers.get(self.headers["X-Amz-Target"].rpartition(".")[2])
            body = json.dumps(answer or {"__type": "AccessDeniedException", "message": "not in the test"}).encode()
            self.send_response(400 if answer is None else 200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def price(dollars: float) -> dict[str, Any]:
    """Return an answer of the price list."""
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{dollars:.10f}"}}
    return {"PriceList": [json.dumps({"terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}})]}


def client(service: str, url: str) -> Any:
    return boto3.client(service, region_name=REGION, endpoint_url=url)


def prepared_account(url: str, folder: Path, template: str = "aws") -> dict[str, Any]:
    """Make in moto's account what the shipped file wants; return that file's data, filled in."""
    data = yaml.safe_load((CLUSTER_FILES / f"{template}.yaml").read_text())
    ec2, iam = client("ec2", url), client("iam", url)
    image = next(each for each in ec2.describe_images()["Images"] if each["Architecture"] == "x86_64")
    key = folder / "raycompress.pem"
    key.write_text(ec2.create_key_pair(KeyName="raycompress")["KeyMaterial"])
    key.chmod(0o600)
    iam.create_role(RoleName="raycompress", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="raycompress")
    iam.add_role_to_instance_profile(InstanceProfileName="raycompress", RoleName="raycompress")
    client("s3", url).create_bucket(Bucket="results")
    data["auth"]["ssh_private_key"] = str(key)
    for node_type in data["available_node_types"].values():
        node_type["node_config"]["ImageId"] = image["ImageId"]
    return data
