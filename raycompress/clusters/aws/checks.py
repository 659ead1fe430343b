"""All that a start on AWS needs, looked at before a dollar is spent; nothing is created."""

from __future__ import annotations

from collections.abc import Callable

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from raycompress.clusters.aws import access, machines, network
from raycompress.clusters.aws.account import Account
from raycompress.clusters.aws.bucket import bucket
from raycompress.clusters.aws.quota import quotas
from raycompress.clusters.check import Check, State, failed
from raycompress.clusters.files import ClusterFile
from raycompress.experiment.words import did_you_mean

Look = Callable[[Account], list[Check]]

_LOOKS: tuple[tuple[str, Look], ...] = (
    ("availability zone", network.zones),
    ("image", machines.images),
    ("instance type", machines.offered),
    ("quota", quotas),
    ("key pair", access.key_pair),
    ("subnet", network.subnets),
    ("security group", network.security_groups),
    ("instance profile", access.instance_profile),
)
_NOT_ALLOWED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
_BAD_CREDENTIALS = ("InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "AuthFailure", "RequestExpired")


def checks(cluster: ClusterFile, storage: str) -> list[Check]:
    """Return what was found, in the order of what depends on what."""
    account = Account(cluster)
    found = _asked("region", _region, account)
    if found[-1].state is State.OK:
        found += _asked("identity", _identity, account)
    if found[-1].state is not State.OK:
        return [*found, Check("everything else", State.NOT_CHECKED, f"mend the {found[-1].name} first")]
    for name, look in _LOOKS:
        found += _asked(name, look, account)
    found += _asked("bucket", lambda account: bucket(account, storage), account)
    # a dry run repeats in worse words what has failed already
    if any(check.state is State.FAILED for check in found):
        return [*found, Check("dry run", State.NOT_CHECKED, "first mend what failed")]
    return found + _asked("dry run", machines.dry_run, account)


def _region(account: Account) -> list[Check]:
    known = account.session.get_available_regions("ec2")
    where = account.cluster.where("provider", "region")
    if not account.region:
        return [failed("region", "the cluster file names no region", where=where, fix="region: us-east-1")]
    if account.region not in known:
        fix = did_you_mean(account.region, known) or "`aws ec2 describe-regions` lists them"
        return [failed("region", f'there is no region "{account.region}"', where=where, fix=fix)]
    return [Check("region", State.OK, account.region)]


def _identity(account: Account) -> list[Check]:
    who = account.client("sts").get_caller_identity()
    return [Check("identity", State.OK, f"{who['Arn']}, account {who['Account']}")]


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
    except BotoCoreError as error:
        return [failed(name, f"AWS gave no answer: {error}", fix="try again")]


def _refused(name: str, error: ClientError) -> Check:
    code, operation = str(error.response["Error"].get("Code")), error.operation_name
    if code in _BAD_CREDENTIALS:
        return failed(name, f"AWS takes these credentials not, or no more: {code}", fix="log in anew, or renew the key")
    if code in _NOT_ALLOWED:
        detail = f"you may not call {operation}; `raycompress cluster policy aws` prints a policy that allows it"
        return Check(name, State.NOT_CHECKED, detail)
    return failed(name, f"{operation} was refused: {error.response['Error'].get('Message') or code}")
