"""``raycompress validate``: checks an experiment file without running anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import print_text
from raycompress.errors import ExperimentError, MissingDependencyError, RaycompressError

if TYPE_CHECKING:
    from raycompress.config.compression import Compression
    from raycompress.config.experiment import Experiment


@click.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON on stdout.")
def validate(file: str, as_json: bool) -> int:
    """Check an experiment FILE, without running anything.

    Every mistake is told at once, with its line and what to write. Exit code 2 when there is one. Whether the names of
    layers are right takes the model: `raycompress plan` and `raycompress launch` look at that.
    """
    from raycompress.config.checks.preflight import check_extras, load_checked

    try:
        experiment = load_checked(file)
        check_extras(experiment)
    except (ExperimentError, MissingDependencyError) as error:
        if not as_json:
            raise
        click.echo(as_data(error))
        return error.exit_code
    found = _found(experiment)
    if as_json:
        click.echo(json.dumps({"valid": True, **found}, indent=2))
        return 0
    for note in experiment.accepted:
        print_text(f"note: {note}", err=True)
    print_text(f"{file}: {_in_words(found)}")
    return 0


def as_data(error: RaycompressError) -> str:
    """Return the mistakes of a file as JSON."""
    problems = [{"what": problem.what, "where": problem.where, "fix": problem.fix} for problem in error.problems]
    return json.dumps({"valid": False, "problems": problems}, indent=2)


def _found(experiment: Experiment) -> dict[str, Any]:
    from raycompress.config.search_space import SearchSpace

    compression = experiment.compression
    space = None if SearchSpace.needs_model(experiment) else SearchSpace.of(experiment)
    return {
        "name": experiment.name,
        "framework": compression.framework,
        "type": compression.type,
        "compressor": compression.compressor,
        "slice": compression.slice,
        "depth": None if compression.depth is None else dict(compression.depth),
        **({"stages": [_stage(stage) for stage in experiment.stages]} if experiment.later else {}),
        "proposer": experiment.proposer if experiment.is_automatic else None,
        "dimensions": None if space is None else [dimension.name for dimension in space.dimensions],
        "n_samples": experiment.n_samples if space is None else space.n_samples(experiment),
        "n_parallel": experiment.n_parallel,
        "target": experiment.target,
        "deployed": [target.to_json() for target in experiment.targets],
        "notes": list(experiment.accepted),
    }


def _stage(stage: Compression) -> dict[str, str]:
    return {"framework": stage.framework, "type": stage.type, "compressor": stage.compressor}


def _in_words(found: dict[str, Any]) -> str:
    sliced = "" if found["slice"] is None else f", sliced {found['slice']} training"
    stages = found.get("stages", [found])
    what = ", then ".join(f"{stage['type']} with {stage['compressor']}" for stage in stages) + sliced
    if found["proposer"] is None:
        return f"{what}, one-time: one trial"
    dimensions = found["dimensions"]
    if dimensions is None:
        space = "dimensions by the layers of the model"
    else:
        space = f"{len(dimensions)} dimension" + ("s" if len(dimensions) != 1 else "")
    samples = "the whole grid" if found["n_samples"] is None else f"{found['n_samples']} trials"
    return (
        f"{what}, {space}, proposer {found['proposer']}, {samples}, {found['n_parallel']} at a time, {found['target']}"
    )
