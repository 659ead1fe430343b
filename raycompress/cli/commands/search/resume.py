"""``raycompress resume``: go on with a search that was killed or stopped, or add trials to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import (
    cluster_options,
    dashboard_option,
    experiment_argument,
    job_options,
    ray_of,
    watching,
)

if TYPE_CHECKING:
    from raycompress.config.places import Storage


@click.command()
@experiment_argument
@click.option("--n-samples", type=click.IntRange(min=1), help="How many samples in all from now on; may only rise.")
@click.option("--file", type=click.Path(path_type=Path), help="The experiment file, if it has moved.")
@dashboard_option
@job_options
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def resume(
    experiment: str | None,
    storage: Storage,
    n_samples: int | None,
    file: Path | None,
    dashboard: bool,
    on_ray: str | None,
    events: bool,
    as_json: bool,
    cluster: str | None,
    **cluster_settings: Any,
) -> None:
    """Go on with EXPERIMENT (its id, the beginning of one, or its folder; the newest by default).

    Trials that have ended are not run again, and the searcher knows their results; those that were running are begun
    once more. A search that is complete is extended with --n-samples. With --cluster it goes on on a Ray cluster.
    """
    from raycompress.cli.view.conclusion import conclude
    from raycompress.results import store
    from raycompress.session.launch import resume as resume_search

    folder = store.find(experiment, storage)
    if cluster is not None:
        from raycompress.cli.commands.search.on_cluster import Options, resume_on_cluster

        resume_on_cluster(folder, file, cluster, Options(**cluster_settings, as_json=as_json), n_samples)
        return
    with watching(events) as view:
        record = resume_search(folder, view, file=file, n_samples=n_samples, ray=ray_of(on_ray, dashboard))
    conclude(record, as_json, quiet=events)
