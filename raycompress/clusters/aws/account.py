"""One AWS account in one region, asked with short patience; and what a cluster file wants of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from botocore.config import Config

from raycompress.clusters.file.files import ClusterFile
from raycompress.results.s3.objects import new_session

_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
# where each part of AWS knows of all its regions, those that an account has not switched on among them
_HOME = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
_RAYS_MAX_WORKERS = 2
CLUSTER_TAG = "ray-cluster-name"


@dataclass(frozen=True)
class Node:
    """A node type of a cluster file.

    Attributes
    ----------
    least, most
        How many there will be.
    config
        What RunInstances is given.
    """

    name: str
    least: int
    most: int
    config: dict[str, Any]

    @property
    def instance_type(self) -> str:
        """Such as ``g4dn.xlarge``; empty where a launch template says it."""
        return str(self.config.get("InstanceType", ""))

    @property
    def spot(self) -> bool:
        """Whether it runs on spare capacity, and can be taken away."""
        return (self.config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"

    @property
    def image(self) -> str | None:
        """The image's id; None where the file leaves it to a launch template or to Ray."""
        image = self.config.get("ImageId")
        return None if image in (None, "", "latest_dlami") else str(image)

    @property
    def subnets(self) -> list[str]:
        """The subnets that the file names: Ray's own ``SubnetIds``, or EC2's ``SubnetId``."""
        return [*(self.config.get("SubnetIds") or ()), *filter(None, [self.config.get("SubnetId")])]


class Account:
    """The account of the credentials at hand, in the region of `cluster`.

    Attributes
    ----------
    types
        What EC2 said of each instance type so far.
    """

    def __init__(self, cluster: ClusterFile) -> None:
        self.cluster = cluster
        self.region = str(cluster.data["provider"].get("region") or "")
        zones = str(cluster.data["provider"].get("availability_zone") or "")
        self.zones = [zone.strip() for zone in zones.split(",") if zone.strip()]
        self._clients: dict[tuple[str, str], Any] = {}
        self.types: dict[str, dict[str, Any] | None] = {}

    @cached_property
    def session(self) -> Any:
        """boto3's session, with the credentials of the cluster file or of the environment."""
        given = self.cluster.data["provider"].get("aws_credentials") or {}
        return new_session(region_name=self.region, **{key: given[key] for key in _CREDENTIALS if key in given})

    @property
    def home(self) -> str:
        """The region that knows of all others.

        Raises
        ------
        botocore.exceptions.UnknownRegionError
            The region's name is like none that AWS has.
        """
        partition = self.session.get_partition_for_region(self.region)
        return _HOME.get(partition, self.region)

    def client(self, service: str, region: str = "") -> Any:
        """Return boto3's client of `service`."""
        key = service, region or self.region
        if key not in self._clients:
            self._clients[key] = self.session.client(service, region_name=key[1], config=_CONFIG)
        return self._clients[key]

    def pages(self, operation: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield what a listing operation of EC2 has under `key`, page after page."""
        for page in self.client("ec2").get_paginator(operation).paginate(**arguments):
            yield from page[key]

    @cached_property
    def nodes(self) -> list[Node]:
        """The head and each type of worker that there can be one of."""
        data = self.cluster.data
        limit, head = int(data.get("max_workers", _RAYS_MAX_WORKERS)), data.get("head_node_type")
        found = []
        for name, kind in (data.get("available_node_types") or {}).items():
            is_head = int(name == head)
            # Ray's own rule: a type of worker that names no number may take all of them, the head's takes none
            most = min(int(kind.get("max_workers", 0 if is_head else limit)), limit)
            config = kind.get("node_config") or {}
            found.append(Node(name, int(kind.get("min_workers", 0)) + is_head, most + is_head, config))
        return [node for node in found if node.most]

    def where(self, node: Node, *keys: str | int) -> str:
        """Return the place of a node's key in the file."""
        return self.cluster.where("available_node_types", node.name, "node_config", *keys)
