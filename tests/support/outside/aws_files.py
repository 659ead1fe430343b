"""A cluster file for AWS in which all is well, and the account that it speaks of."""

import copy
import json

import yaml

from raycompress.clusters.file import files
from tests.support.outside.aws_server import IMAGE

STORAGE = "s3://results/mine"
_NODE = {
    "InstanceType": "g5.xlarge",
    "ImageId": IMAGE,
    "KeyName": "mine",
    "IamInstanceProfile": {"Name": "raycompress-mine"},
}
GOOD = {
    "cluster_name": "mine",
    "max_workers": 4,
    "provider": {"type": "aws", "region": "us-east-1", "availability_zone": "us-east-1a,us-east-1b"},
    "auth": {"ssh_user": "ubuntu", "ssh_private_key": "~/mine.pem"},
    "available_node_types": {
        "head": {"resources": {}, "node_config": {**_NODE, "InstanceType": "m5.large"}},
        "gpu": {"resources": {}, "node_config": _NODE, "min_workers": 1, "max_workers": 4},
    },
    "head_node_type": "head",
    "head_start_ray_commands": [
        "ray stop",
        "RAY_AUTH_MODE=token ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml",
    ],
    "worker_start_ray_commands": ["ray stop", "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379"],
}


def changed(*path_and_value):
    """Return the good file with one value changed; None takes it out."""
    *path, value = path_and_value
    data = copy.deepcopy(GOOD)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value
    return data


def written(folder, data=GOOD):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return files.load(path)


def furnish(aws, pem, *, key="mine", profile="raycompress-mine", region="us-east-1"):
    """Put into the account what a good file names."""
    ec2, iam = aws.client("ec2", region), aws.client("iam")
    pem.write_text(ec2.create_key_pair(KeyName=key)["KeyMaterial"])
    pem.chmod(0o600)
    aws.client("s3").create_bucket(Bucket="results")
    iam.create_role(RoleName=profile, AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    iam.create_instance_profile(InstanceProfileName=profile)
    iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=profile)
    aws.answers["GetServiceQuota"] = lambda asked: {"Quota": {"QuotaCode": asked["QuotaCode"], "Value": 64.0}}
