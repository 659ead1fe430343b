"""One AWS account in one region, asked with short patience; and what a cluster file wants of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config

from raycompress.clusters.files import ClusterFile

_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})


@dataclass(frozen=True)
class Node:
    """A node type of a cluster file.

    Attributes
    ----------
    count
        How many there will be at most.
    config
        What RunInstances is given.
    """

    name: str
    count: int
    config: dict[str, Any]

    @property
    def instance_type(self) -> str:
        """Such as ``g4dn.xlarge``; empty where a launch template says it."""
        return str(self.config.get("InstanceType", ""))

    @property
    def spot(self) -> bool:
        """Whether it runs on spare capacity, and can be taken away."""
        return bool(self.config.get("InstanceMarketOptions", {}).get("MarketType") == "spot")


class Account:
    """The account of the credentials at hand, in the region of `cluster`."""

    def __init__(self, cluster: ClusterFile) -> None:
        self.cluster = cluster
        self.region = str(cluster.data["provider"].get("region") or "")
        zones = str(cluster.data["provider"].get("availability_zone") or "")
        self.zones = [zone.strip() for zone in zones.split(",") if zone.strip()]
        self._clients: dict[str, Any] = {}

    @cached_property
    def session(self) -> Any:
        """boto3's session, with the profile that the cluster file or the environment names."""
        credentials = self.cluster.data["provider"].get("aws_credentials") or {}
        return boto3.Session(region_name=self.region or None, **credentials)

    def client(self, service: str, region: str | None = None) -> Any:
        """Return boto3's client of `service`."""
        if service not in self._clients:
            self._clients[service] = self.session.client(
                service, region_name=region or self.region or None, config=_CONFIG
            )
        return self._clients[service]

    def pages(self, operation: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield what a listing operation of EC2 has under `key`, page after page."""
        for page in self.client("ec2").get_paginator(operation).paginate(**arguments):
            yield from page[key]

    @cached_property
    def nodes(self) -> list[Node]:
        """The head and each type of worker."""
        data = self.cluster.data
        most, head = int(data.get("max_workers", 2)), data.get("head_node_type")
        found = []
        for name, node_type in (data.get("available_node_types") or {}).items():
            # Ray's own rule: a type that names no number may take all of them
            count = 1 if name == head else min(int(node_type.get("max_workers", most)), most)
            found.append(Node(name, count, node_type["node_config"]))
        return [node for node in found if node.count]

    def where(self, node: Node, *keys: str | int) -> str:
        """Return the place of a node's key in the file."""
        return self.cluster.where("available_node_types", node.name, "node_config", *keys)
