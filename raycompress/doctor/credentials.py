"""Whether there are keys to AWS."""

from __future__ import annotations

from raycompress.clusters.file.check import Check, State, failed, warning

_ASK_THE_NETWORK = ("iam-role", "container-role")


def check_credentials(*, needed: bool, ask_network: bool = False) -> Check:
    """Look for keys to AWS in the environment and in boto3's files.

    Parameters
    ----------
    needed
        Whether something that was asked for cannot go without.
    ask_network
        Whether to look for the role of this machine or container too, which is asked for by network.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.get_session()
    try:
        resolver = session.get_component("credential_provider")
        for provider in () if ask_network else _ASK_THE_NETWORK:
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
    if not ask_network:
        what = "none in the environment or in files; a role of this machine was not asked for"
        return warning(
            "AWS keys", what, where="~/.aws", fix="`aws configure`, or set AWS_PROFILE, unless there is a role"
        )
    return failed("AWS keys", "there are no keys to AWS", where="~/.aws", fix="`aws configure`, or set AWS_PROFILE")
