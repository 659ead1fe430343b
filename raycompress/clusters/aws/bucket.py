"""The bucket that results go to: there, in reach, writable, and near."""

from __future__ import annotations

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.config.places import S3Address, is_remote
from raycompress.errors import StorageError
from raycompress.results.s3 import storage as results


def bucket(account: Account, storage: str) -> list[Check]:
    """Return whether results can be written to `storage`: a small object is, and is removed again."""
    if not is_remote(storage):
        what = f"{storage} is a path: every node must see the same disk there"
        return [warning("storage", what, where="storage", fix='"storage": "s3://bucket/prefix", if no disk is shared')]
    try:
        address = S3Address.parse(storage)
        results.check(address)
    except ValueError as error:
        return [failed("bucket", str(error), where=storage, fix="s3://bucket/prefix")]
    except StorageError as error:
        return [Check("bucket", State.FAILED, problem.what, problem) for problem in error.problems]
    return [_place(account, address)]


def _place(account: Account, address: S3Address) -> Check:
    name, summary = f"bucket {address.bucket}", f"{address} can be written to"
    try:
        place = account.client("s3").get_bucket_location(Bucket=address.bucket)["LocationConstraint"] or "us-east-1"
    except ClientError as error:
        return Check(name, State.OK, f"{summary}; where it is, AWS does not say ({error.response['Error']['Code']})")
    if place != account.region:
        what = f"the bucket is in {place}, the cluster in {account.region}: slower, and what goes between is billed"
        return warning(name, what, where=str(address), fix=f"take a bucket of {account.region}")
    return Check(name, State.OK, summary)
