"""`ray up` of a cluster file against moto's server, told as JSON; to be run where there is no network but loopback.

moto gives machines public addresses that exist: this must not run where anything could be reached at one.
"""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from raycompress.clusters.aws.policies import policies
from tests.clusters import aws_server
from tests.clusters.aws_files import furnish

# reserved for documentation: nobody has it
_SOMEWHERE = ("198.51.100.1", 22)


def refuse_a_network() -> None:
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is more than loopback here"
    try:
        socket.create_connection(_SOMEWHERE, timeout=2)
    except OSError as error:
        assert error.errno == errno.ENETUNREACH, error
    else:
        raise AssertionError("there is a way out of here")


def ray(verb: str, file: Path, environment: dict[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", verb, "-y", str(file)]
    made = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return made.returncode, made.stdout.decode()


def machines(aws: aws_server.Aws, region: str) -> list[dict[str, object]]:
    found = aws.client("ec2", region).describe_instances()["Reservations"]
    return [
        {
            "type": machine["InstanceType"],
            "state": machine["State"]["Name"],
            "address": machine.get("PublicIpAddress"),
            "tags": {tag["Key"]: tag["Value"] for tag in machine["Tags"]},
            "profile": machine.get("IamInstanceProfile", {}).get("Arn", ""),
        }
        for reservation in found
        for machine in reservation["Instances"]
    ]


def main(file: Path) -> None:
    refuse_a_network()
    data, home = yaml.safe_load(file.read_text()), Path(os.environ["HOME"])
    name, region = data["cluster_name"], data["provider"]["region"]
    node = data["available_node_types"][data["head_node_type"]]["node_config"]
    profile = node["IamInstanceProfile"]["Name"]
    with aws_server.server(home) as aws:
        pem = Path(data["auth"]["ssh_private_key"]).expanduser()
        pem.parent.mkdir(exist_ok=True)
        furnish(aws, pem, key=node["KeyName"], profile=profile, region=region)
        person = policies(name, "results", "mine", region, aws_server.ACCOUNT, profile)["person"]
        environment = {
            **os.environ,
            **aws_server.ENVIRONMENT,
            **aws.user("person", person),
            "AWS_ENDPOINT_URL": aws.url,
            "AUTOSCALER_NODE_START_WAIT_S": "8",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        code, said = ray("up", file, environment)
        aws.post("reset-auth", "inf")
        up = machines(aws, region)
        groups = aws.client("ec2", region).describe_security_groups(
            Filters=[{"Name": "group-name", "Values": [f"ray-autoscaler-{name}"]}]
        )["SecurityGroups"]
        aws.post("reset-auth", "0")
        down_code, down_said = ray("down", file, environment)
        aws.post("reset-auth", "inf")
        told = {"code": code, "said": said, "machines": up, "rules": groups[0]["IpPermissions"] if groups else []}
        told |= {"down_code": down_code, "down_said": down_said, "after": machines(aws, region)}
    (home / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
