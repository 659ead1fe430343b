"""The compressor of a trial, made while the model is inspected: what it refuses is known before the first trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.compressors.foresight import Ahead, look_ahead
from raycompress.errors import RaycompressError
from raycompress.script import context
from raycompress.script.context import Trial

Make = Callable[[Mapping[str, Any]], tuple[Any, CompressorEntry, Mapping[str, Any]]]
"""Makes the compressor as in a trial with some keys of its config; returns it, its entry and its arguments."""


def rehearse(trial: Trial, make: Make, example: Any) -> None:
    """Make the compressor and go as far as its first batch; send what it refuses as a message of type ``refused``.

    So is what it would refuse only behind the training: a speed-up or a file that the script goes on to ask for.
    Only errors of ours count: any other is the script's own, which the trial tells with its place. The model is left
    compressed: the script ends here.

    Parameters
    ----------
    trial
        What is asked for is in its ``analysis["rehearse"]``: keys of the config. Nothing is done without.
    make
        See `Make`.
    example
        One input of the model.
    """
    wanted = trial.analysis.get("rehearse")
    if wanted is None:
        return
    ahead = look_ahead()
    if "onnx" in trial.exports:
        ahead = replace(ahead, onnx='"export"')
    context.enter(None)  # budgets and scores are for real trials
    try:
        compressor, entry, arguments = make(wanted)
        if not entry.distribution:
            _rehearse(compressor, entry, arguments, example, ahead)
    except RaycompressError as error:
        problems = [asdict(problem) for problem in error.problems]
        trial.send({"type": "refused", "error": type(error).__name__, "problems": problems})
    except Exception:  # noqa: BLE001 - see above
        return
    finally:
        context.enter(trial)


def _rehearse(
    compressor: Any, entry: CompressorEntry, arguments: Mapping[str, Any], example: Any, ahead: Ahead
) -> None:
    compressor.refuse_ahead(ahead)
    if _is_quick(entry, arguments):
        compressor.rehearse(example, ahead)


def _is_quick(entry: CompressorEntry, arguments: Mapping[str, Any]) -> bool:
    """Tell whether ``compress()`` neither trains nor evaluates."""
    given = [argument for argument in entry.arguments if argument.from_script and argument.name != "criterion"]
    trains = any(callable(arguments.get(argument.name)) for argument in given)
    is_ours = entry.kind == "pruning" or entry.framework == "torch"
    return is_ours and not trains and not entry.returns_small
