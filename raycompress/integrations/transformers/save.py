"""Saves a compressed model as transformers does, for ``from_pretrained`` in a process without raycompress."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycompress.bundle.example import Example, device_of
from raycompress.compressors.structure.plan import plan_of
from raycompress.compressors.wrappers import inside
from raycompress.errors import CompressionError, UsageError
from raycompress.extras import load_extra
from raycompress.integrations.transformers.custom_code import CODE, load_code, write_code
from raycompress.integrations.transformers.stock import (
    EXTRA,
    NARROWED,
    computes_the_same,
    fit_config,
    size_changes,
    stock_class,
)
from raycompress.text import join_names

_WHERE = "save_pretrained"


@dataclass(frozen=True)
class Saved:
    """What `save_pretrained` wrote.

    Attributes
    ----------
    folder
        Where.
    is_stock
        Whether ``from_pretrained`` loads it as it is. Otherwise it needs ``trust_remote_code=True``.
    changed
        The fields of config.json that differ from the dense model's: name -> (old value, new value).
    """

    folder: Path
    is_stock: bool
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in self.changed.items())
        if self.is_stock:
            return f"{self.folder}: for from_pretrained of stock transformers{f' ({sizes})' if sizes else ''}"
        return (
            f"{self.folder}: its layers have widths that no config.json of a stock model says, so that code of the "
            "folder narrows them: from_pretrained(..., trust_remote_code=True)"
        )


def save_pretrained(model: Any, folder: str | Path, example_inputs: Any) -> Saved:
    """Save a compressed model of transformers so that it loads without raycompress.

    Where a stock model can have its sizes, config.json says them, and `model` gets that config too: a folder for
    ``from_pretrained``, and for whatever else reads such folders. Where it cannot, since widths differ from layer to
    layer, the folder has code of its own. In both cases the folder is loaded and compared before this returns.

    Parameters
    ----------
    model
        A ``PreTrainedModel``, compressed by raycompress in this process; one that was not is saved as it is.
    folder
        A new folder, or one whose files are replaced.
    example_inputs
        An input, as ``dummy_input`` is given: what is saved has to give the model's outputs for it.

    Raises
    ------
    UsageError
        The model is none of transformers.
    CompressionError
        What was written does not compute what the model does; the folder is as it was.
    """
    model = inside(model, _WHERE)
    library = load_extra("transformers", EXTRA, _WHERE)
    if not isinstance(model, library.PreTrainedModel):
        raise UsageError(
            f"{type(model).__name__} is no PreTrainedModel of transformers",
            where=_WHERE,
            fix="save it by export_model of its compressor",
        )
    example = Example.for_model(example_inputs, model)
    device = device_of(model)
    place = Path(folder)
    aside = place.with_name(f"{place.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _no_progress_bars():
            saved = _written(model, example if device is None else example.to(device), aside, place)
        _move_in(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"raycompress: {saved}", file=sys.stderr)
    return saved


def _written(model: Any, example: Example, aside: Path, place: Path) -> Saved:
    if dropped := plan_of(model).dropped:
        raise CompressionError(
            f"no config.json says that {join_names(dropped)} of {type(model).__name__} were dropped",
            where=_WHERE,
            fix="save it by export_model of its compressor, and load that by raycompress.load",
        )
    kind: Any = stock_class(model) if hasattr(model.config, NARROWED) else type(model)
    is_stock = fit_config(model, example)
    model.save_pretrained(aside)
    if not is_stock and plan_of(model).modules:
        kind = _with_code(model, aside)
    loaded = kind.from_pretrained(
        aside, dtype=model.dtype, attn_implementation=getattr(model.config, "_attn_implementation", None)
    )
    device = device_of(model)
    loaded = loaded if device is None else loaded.to(device)
    if not computes_the_same(model, loaded, example):
        raise CompressionError(
            f"the {type(model).__name__} that from_pretrained makes of the saved folder gives other outputs",
            where=_WHERE,
            fix="save it by export_model of its compressor, and load that by raycompress.load",
        )
    return Saved(place, is_stock, size_changes(model) if is_stock else {})


def _with_code(model: Any, aside: Path) -> Any:
    stock = stock_class(model)
    if stock is None or (stock is not type(model) and not hasattr(model.config, NARROWED)):
        raise CompressionError(
            f"no config gives the layers of {type(model).__name__} the widths that they have, and it is a class that "
            "transformers has not, which code in the saved folder would need",
            where=_WHERE,
            fix='ask for equal widths by "uniform": true, or save it by export_model of its compressor',
        )
    write_code(aside, stock, model.config, plan_of(model))
    return load_code(aside, stock)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    logging = importlib.import_module("transformers.utils.logging")
    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_shown:
            logging.enable_progress_bar()


def _move_in(aside: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for pattern in ("model*.safetensors", "model*.index.json", CODE):  # of a model that was saved there before
        for old in place.glob(pattern):
            old.unlink()
    for file in aside.iterdir():
        file.replace(place / file.name)
