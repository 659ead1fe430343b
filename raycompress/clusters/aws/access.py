"""The key pair with which we reach the nodes, and the role that the nodes act in."""

from __future__ import annotations

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account, Node
from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.clusters.file.hosts import key_file


def key_pair(account: Account) -> list[Check]:
    """Return whether the key pair is there, on AWS and on this machine."""
    found = key_file(account.cluster)
    names: dict[str, Node] = {}
    for node in account.nodes:
        if "KeyName" in node.config:
            names.setdefault(node.config["KeyName"], node)
    if not found:
        if not names:
            return [Check("key pair", State.OK, f"Ray makes one, ~/.ssh/ray-autoscaler_{account.region}.pem")]
        what = "a KeyName without ssh_private_key: Ray makes a key pair of its own, and takes that"
        fix = "ssh_private_key: the .pem file of that pair"
        return [warning("key pair", what, where=account.cluster.where("auth"), fix=fix)]
    for node in account.nodes:
        if not {"KeyName", "UserData", "LaunchTemplate"} & node.config.keys():
            fix = "KeyName: the name of the pair on AWS, in each node_config"
            what = f"auth has an ssh_private_key, {node.name} no KeyName: Ray refuses that"
            found.append(failed("key pair", what, where=account.where(node), fix=fix))
    return found + [_key_pair(account, name, node) for name, node in names.items()]


def _key_pair(account: Account, key: str, node: Node) -> Check:
    name = f"key pair {key}"
    try:
        account.client("ec2").describe_key_pairs(KeyNames=[key])
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidKeyPair.NotFound":
            raise
        fix = f"`aws ec2 describe-key-pairs --region {account.region}` lists them; a pair belongs to one region"
        where = account.where(node, "KeyName")
        return failed(name, f'there is no key pair "{key}" in {account.region}', where=where, fix=fix)
    return Check(name, State.OK, f"known in {account.region}")


def instance_profiles(account: Account, storage: str) -> list[Check]:
    """Return whether the instance profiles that the file names are there, each with a role."""
    head = account.cluster.data.get("head_node_type")
    named: dict[str, Node] = {}
    found = []
    for node in account.nodes:
        profile = node.config.get("IamInstanceProfile") or {}
        name = str(profile.get("Name") or profile.get("Arn", "").rpartition("/")[2])
        if name:
            named.setdefault(name, node)
        elif node.name == head:
            what = "the head has none: Ray makes one that may do everything with EC2 and S3"
            found.append(warning("instance profile", what, where=account.where(node), fix=_MAKE))
        elif storage.startswith("s3://") and "LaunchTemplate" not in node.config:
            what = f"{node.name} has none, and Ray gives workers none: their trials could not write to {storage}"
            found.append(failed("instance profile", what, where=account.where(node), fix=_MAKE))
    return found + [_profile(account, name, node) for name, node in named.items()]


_MAKE = "make one of `raycompress cluster policy aws`, and name it: IamInstanceProfile: {Name: ...}"


def _profile(account: Account, profile: str, node: Node) -> Check:
    name, where = f"instance profile {profile}", account.where(node, "IamInstanceProfile")
    try:
        roles = account.client("iam").get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        fix = "make it: docs/clusters/aws.md has the commands, `raycompress cluster policy aws` prints the policies"
        return failed(name, f'there is no instance profile "{profile}"', where=where, fix=fix)
    if not roles:
        fix = f"aws iam add-role-to-instance-profile --instance-profile-name {profile} --role-name ROLE"
        return failed(name, f'the instance profile "{profile}" has no role', where=where, fix=fix)
    return Check(name, State.OK, f"role {roles[0]['RoleName']}")
