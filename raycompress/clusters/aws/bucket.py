"""The bucket that results go to: there, in reach, and writable."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.check import Check, State, failed, warning

_POLICY = "`raycompress cluster policy aws` prints one that does"


def bucket(account: Account, storage: str) -> list[Check]:
    """Return whether `storage` can be written to: a small object is put under its prefix and removed again."""
    if not storage.startswith("s3://"):
        what = f"storage is {storage}, a path: every node must see the same disk there"
        return [warning("storage", what, where="storage", fix='"storage": "s3://bucket/prefix", if no disk is shared')]
    parts = urlsplit(storage)
    name, prefix = parts.netloc, parts.path.strip("/")
    client, title, where = account.client("s3"), f"bucket {name}", storage
    key = f"{prefix}/.raycompress-check-{uuid.uuid4().hex}".lstrip("/")
    step = "listed"
    try:
        # not HeadBucket: who may list one prefix alone may not call it
        client.list_objects_v2(Bucket=name, Prefix=f"{prefix}/".lstrip("/"), MaxKeys=1)
        step = "written to"
        client.put_object(Bucket=name, Key=key, Body=b"raycompress looked whether it can write here")
        step = "cleaned"
        client.delete_object(Bucket=name, Key=key)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        if code in ("404", "NoSuchBucket"):
            fix = f"aws s3 mb s3://{name} --region {account.region}"
            return [failed(title, f'there is no bucket "{name}"', where=where, fix=fix)]
        what, fix = f"{storage} cannot be {step}: {code}", f"is it yours? does your policy allow it? {_POLICY}"
        return [failed(title, what, where=where, fix=fix)]
    return [_place(account, name, storage)]


def _place(account: Account, name: str, storage: str) -> Check:
    try:
        place = account.client("s3").get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1"
    except ClientError as error:
        return Check(f"bucket {name}", State.OK, f"can be written to (its region: {error.response['Error']['Code']})")
    if place != account.region:
        what = f"the bucket is in {place}, the cluster in {account.region}: slower, and every byte is paid"
        return warning(f"bucket {name}", what, where=storage, fix=f"take a bucket of {account.region}")
    return Check(f"bucket {name}", State.OK, f"{storage} can be written to")
