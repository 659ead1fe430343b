"""The image that a node of ours starts from: the newest of AWS's own with NVIDIA's driver."""

from __future__ import annotations

import boto3
from botocore.config import Config

_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})
NAME = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"


def newest_image(region: str) -> str | None:
    """Return the id that the image has in `region`; None where there is none.

    Raises
    ------
    botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
        AWS was not reached, or does not answer us.
    """
    filters = {"name": NAME, "state": "available", "architecture": "x86_64"}
    found = boto3.client("ec2", region_name=region, config=_CONFIG).describe_images(
        Owners=["amazon"], Filters=[{"Name": name, "Values": [value]} for name, value in filters.items()]
    )["Images"]
    newest = max(found, key=lambda image: image["CreationDate"], default=None)
    return None if newest is None else str(newest["ImageId"])
