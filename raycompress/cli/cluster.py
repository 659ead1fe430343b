"""``raycompress cluster``: a cluster's file before it starts, and its nodes while they run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import json_option, say

if TYPE_CHECKING:
    from raycompress.clusters.check import Estimate
    from raycompress.clusters.files import ClusterFile
    from raycompress.clusters.launcher import Launcher


@click.group()
def cluster() -> None:
    """Write, check and look after a Ray cluster's file and its nodes."""


@cluster.command()
@click.argument("template", default="aws")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; here, under its own name.")
@click.option("--name", help="The name of the cluster.")
@click.option("--region", help="The cloud's region.")
@click.option("--zones", help="Availability zones, with commas between.")
@click.option("--image", help="AWS: the image of the nodes.")
@click.option("--key-file", help="The file of your private SSH key.")
@click.option("--key-name", help="AWS: the name of the key pair.")
@click.option("--project", help="Google Cloud: the project.")
@click.option("--head", help="Machines of your own: the address of the head.")
@click.option("--user", help="Machines of your own: the account on them.")
@click.option("--workers", type=click.IntRange(0), help="The most workers that there may be.")
def init(template: str, output: Path | None, **given: Any) -> None:
    """Write a commented copy of the shipped cluster file TEMPLATE, with your values in it."""
    from raycompress.clusters import files
    from raycompress.clusters import template as filling
    from raycompress.errors import UsageError

    source = files.find_shipped(template)
    target = output or Path(source.name)
    if target.exists():
        raise UsageError(f"{target} is there already", where="--output", fix="name another file, or remove that one")
    text = source.read_text(encoding="utf-8")
    kind = source.stem.split("-")[0]
    keys = filling.QUESTIONS.get(kind, {})
    foreign = [option for option, value in given.items() if value is not None and option not in keys]
    if foreign:
        fix = f"it takes {', '.join('--' + option.replace('_', '-') for option in keys) or 'none'}"
        raise UsageError(f"{source.name} has no place for --{foreign[0].replace('_', '-')}", where=template, fix=fix)
    values = _asked(text, keys, given)
    if kind == "aws" and "region" in values and given["zones"] is None and "availability_zone" not in values:
        values["availability_zone"] = ",".join(f"{values['region']}{letter}" for letter in "ab")
    _write(target, filling.fill(text, values))
    if keys:
        files.load(target)
    missing = [key for key in keys.values() if key not in values and not filling.value_of(text, key)]
    say(f"{target}: what must be edited stands at its top" + (f"; {', '.join(missing)} first" if missing else ""))
    say(f"next: raycompress cluster check {target}" if keys else f"next: kubectl apply -f {target}", err=True)


def _write(target: Path, text: str) -> None:
    from raycompress.results.disk import told, write_whole

    with told("cannot write", target):
        write_whole(target, text)


def _asked(text: str, keys: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """Return values by the file's keys: those given, and at a terminal the answers, where they change something."""
    from raycompress.clusters.template import value_of

    values = {}
    for option, key in keys.items():
        usual, value = value_of(text, key), given[option]
        if value is None and sys.stdin.isatty():
            if option == "zones" and "region" in values:
                continue
            value = click.prompt(key, default=usual, show_default=bool(usual), err=True, type=type(usual))
            value = int(value) if option == "workers" and value.isdigit() else value
        if value not in (None, "", usual):
            values[key] = value
    return values


@cluster.command()
@click.argument("file")
@click.option("--storage", default="", help="Where results are to go, such as s3://bucket/prefix.")
@json_option
def check(file: str, storage: str, as_json: bool) -> int:
    """Check a cluster FILE, and what its cloud needs; show what an hour costs. Nothing is started."""
    from raycompress.cli.checklist import print_checks
    from raycompress.clusters import cloud

    loaded = _loaded(file)
    checks = cloud.checks(loaded, storage)
    estimate = cloud.estimate(loaded)
    if as_json:
        price = None if estimate is None else estimate.as_json()
        found = [each.as_json() for each in checks]
        click.echo(json.dumps({"file": str(loaded.path), "checks": found, "estimate": price}, indent=2))
    else:
        say(f"{loaded.path}: well-formed, closed to the world, with token authentication\n")
        print_checks(checks)
        say("\n" + (_price_table(estimate) if estimate else f'of the provider "{loaded.provider}" no price is known'))
    return 3 if any(each.state == "failed" for each in checks) else 0


def _price_table(estimate: Estimate) -> str:
    from raycompress.cli.words import columns

    rows = [("nodes", "at most", "type", "$/hour each", "source")]
    for node in estimate.nodes:
        price = "?" if node.dollars is None else f"{node.dollars:.3f}"
        rows.append((node.node_type, str(node.count), node.instance_type, price, node.source))
    dollars = estimate.dollars_an_hour
    total = "not known" if dollars is None else f"about {dollars:.2f} dollars an hour"
    return f"{columns(rows, left=(0, 2, 4))}\n\nall of them: {total}, without disks and traffic"


@cluster.command()
@click.argument("provider", type=click.Choice(["aws"]))
@click.option("--name", default="raycompress", show_default=True, help="The cluster_name of the cluster file.")
@click.option("--bucket", default="", help="Where results go: s3://bucket/prefix.")
@click.option("--role", default="raycompress", show_default=True, help="The nodes' role and instance profile.")
@click.option("--region", default="*", show_default=True)
@click.option("--account", default="*", show_default=True, help="The number of the account.")
def policy(provider: str, name: str, bucket: str, role: str, region: str, account: str) -> None:
    """Print least-privilege IAM policies, as JSON: for the person who launches, for the nodes, and their trust."""
    from raycompress.clusters.aws.policies import Scope, policies

    click.echo(json.dumps(policies(Scope(name, role, bucket, region, account)), indent=2))


@cluster.command()
@click.argument("file")
def status(file: str) -> None:
    """Show what runs on the cluster of FILE, in Ray's own words."""
    say(_launcher(file).status())


@cluster.command()
@click.argument("file")
def down(file: str) -> None:
    """End the cluster of FILE, and make sure that nothing of it is left."""
    for note in _launcher(file).down():
        say(note, err=True)
    say("the cluster is down; none of its nodes is left", err=True)


@cluster.command()
@click.argument("file")
def dashboard(file: str) -> None:
    """Open an SSH tunnel to the dashboard of the cluster of FILE, until Ctrl-C."""
    import time

    from raycompress.clusters.ssh import tunnel
    from raycompress.errors import ClusterError

    launcher = _launcher(file)
    with tunnel(launcher.ssh, launcher.head(), 8265) as opened:
        click.echo(f"http://127.0.0.1:{opened.port}")
        say(f"its token: cat {launcher.home.token()}\nCtrl-C closes the tunnel", err=True)
        try:
            while opened.is_open:
                time.sleep(0.5)
        except KeyboardInterrupt:
            return
    raise ClusterError(
        "the tunnel to the dashboard broke", where=file, fix="`raycompress cluster status` says how it is"
    )


def _loaded(file: str) -> ClusterFile:
    from raycompress.clusters import files

    return files.load(files.find(file))


def _launcher(file: str) -> Launcher:
    from raycompress.clusters.launcher import Launcher

    return Launcher(_loaded(file).data)
