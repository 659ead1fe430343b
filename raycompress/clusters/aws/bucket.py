"""The bucket that results go to: there, in reach, and writable."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.check import Check, State, failed, warning


def bucket(account: Account, storage: str) -> list[Check]:
    """Return whether `storage` can be written to: a small object is put under its prefix and removed again."""
    if not storage.startswith("s3://"):
        what = f"storage is {storage}, a path: every node must see the same disk there"
        return [warning("storage", what, fix='"storage": "s3://bucket/prefix", where no disk is shared')]
    parts = urlsplit(storage)
    name, prefix = parts.netloc, parts.path.strip("/")
    client, title = account.client("s3"), f"bucket {name}"
    try:
        # not head_bucket: who may list the prefix only, as our policy has it, is refused that
        client.list_objects_v2(Bucket=name, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1)
    except ClientError as error:
        return [_unreachable(title, name, account.region, str(error.response["Error"]["Code"]))]
    key = f"{prefix}/.raycompress-check-{uuid.uuid4().hex}".lstrip("/")
    try:
        client.put_object(Bucket=name, Key=key, Body=b"written by raycompress to see whether it can; may be removed")
        client.delete_object(Bucket=name, Key=key)
    except ClientError as error:
        fix = f"`raycompress cluster policy aws --bucket {storage}` prints a policy that allows it"
        what = f"{storage} cannot be written to: {error.response['Error']['Code']}"
        return [failed(title, what, where="storage", fix=fix)]
    return [Check(title, State.OK, f"{storage} can be written to")]


def _unreachable(title: str, name: str, region: str, code: str) -> Check:
    if code in ("404", "NoSuchBucket"):
        fix = f"aws s3 mb s3://{name} --region {region}"
        return failed(title, f'there is no bucket "{name}"', where="storage", fix=fix)
    if code in ("301", "PermanentRedirect"):
        return failed(title, f'the bucket "{name}" is in another region', where="storage", fix="use one of this region")
    fix = "is it yours? `raycompress cluster policy aws --bucket ...` prints a policy for it"
    return failed(title, f'the bucket "{name}" does not let you in ({code})', where="storage", fix=fix)
