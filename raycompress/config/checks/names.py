"""Checks of names that must be one of those which fit the keys beside them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycompress.catalog import COMPRESSORS, FRAMEWORKS, CompressorEntry
from raycompress.catalog.exports import EXPORTS
from raycompress.config.schema.ranges import Finding
from raycompress.text import closest_name, join_names

KINDS = ("pruning", "quantization")
_CERTAIN = 0.85
"""From this similarity on a name is a slip of the pen, and what goes with it is checked too."""
_OF_NNI: Mapping[str, str] = {
    **dict.fromkeys(("L1FilterPruner", "L1NormPruner"), "l1_filter"),
    **dict.fromkeys(("L2FilterPruner", "L2NormPruner"), "l2_filter"),
    "FPGMPruner": "fpgm",
    "LevelPruner": "level",
    "SlimPruner": "slim",
    **dict.fromkeys(("AGPPruner", "LinearPruner"), "agp"),
    **dict.fromkeys(("TaylorFOWeightFilterPruner", "TaylorFOWeightPruner", "TaylorPruner"), "taylor_fo_weight_filter"),
    "ActivationAPoZRankFilterPruner": "activation_apoz_rank_filter",
    "ActivationAPoZRankPruner": "activation_apoz_rank_filter",
    "ActivationMeanRankFilterPruner": "activation_mean_rank_filter",
    "ActivationMeanRankPruner": "activation_mean_rank_filter",
    "ADMMPruner": "admm",
    "LotteryTicketPruner": "lottery_ticket",
    "SensitivityPruner": "sensitivity",
    "NetAdaptPruner": "net_adapt",
    "SimulatedAnnealingPruner": "simulated_annealing",
    **dict.fromkeys(("AutoCompressPruner",), "auto_compress"),
    "AMCPruner": "amc",
    **dict.fromkeys(("QAT_Quantizer", "QATQuantizer"), "qat"),
    **dict.fromkeys(("LsqQuantizer", "LsqPlusQuantizer"), "lsq"),
    **dict.fromkeys(("DoReFaQuantizer", "DoReFa_Quantizer"), "dorefa"),
    **dict.fromkeys(("BNNQuantizer", "BNN_Quantizer"), "bnn"),
    "NaiveQuantizer": "naive",
    "ObserverQuantizer": "observer",
    "PtqQuantizer": "ptq_static",
}
"""NNI's classes, which scripts and tutorials name, and what they are called here."""


def fitting(framework: Any, kind: Any) -> list[CompressorEntry]:
    """Return the compressors of a framework and of a kind; of all, where one of the two is no such name."""
    return [
        one
        for one in COMPRESSORS.all()[0]
        if (framework not in FRAMEWORKS or one.framework == framework) and (kind not in KINDS or one.kind == kind)
    ]


def closest_compressor(compression: Mapping[str, Any]) -> CompressorEntry | None:
    """Return the compressor that a wrong name was meant to be, of the framework and type that the file names."""
    wrong = compression.get("compressor")
    options = fitting(compression.get("framework"), compression.get("type"))
    name = _OF_NNI.get(wrong) if isinstance(wrong, str) else None
    name = name or _part_of(wrong, options) or closest_name(wrong, [one.name for one in options])
    return next((one for one in options if one.name == name), None)


def _part_of(wrong: Any, options: Sequence[CompressorEntry]) -> str | None:
    """Return the first compressor whose name has all words of a wrong one, as "l1" or "int8"; or the reverse."""
    words = set(re.split(r"[\W_]+", wrong.lower())) if isinstance(wrong, str) else set()
    names = {one.name: set(one.name.split("_")) for one in options}
    return next((name for name, own in names.items() if words and (words <= own or own <= words)), None)


def slipped(compression: Mapping[str, Any]) -> CompressorEntry | None:
    """Return the compressor of which a wrong name is a mere slip of the pen; None where it is only like one."""
    near, wrong = closest_compressor(compression), str(compression.get("compressor"))
    if near is None or difflib.SequenceMatcher(None, wrong.lower(), near.name).ratio() < _CERTAIN:
        return None
    return near


def check_compressor(compression: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield that there is no compressor of this name, if so."""
    name = compression.get("compressor")
    if not isinstance(name, str) or name in COMPRESSORS.names():
        return
    every = "`raycompress compressors` lists them all"
    near, framework, kind = closest_compressor(compression), compression.get("framework"), compression.get("type")
    if near is not None and _part_of(name, [near]) is None and _part_of(name, fitting(framework, None)):
        near = None  # one of the other type has that very word
    if near is not None:
        fix = f'did you mean "{near.name}"? {every}'
    elif other := closest_compressor({"compressor": name}):
        fix = f'did you mean "{other.name}", with "framework": "{other.framework}" and "type": "{other.kind}"? {every}'
    else:
        fix = f"use one of {join_names(one.name for one in fitting(framework, kind))}; {every}"
    yield Finding(("compression", "compressor"), f'unknown compressor "{name}"', fix)


def check_export_names(wanted: Sequence[Any], framework: str) -> Iterator[Finding]:
    """Yield each form of a model that there is none of."""
    for place, name in enumerate(wanted):
        if not isinstance(name, str) or name in EXPORTS.names():
            continue
        options = [one.name for one in EXPORTS.all()[0] if one.framework == framework]
        near = closest_name(name, options)
        fix = f'did you mean "{near}"?' if near else f"use one of {join_names(options)}"
        yield Finding(("export", place), f'unknown export "{name}"', fix)
