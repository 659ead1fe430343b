"""Translation of boto3's errors into a StorageError that says what to do."""

from __future__ import annotations

import os

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from raycompress.errors import StorageError

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_BUSY = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "ConditionalRequestConflict",
    "OperationAborted",
)
_LOG_IN = "log in anew (`aws sso login`, `aws configure`), or set AWS_PROFILE, or the AWS_ keys of the environment"
_RIGHTS = (
    "the identity needs s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject on the prefix"
)
_CODES = {
    "NoSuchBucket": ("there is no such bucket", "make it (`aws s3 mb`), or write the name of another"),
    **dict.fromkeys(("AccessDenied", "403", "AllAccessDisabled"), ("S3 refuses access", _RIGHTS)),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"),
        ("S3 does not know these credentials", _LOG_IN),
    ),
    **dict.fromkeys(_EXPIRED, ("the credentials have expired", _LOG_IN)),
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    ),
    **dict.fromkeys(_BUSY[:3], ("S3 is too busy", "try again later")),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong, says S3", "set it, by NTP for instance"),
    "NotImplemented": ("this S3 knows no conditional writes", "take one that does, as AWS, MinIO and Ceph have them"),
}
_NO_CREDENTIALS = (
    *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.ConfigNotFound),
    *(boto.SSOError, boto.NoAuthTokenError),
)
_NETWORK = (boto.HTTPClientError, boto.ConnectionError)


def code_of(error: ClientError | BotoCoreError) -> str:
    """Return S3's own name for what is wrong; empty where the answer came from nobody."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def may_pass(error: ClientError | BotoCoreError) -> bool:
    """Tell whether waiting can help: S3 is busy or cannot be reached, or credentials have run out."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return (status >= 500 and status != 501) or code_of(error) in (*_EXPIRED, *_BUSY)
    return isinstance(error, (*_NETWORK, boto.CredentialRetrievalError))


def explained(error: ClientError | BotoCoreError, where: str) -> StorageError:
    """Return the error of ours for what boto3 raised while it dealt with `where`."""
    code = code_of(error)
    if code in _CODES:
        what, fix = _CODES[code]
        return StorageError(what, where=where, fix=fix)
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError("there are no credentials for S3", where=where, fix=_LOG_IN)
    if isinstance(error, boto.CredentialRetrievalError):
        return StorageError("credentials for S3 cannot be fetched", where=where, fix=_LOG_IN)
    if isinstance(error, _NETWORK):
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        what = f"S3 cannot be reached ({named or type(error).__name__})"
        return StorageError(what, where=where, fix="look at the network, AWS_REGION and AWS_ENDPOINT_URL")
    if isinstance(error, ClientError):
        reason = error.response.get("Error", {}).get("Message") or "no reason given"
        return StorageError(f"S3 refuses: {reason} ({code or 'no code'})", where=where, fix="try again later")
    return StorageError(f"S3 cannot be used: {error}", where=where, fix="look at AWS's configuration (`aws configure`)")
