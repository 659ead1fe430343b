"""``raycompress launch --cluster``: the same search on a Ray cluster, brought up and torn down around it."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import DEFAULT_STORAGE, print_text
from raycompress.cli.view.tables import display_path
from raycompress.errors import ClusterError, ExperimentError, UsageError

if TYPE_CHECKING:
    from raycompress.clusters.reach.running import Cluster
    from raycompress.clusters.run.attached import Attached
    from raycompress.clusters.run.launch import Again, Outcome
    from raycompress.clusters.ship.package import Package
    from raycompress.config.experiment import Experiment
    from raycompress.results.folder import ExperimentFolder
    from raycompress.results.record import SearchRecord


@dataclass(frozen=True)
class Options:
    """What stands on the command line beside the experiment and the cluster; money in dollars an hour."""

    yes: bool = False
    dry_run: bool = False
    max_cost: float | None = None
    keep: bool = False
    detach: bool = False
    as_json: bool = False


def resume_on_cluster(
    folder: ExperimentFolder, file: Path | None, reference: str, options: Options, n_samples: int | None
) -> None:
    """Go on with the search of `folder` on the cluster that `reference` names, and bring its results here."""
    from raycompress.clusters.run.launch import Again
    from raycompress.clusters.run.mirror import Submitted
    from raycompress.results.record import SearchRecord

    record = SearchRecord(folder)
    if record.finished == "complete" and n_samples is None:
        print_text(f"all {record.header['n_trials']} trials have ended; --n-samples adds some", err=True)
        return
    file = file or Path(record.header["file"])
    if not file.is_file():
        fix = "name it: --file exp.json"
        raise UsageError("the experiment file is not where the search was launched from", where=str(file), fix=fix)
    submitted = Submitted.of(folder)
    there = folder.reference if submitted is None else submitted.folder
    home = Path(DEFAULT_STORAGE) if folder.is_remote else folder.root.parent
    launch_on_cluster(file, reference, options, Again(there, n_samples), home)


def launch_on_cluster(
    file: Path, reference: str, options: Options, again: Again | None = None, home: Path = Path(DEFAULT_STORAGE)
) -> None:
    """Run the experiment in `file` on the cluster that `reference` names, and bring its results to `home`."""
    from raycompress.cli.view.conclusion import conclude
    from raycompress.cli.view.live import LiveView
    from raycompress.clusters.run.launch import Launch, Request, shared_storage
    from raycompress.clusters.ship.package import pack

    experiment = _loaded(file)
    cluster = cluster_of(reference)
    with tempfile.TemporaryDirectory(prefix="raycompress-") as scratch:
        storage = shared_storage(experiment) if again is None else again.folder.rpartition("/")[0]
        package = pack(experiment, Path(scratch))
        _agree(experiment, cluster, storage, package, options)
        if options.dry_run:
            return
        request = Request(experiment, storage, home, keep=options.keep, detach=options.detach, again=again)
        with LiveView() as view:
            outcome = Launch(request, cluster, view, lambda: _leaves_it_running(view)).run(package, Path(scratch))
    if outcome.detached:
        _come_back(outcome, cluster)
        return
    conclude(outcome.record, options.as_json, quiet=outcome.error is not None)
    if outcome.error is not None:
        raise outcome.error


def cluster_of(reference: str) -> Cluster:
    """Return the cluster that `reference` names: a file, or the address of a Jobs API."""
    from raycompress.clusters.file import files
    from raycompress.clusters.reach.running import AddressCluster, FileCluster

    if reference.startswith(("http://", "https://")):
        return AddressCluster(reference)
    if "://" in reference:
        fix = "as in http://127.0.0.1:8265; a tunnel to the head's port 8265 makes it reachable here"
        raise UsageError("the address of a cluster is that of its Jobs API", where=reference, fix=fix)
    return FileCluster(files.load(files.find(reference)))


@contextmanager
def reached(folder: ExperimentFolder) -> Iterator[Attached]:
    """Reach the search of `folder` on its cluster; UsageError where it is a search of this machine."""
    from raycompress.clusters.run.attached import attached

    with attached(folder) as search:
        if search is None:
            fix = "Ctrl-C, where it runs, stops a search of this machine"
            raise UsageError("this search does not run on a cluster", where=str(folder.root), fix=fix)
        yield search


@contextmanager
def brought_up_to_date(folder: ExperimentFolder) -> Iterator[ExperimentFolder]:
    """Copy what has happened on the cluster, where the search of `folder` runs on one and has not ended here."""
    from raycompress.clusters.run.mirror import Submitted
    from raycompress.results.record import SearchRecord

    begun_there = Submitted.of(folder) is not None and SearchRecord(folder).state == "interrupted"
    with ExitStack() as stack:
        if begun_there:
            try:
                search = stack.enter_context(reached(folder))
                stack.enter_context(search.held())
            except ClusterError as error:
                print_text(f"note: the cluster cannot be asked, so this is what was known last\n{error}", err=True)
        yield folder


def bring_here(record: SearchRecord) -> SearchRecord:
    """Copy the results of a search on a cluster here, unless they are; those of other searches are where they are."""
    from raycompress.clusters.run.mirror import Submitted

    is_here = record.finished is not None and record.bundle is not None and record.bundle.exists()
    if Submitted.of(record.folder) is None or is_here:
        return record
    with reached(record.folder) as search:
        return search.fetch()


def follow_on_cluster(folder: ExperimentFolder) -> None:
    """Follow the search of `folder` to its end and bring its results here."""
    from raycompress.cli.view.conclusion import conclude
    from raycompress.cli.view.live import LiveView

    with reached(folder) as search:
        with LiveView() as view:
            follower = search.bring_up_to_date(view, follow=True)
            view.phase("fetching the results")
            record = search.fetch()
        if search.cluster.is_ours and not search.submitted.keep:
            print_text(
                f"the cluster is still up: raycompress cluster down {shlex.quote(search.cluster.name)}", err=True
            )
    conclude(record, quiet=follower.error is not None)
    if follower.error is not None:
        raise follower.error


def _loaded(file: Path) -> Experiment:
    """Read and check the experiment; whether its storage can be written is for the nodes to say."""
    from raycompress.config.checks.preflight import check_files
    from raycompress.config.experiment import Experiment

    experiment = Experiment.load(file)
    storage = experiment.where(("storage",))
    if problems := [problem for problem in check_files(experiment) if problem.where != storage]:
        raise ExperimentError.of(problems)
    return experiment


def _agree(experiment: Experiment, cluster: Cluster, storage: str, package: Package, options: Options) -> None:
    """Check what can be checked without spending anything, show the plan, and have it agreed to."""
    from raycompress.clusters.ship.package import in_megabytes
    from raycompress.config.plugins import plugins_of

    lines = [
        f"search:   {experiment.name}, {experiment.proposer}, {experiment.n_parallel} trials at a time",
        f"sends:    {package.n_files} files, {in_megabytes(package.size)}, from {display_path(experiment.workingdir)}",
        f"results:  {storage}; a copy in {display_path(Path(DEFAULT_STORAGE))}",
        f"cluster:  {cluster.name}",
    ]
    plugins = dict.fromkeys(one.distribution for one in plugins_of(experiment, in_trials=False))
    if plugins:
        lines.append(f"needs:    {', '.join(plugins)}, installed on every node: plug-ins are not sent")
    if cluster.is_ours:
        lines.append(f"costs:    {_price(cluster, storage, options.max_cost)}")
        lines.append("after it: " + ("the cluster stays up" if options.keep else "the cluster is torn down"))
    print_text("\n".join(lines), err=True)
    if options.dry_run or options.yes or not cluster.is_ours:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody is there to agree to starting the cluster", where=cluster.name, fix="agree to it with -y"
        )
    if not click.confirm("start it?", err=True):
        raise click.Abort


def _price(cluster: Cluster, storage: str, limit: float | None) -> str:
    """Ask the provider what it knows; return what the cluster costs, in words."""
    from raycompress.clusters import cloud
    from raycompress.clusters.reach.running import FileCluster

    assert isinstance(cluster, FileCluster)
    found = cloud.checks(cluster.file, storage)
    for check in found:
        print_text(f"{check.state:>11}  {check.name}: {check.detail}", err=True)
    problems = [check.problem for check in found if check.state == "failed" and check.problem is not None]
    if problems:
        raise ClusterError.of(problems)
    estimate = cloud.estimate(cluster.file)
    dollars = None if estimate is None else estimate.dollars_per_hour
    if estimate is None and cluster.file.provider == "local":
        return "nothing that raycompress knows of: the machines are yours"
    if dollars is None:
        if limit is not None:
            raise ClusterError(
                "what the cluster costs is not known, so it cannot be held against --max-cost",
                where=cluster.name,
                fix="leave --max-cost out, once you have looked the price up",
            )
        return "not known"
    if limit is not None and dollars > limit:
        raise ClusterError(
            f"the cluster costs {dollars:.2f} dollars an hour, more than the {limit:g} of --max-cost",
            where=cluster.name,
            fix="take fewer or smaller nodes, or spot ones",
        )
    return f"about {dollars:.2f} dollars an hour (source: {'' if estimate is None else estimate.source})"


def _leaves_it_running(view: object) -> bool:
    """Ask at Ctrl-C; where nobody can answer, the search is stopped."""
    from raycompress.cli.view.live import LiveView

    if not sys.stdin.isatty():
        return False
    assert isinstance(view, LiveView)
    with view.paused():
        answer = click.prompt(
            "leave it running (l), or stop it and tear the cluster down (s)?", type=click.Choice(["l", "s"]), err=True
        )
    return str(answer) == "l"


def _come_back(outcome: Outcome, cluster: Cluster) -> None:
    """Print the commands for a search that was left running."""
    name = shlex.quote(display_path(outcome.folder.root))
    rows = [("status", name), ("logs", f"--follow {name}"), ("stop", name), ("fetch", name)]
    lines = [f"raycompress {verb} {rest}" for verb, rest in rows]
    if cluster.is_ours:
        lines.append(f"raycompress cluster down {shlex.quote(cluster.name)}")
    print_text("the search runs on without this command; to come back to it:\n  " + "\n  ".join(lines))
