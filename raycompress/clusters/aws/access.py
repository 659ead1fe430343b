"""The key pair with which we reach the nodes, and the role that the nodes act in."""

from __future__ import annotations

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account, Node
from raycompress.clusters.check import Check, State, failed, warning
from raycompress.clusters.hosts import key_file


def key_pair(account: Account) -> list[Check]:
    """Return whether the key pair is there, on AWS and on this machine."""
    found = key_file(account.cluster)
    names = {node.config["KeyName"]: node for node in account.nodes if "KeyName" in node.config}
    if not found:
        # Ray would make a pair of its own, which our tunnel to the head knows nothing of
        where, fix = account.cluster.where("auth"), "ssh_private_key: the .pem file of your key pair"
        return [failed("key pair", "auth names no ssh_private_key", where=where, fix=fix)]
    without = [node for node in account.nodes if "KeyName" not in node.config]
    if without:
        fix = "KeyName: the name of the pair on AWS, in each node_config"
        what = f"auth has an ssh_private_key, {without[0].name} no KeyName"
        found.append(failed("key pair", what, where=account.where(without[0]), fix=fix))
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


def instance_profile(account: Account) -> list[Check]:
    """Return whether the instance profiles that the file names are there, each with a role."""
    head = account.cluster.data.get("head_node_type")
    found, seen = [], set()
    for node in account.nodes:
        profile = node.config.get("IamInstanceProfile") or {}
        name = str(profile.get("Name") or profile.get("Arn", "").rpartition("/")[2])
        if not name and node.name == head:
            what = "the head has none: Ray makes one that may do everything with EC2 and S3"
            fix = "make one from `raycompress cluster policy aws`, and name it: IamInstanceProfile: {Name: ...}"
            found.append(warning("instance profile", what, where=account.where(node), fix=fix))
        if name and name not in seen:
            found.append(_profile(account, name, node))
        seen.add(name)
    return found


def _profile(account: Account, profile: str, node: Node) -> Check:
    name, where = f"instance profile {profile}", account.where(node, "IamInstanceProfile")
    try:
        roles = account.client("iam").get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        fix = "make it: `raycompress cluster policy aws` prints the policies, docs/cluster.md the commands"
        return failed(name, f'there is no instance profile "{profile}"', where=where, fix=fix)
    if not roles:
        fix = f"aws iam add-role-to-instance-profile --instance-profile-name {profile} --role-name ROLE"
        return failed(name, f'the instance profile "{profile}" has no role', where=where, fix=fix)
    return Check(name, State.OK, f"role {roles[0]['RoleName']}")
