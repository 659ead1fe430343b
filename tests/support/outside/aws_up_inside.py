"""A cluster on moto's AWS, brought up by `ray up` or `launch`, told as JSON; to be run where there is loopback only.

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
from tests.support.outside import aws_server
from tests.support.outside.aws_files import furnish

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


def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    made = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=200,
    )
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


def by_ray(
    aws: aws_server.Aws, file: Path, environment: dict[str, str], policy: dict[str, object]
) -> dict[str, object]:
    """Go up and down as a person who has our policy and nothing else."""
    region = environment["AWS_DEFAULT_REGION"]
    environment = {**environment, **aws.user("person", policy)}
    code, said = run(["ray.scripts.scripts", "up", "-y", str(file)], environment)
    aws.post("reset-auth", "inf")
    told = {"code": code, "said": said, "machines": machines(aws, region)}
    groups = aws.client("ec2", region).describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["ray-autoscaler-*"]}]
    )["SecurityGroups"]
    told |= {"rules": groups[0]["IpPermissions"] if groups else []}
    aws.post("reset-auth", "0")
    code, said = run(["ray.scripts.scripts", "down", "-y", str(file)], environment)
    aws.post("reset-auth", "inf")
    return told | {"down_code": code, "down_said": said, "after": machines(aws, region)}


def by_launch(aws: aws_server.Aws, file: Path, environment: dict[str, str], experiment: str) -> dict[str, object]:
    code, said = run(["raycompress", "launch", experiment, "--cluster", str(file), "-y"], environment)
    log = [path.read_text() for path in Path(environment["HOME"]).glob(".raycompress/clusters/*/ray.log")]
    region = environment["AWS_DEFAULT_REGION"]
    return {"code": code, "said": said, "log": "".join(log), "machines": machines(aws, region)}


def main(file: Path, experiment: str | None) -> None:
    refuse_a_network()
    data, home = yaml.safe_load(file.read_text()), Path(os.environ["HOME"])
    name, region = data["cluster_name"], data["provider"]["region"]
    node = data["available_node_types"][data["head_node_type"]]["node_config"]
    profile = node["IamInstanceProfile"]["Name"]
    with aws_server.server(home) as aws:
        pem = Path(data["auth"]["ssh_private_key"]).expanduser()
        pem.parent.mkdir(exist_ok=True)
        furnish(aws, pem, key=node["KeyName"], profile=profile, region=region)
        environment = {
            **os.environ,
            **aws_server.ENVIRONMENT,
            "AWS_DEFAULT_REGION": region,
            "AWS_ENDPOINT_URL": aws.url,
            "AUTOSCALER_NODE_START_WAIT_S": "3",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        if experiment is None:
            person = policies(name, "results", "mine", region, aws_server.ACCOUNT, profile)["person"]
            told = by_ray(aws, file, environment, person)
        else:
            told = by_launch(aws, file, environment, experiment)
    (home / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
