"""Whether there are keys to AWS; no network is asked."""

from __future__ import annotations

from raycompress.clusters.check import Check, State, failed

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
        what = f"boto3 cannot read its settings: {error}"
        return failed("AWS keys", what, where="~/.aws", fix="mend AWS_PROFILE or ~/.aws/config")
    if found is not None:
        return Check("AWS keys", State.OK, f"from {found.method}, region {region or 'not set'}")
    if not needed:
        return Check("AWS keys", State.OK, "none; only s3:// and clusters on AWS need them")
    return failed("AWS keys", "there are no keys to AWS", where="~/.aws", fix="`aws configure`, or set AWS_PROFILE")
