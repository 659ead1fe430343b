"""What channels are kept in multiples of where the experiment file leaves that open and deployment targets tell."""

from __future__ import annotations

import math
from dataclasses import replace

from raycompress.config.checks.preflight import check_model
from raycompress.config.experiment import Experiment
from raycompress.config.matching import round_to_of
from raycompress.config.schema.ranges import is_range
from raycompress.config.search_space import SearchSpace
from raycompress.forecast.fits import predicted_in
from raycompress.forecast.forecast import Forecast, why_not
from raycompress.forecast.projection import Projection, check_budgets
from raycompress.model.costs import CostModel
from raycompress.model.info import ModelInfo
from raycompress.model.latency_table import LATENCY


def with_round_to(experiment: Experiment, model: ModelInfo | None) -> Experiment:
    """Return the experiment with the ``round_to`` that was chosen; see `ModelInfo.round_to`."""
    return experiment if model is None or model.round_to is None else _rounded(experiment, model.round_to)


def round_to_of_targets(experiment: Experiment, model: ModelInfo) -> int | None:
    """Return what channels are to be a multiple of, since the deployment targets are faster at that.

    It is the least common multiple of the compressor's default and of what the targets whose latency counts compute
    channels in multiples of, as far as that is beyond chance. It is halved until every group of channels that could
    lose some still can, and samples still keep to the budgets.

    Returns
    -------
    int or None
        None where the file or the script says it, where nothing is gained, or where sizes are not predicted.
    """
    costs = model.costs
    if model.script_round_to is not None or costs is None or not _leaves_round_to_open(experiment):
        return None
    if check_model(experiment, model)[0] or why_not(experiment, model, costs):
        return None
    compression = experiment.compression
    least = round_to_of(compression.entry, compression.arguments)
    asked = predicted_in(experiment, [LATENCY])
    known = [one.multiple for one in model.latency_models if one.is_stepped and one.target in asked]
    round_to = math.lcm(least, *known)
    while round_to > least and round_to % least == 0:
        if _leaves_choice(experiment, _rounded(experiment, round_to), model, costs):
            return round_to
        round_to //= 2
    return None


def _leaves_round_to_open(experiment: Experiment) -> bool:
    """Tell whether the compressor rounds channels, and the file does not say to what."""
    compression = experiment.compression
    entry, arguments = compression.entry, compression.arguments
    if entry.argument("round_to") is None or "round_to" in arguments:
        return False
    if not entry.base:
        return True
    # of NNI's methods that another one runs inside those round that remove filters
    return entry.layer_types == ("Conv2d",) and not is_range(arguments.get(entry.base))


def _rounded(experiment: Experiment, round_to: int) -> Experiment:
    arguments = {**experiment.compression.arguments, "round_to": round_to}
    return replace(experiment, compression=replace(experiment.compression, arguments=arguments))


def _leaves_choice(plain: Experiment, rounded: Experiment, model: ModelInfo, costs: CostModel) -> bool:
    """Tell whether with coarser widths channels can go wherever they can without, and samples keep to the budgets."""
    if check_model(rounded, model)[0]:
        return False

    def most_removed(experiment: Experiment) -> list[int]:
        space = SearchSpace.of(experiment, model)
        config = {**space.build(space.smallest()), "depth": {}}  # all blocks
        return Forecast.of(experiment, model, costs).removed(config)

    if any(before and not now for before, now in zip(most_removed(plain), most_removed(rounded), strict=True)):
        return False
    forecast = Forecast.of(rounded, model, costs)
    return not list(check_budgets(rounded, Projection.of(rounded, SearchSpace.of(rounded, model), forecast)))
