"""Checks before a cluster is started on AWS; nothing is created."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    UnknownRegionError,
)
from botocore.parsers import ResponseParserError

from raycompress.clusters.aws import access, machines, network
from raycompress.clusters.aws.account import Account
from raycompress.clusters.aws.quota import quotas
from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.clusters.file.files import ClusterFile
from raycompress.config.places import S3Address, is_remote
from raycompress.errors import StorageError
from raycompress.results.s3 import storage as results
from raycompress.text import did_you_mean

Look = Callable[[Account], list[Check]]

# what comes after one of these would only say the same again
_FIRST: tuple[tuple[str, Look], ...] = (
    ("node_config", machines.well_formed),
    ("identity", lambda account: _identity(account)),
    ("region", lambda account: _region(account)),
)
_THEN: tuple[tuple[str, Look], ...] = (
    ("availability zone", network.zones),
    ("instance type", machines.offered),
    ("image", machines.images),
    ("quota", quotas),
    ("key pair", access.key_pair),
    ("subnet", network.subnets),
    ("security group", network.security_groups),
)
_NOT_ALLOWED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
_BAD_CREDENTIALS = (
    *("AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId"),
    *("RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException"),
)


def checks(cluster: ClusterFile, storage: str) -> Iterator[Check]:
    """Yield the checks, each after those that it depends on.

    Parameters
    ----------
    storage
        Where results go: a folder, or ``s3://bucket/prefix``.
    """
    account = Account(cluster)
    for name, look in _FIRST:
        found = _asked(name, look, account)
        yield from found
        if any(check.state is not State.OK for check in found):
            yield Check("everything else", State.NOT_CHECKED, f"mend the {name} first")
            return
    then = (
        *_THEN,
        ("instance profile", lambda account: access.instance_profiles(account, storage)),
        ("bucket", lambda account: bucket(account, storage)),
    )
    bad = False
    for name, look in then:
        found = _asked(name, look, account)
        bad |= any(check.state is State.FAILED for check in found)
        yield from found
    # a dry run repeats in worse words what has failed already
    yield from (
        [Check("dry run", State.NOT_CHECKED, "first mend what failed")]
        if bad
        else _asked("dry run", machines.dry_run, account)
    )


def _identity(account: Account) -> list[Check]:
    where = account.cluster.where("provider", "region")
    if not account.region:
        return [failed("region", "the cluster file names no region", where=where, fix="region: us-east-1")]
    try:
        home = account.home
    except UnknownRegionError:
        return [_no_such_region(account, account.session.get_available_regions("ec2"))]
    who = account.client("sts", home).get_caller_identity()
    return [Check("identity", State.OK, f"{who['Arn']}, account {who['Account']}")]


def _region(account: Account) -> list[Check]:
    regions = account.client("ec2", account.home).describe_regions(AllRegions=True)["Regions"]
    states = {region["RegionName"]: region.get("OptInStatus") for region in regions}
    if account.region not in states:
        return [_no_such_region(account, list(states))]
    if states[account.region] == "not-opted-in":
        what = f"the region {account.region} is not switched on in this account"
        fix = f"aws account enable-region --region-name {account.region}, and wait some minutes; or take another"
        return [failed("region", what, where=account.cluster.where("provider", "region"), fix=fix)]
    return [Check("region", State.OK, account.region)]


def _no_such_region(account: Account, known: list[str]) -> Check:
    fix = did_you_mean(account.region, known) or "`aws ec2 describe-regions --all-regions` lists them"
    where = account.cluster.where("provider", "region")
    return failed("region", f'there is no region "{account.region}"', where=where, fix=fix)


def _asked(name: str, look: Look, account: Account) -> list[Check]:
    """Look, and put what AWS, or the way to it, refuses into words."""
    try:
        return look(account)
    except (NoCredentialsError, PartialCredentialsError):
        fix = "`aws configure`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return [failed(name, "there are no AWS credentials on this machine", fix=fix)]
    except ProfileNotFound as error:
        return [failed(name, str(error), where="AWS_PROFILE", fix="`aws configure list-profiles` lists them")]
    except EndpointConnectionError as error:
        fix = "is there a network here? is AWS_ENDPOINT_URL set by mistake?"
        return [failed(name, f"AWS cannot be reached: {error}", fix=fix)]
    except ClientError as error:
        return [_refused(name, error)]
    except ParamValidationError as error:
        return [failed(name, " ".join(str(error).split()), where=str(account.cluster.path), fix="write it so")]
    except (BotoCoreError, ResponseParserError) as error:  # the latter: an answer that is none of AWS's
        return [failed(name, f"AWS gave no answer: {error}", fix="try again")]


def _refused(name: str, error: ClientError) -> Check:
    code, operation = str(error.response["Error"].get("Code")), error.operation_name
    if code in _BAD_CREDENTIALS:
        fix = "log in anew (`aws sso login`), or renew the key (`aws configure`)"
        return failed(name, f"AWS does not take these credentials, or takes them no more: {code}", fix=fix)
    if code in _NOT_ALLOWED:
        detail = f"you may not call {operation}; `raycompress cluster policy aws` prints a policy that allows it"
        return Check(name, State.NOT_CHECKED, detail)
    what = f"{operation} was refused: {error.response['Error'].get('Message') or code}"
    return failed(name, what, fix="try again; if it stays so, ask who runs the account")


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
