"""The configuration that the script of a trial reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.script.config import DEPTH_KEY, STAGES_KEY


def trial_config(
    compression: Mapping[str, Any], built: Mapping[str, Any], *, number: int, saves_into: Path | None
) -> dict[str, Any]:
    """Return the configuration that the script reads from ``sys.argv[1]``.

    Parameters
    ----------
    compression
        The part that is the same in all trials.
    built
        What `SearchSpace.build` made of a sample.
    number
        The trial's, under the names that the old tool had for it.
    saves_into
        The trial's candidate folder, absolute, so that a script that writes there by itself need not know where it
        runs; None where no model is kept.
    """
    saving = {} if saves_into is None else {"folder_name": str(saves_into)}
    return {
        **built["parameters"],
        **compression,
        **searched_part(compression, built),
        "tid": number,
        "job_id": number,
        "save_model": saves_into is not None,
        **saving,
    }


def searched_part(compression: Mapping[str, Any], built: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a trial's configuration that a sample decides: what each stage does; see `trial_config`."""
    later = [
        {**fixed, **one} for fixed, one in zip(compression.get(STAGES_KEY, ()), built.get("stages", ()), strict=True)
    ]
    stages = {STAGES_KEY: later} if later else {}
    depth = {DEPTH_KEY: built["depth"]} if "depth" in built else {}
    return {"config_list": built["config_list"], "arguments": built["arguments"], **depth, **stages}
