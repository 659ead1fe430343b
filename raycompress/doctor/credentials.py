"""Whether there are keys to AWS; no network is asked."""

from __future__ import annotations

from raycompress.clusters.cloud import Check
from raycompress.errors import Problem

_ASK_THE_NETWORK = ("iam-role", "container-role")


def check_credentials(*, needed: bool) -> Check:
    """Look for keys to AWS in the environment and in boto3's files.

    Parameters
    ----------
    needed
        Whether something that was asked for cannot go without.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.get_session()
    try:
        resolver = session.get_component("credential_provider")
        for provider in _ASK_THE_NETWORK:
            resolver.remove(provider)
        found = session.get_credentials()
        region = session.get_config_variable("region")
    except BotoCoreError as error:
        problem = Problem(f"boto3 cannot read its settings: {error}", "~/.aws", "mend AWS_PROFILE or ~/.aws/config")
        return Check("AWS keys", "failed", "", problem)
    if found is not None:
        return Check("AWS keys", "ok", f"from {found.method}, region {region or 'not set'}")
    if not needed:
        return Check("AWS keys", "ok", "none; only s3:// and clusters on AWS need them")
    problem = Problem("there are no keys to AWS", "~/.aws", "aws configure, or set AWS_PROFILE")
    return Check("AWS keys", "failed", "none", problem)
