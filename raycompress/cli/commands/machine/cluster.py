"""``raycompress cluster``: a cluster's file before there is a cluster, and the cluster while it runs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.commands.machine.cluster_init import init
from raycompress.cli.options import DEFAULT_STORAGE, json_option, print_text

if TYPE_CHECKING:
    from raycompress.clusters.file.files import ClusterFile
    from raycompress.clusters.reach.running import FileCluster

_PROBE_S = 0.5


@click.group()
def cluster() -> None:
    """Write and check a cluster file; see and take down the cluster that it describes.

    FILE is a path, or the name of a file that comes with raycompress.
    """


cluster.add_command(init)


@cluster.command()
@click.argument("file")
@click.option("--storage", default=DEFAULT_STORAGE, show_default=True, help='The "storage" of your experiment.')
@json_option
def check(file: str, storage: str, as_json: bool) -> int:
    """Check FILE, ask its provider whether it will work, and print what an hour costs; nothing is started.

    Exit code 3 when something will not work.
    """
    from raycompress.cli.view import checks
    from raycompress.clusters import cloud

    loaded = _loaded(file)
    found = cloud.checks(loaded, storage)
    estimate = cloud.estimate(loaded)
    if as_json:
        price = None if estimate is None else estimate.as_json()
        data = {"file": str(loaded.path), "checks": checks.as_data(found), "estimate": price}
        click.echo(json.dumps(data, indent=2))
    else:
        checks.show(found)
        checks.show_price(estimate)
    return 3 if checks.has_failed(found) else 0


@cluster.command()
@click.argument("provider", type=click.Choice(["aws"]))
@click.option(
    "--cluster", "file", default="aws.yaml", show_default=True, help="The cluster file that the policies are for."
)
@click.option("--storage", metavar="s3://BUCKET/PREFIX", help='The "storage" of your experiments.')
@click.option("--account", help="The number of the AWS account; AWS is asked by default.")
def policy(provider: str, file: str, storage: str | None, account: str | None) -> None:
    """Print the IAM policies that a cluster needs, and nothing beyond them, as JSON.

    One is for the person who launches, one for the machines, and the last lets machines have theirs.
    """
    from raycompress.clusters.aws.account import Account
    from raycompress.clusters.aws.policies import policies

    loaded = _of_aws(file)
    bucket, _, prefix = (storage or "s3://YOUR-BUCKET").removeprefix("s3://").partition("/")
    if storage is None:
        print_text("note: write your bucket for YOUR-BUCKET, or give --storage s3://bucket/prefix", err=True)
    asked = Account(loaded)
    number = account or _account_number(asked)
    head = loaded.data["available_node_types"][loaded.data["head_node_type"]]["node_config"]
    profile = head.get("IamInstanceProfile") or {}
    role = str(profile.get("Name") or profile.get("Arn", "").rpartition("/")[2])
    click.echo(json.dumps(policies(loaded.name, bucket, prefix, asked.region, number, role), indent=2))


def _of_aws(file: str) -> ClusterFile:
    from raycompress.errors import UsageError

    loaded = _loaded(file)
    if loaded.provider != "aws":
        fix = "name a cluster file of AWS"
        raise UsageError(f"this cluster is on {loaded.provider}", where=loaded.where("provider", "type"), fix=fix)
    return loaded


def _account_number(account: Any) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return str(account.client("sts").get_caller_identity()["Account"])
    except (BotoCoreError, ClientError) as error:
        print_text(f"note: AWS does not tell your account's number ({error}); write it for YOUR-ACCOUNT", err=True)
        return "YOUR-ACCOUNT"


@cluster.command()
@click.argument("file")
@json_option
def status(file: str, as_json: bool) -> None:
    """Show the nodes of the cluster of FILE, and what runs there."""

    running = _running(file)
    try:
        nodes, status = running.jobs.nodes(), running.launcher.ray_status()
    finally:
        running.close()
    expected = running.launcher.n_nodes
    if as_json:
        data = {"cluster": running.file.name, "expected": expected, "nodes": nodes, "status": status}
        click.echo(json.dumps(data, indent=2))
        return
    print_text(f"{running.file.name}: {len(nodes)} of {expected} nodes have joined: {', '.join(nodes)}\n\n{status}")


@cluster.command()
@click.argument("file")
def down(file: str) -> None:
    """Take the cluster of FILE down, and make sure that nothing of it is left."""
    running = _running(file)
    for note in running.down():
        print_text(f"note: {note}", err=True)
    print_text("the cluster is down", err=True)


@cluster.command()
@click.argument("file")
def dashboard(file: str) -> None:
    """Open an SSH tunnel to Ray's dashboard on the cluster of FILE, until Ctrl-C."""
    from raycompress.clusters.reach.jobs import PORT
    from raycompress.clusters.reach.ssh import tunnel
    from raycompress.errors import ClusterError

    launcher = _running(file).launcher
    head = launcher.head()
    with tunnel(launcher.ssh, head, PORT) as opened:
        click.echo(f"http://127.0.0.1:{opened.port}")
        print_text(f"its token: cat {launcher.home.token()}\nCtrl-C closes the tunnel", err=True)
        try:
            while opened.is_open:
                time.sleep(_PROBE_S)
        except KeyboardInterrupt:
            return
    raise ClusterError("the tunnel is broken", where=f"{head}:{PORT}", fix=f"raycompress cluster status {file}")


def _loaded(file: str) -> ClusterFile:
    from raycompress.clusters.file import files

    return files.load(files.find(file))


def _running(file: str) -> FileCluster:
    from raycompress.clusters.reach.running import FileCluster

    return FileCluster(_loaded(file))
