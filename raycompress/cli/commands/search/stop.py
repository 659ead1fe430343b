"""``raycompress stop``: stops a search on a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from raycompress.cli.options import experiment_argument, open_record, print_text


@click.command()
@experiment_argument
def stop(experiment: str | None, storage: Path) -> None:
    """Stop EXPERIMENT, which runs on a cluster; it keeps its best model so far."""
    from raycompress.cli.commands.search.on_cluster import reached
    from raycompress.cli.view.live import LiveView

    folder = open_record(experiment, storage).folder
    with reached(folder) as search:
        search.stop()
        if not folder.is_written():  # by one that follows it
            with LiveView() as view:
                search.bring_up_to_date(view)
    print_text("stopped; `raycompress fetch` brings its results here", err=True)
