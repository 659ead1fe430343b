"""Whether this machine has AWS credentials at all; AWS is not asked."""

from __future__ import annotations

import boto3
from botocore.exceptions import BotoCoreError

from raycompress.clusters.check import Check, State, warning


def credentials() -> list[Check]:
    """Return where the credentials come from."""
    try:
        session = boto3.Session()
        found = session.get_credentials()
    except BotoCoreError as error:
        return [warning("AWS credentials", str(error), fix="`aws configure list` shows what is set")]
    if found is None:
        return [Check("AWS credentials", State.OK, "none; needed for AWS and for s3:// only: `aws configure`")]
    return [Check("AWS credentials", State.OK, f"from {found.method}, region {session.region_name or 'not set'}")]
