"""A folder for ``trust_remote_code=True``: a few lines narrow the layers of a stock model, each to its own width.

They are written for people to read: whoever loads the folder runs them.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.compressors.structure.plan import SlicingPlan
from raycompress.integrations.transformers.stock import NARROWED

CODE = "modeling_narrowed.py"

_TEMPLATE = '''"""{stock} with narrower layers, whose widths are in config.json under "{key}". Written by raycompress.

    {auto}.from_pretrained(FOLDER, trust_remote_code=True)
"""

from torch import nn
from transformers import {stock}


class {name}({stock}):
    """{stock}, each of whose layers is as wide as config.json says."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        narrow(self, config.{key})
        self.tie_weights()


def narrow(model, changes):
    """Give modules of a stock model fewer channels, before its weights are loaded.

    `changes` has, for each module, "attributes": name -> new size, and "tensors": name -> new shape.
    """
    narrowed = {{}}  # tied weights, which are one tensor in two modules, stay one
    for module_name, change in changes.items():
        module = model.get_submodule(module_name)
        for name, size in change["attributes"].items():
            setattr(module, name, tuple(size) if isinstance(getattr(module, name), tuple) else size)
        for name, shape in change["tensors"].items():
            old = getattr(module, name)
            if id(old) not in narrowed:
                part = old.detach()[tuple(slice(size) for size in shape)].clone()
                new = nn.Parameter(part, old.requires_grad) if isinstance(old, nn.Parameter) else part
                narrowed[id(old)] = old, new
            setattr(module, name, narrowed[id(old)][1])
'''


def write_code(folder: Path, stock: type, config: Any, plan: SlicingPlan) -> None:
    """Write the code and the config of a sliced model into a folder that has its weights.

    Parameters
    ----------
    stock
        The class of transformers that the model is of.
    config
        The dense model's.
    plan
        What was sliced off the model that `config` describes.
    """
    name, autos = f"Narrowed{stock.__name__}", auto_classes(stock, type(config))
    (folder / CODE).write_text(_TEMPLATE.format(stock=stock.__name__, name=name, key=NARROWED, auto=autos[0]))
    written = copy.deepcopy(config)
    setattr(written, NARROWED, _merged(getattr(config, NARROWED, {}), plan.to_json()["modules"]))
    written.auto_map = {auto: f"{Path(CODE).stem}.{name}" for auto in autos}
    written.architectures = [name]
    written.save_pretrained(folder)


def load_code(folder: Path, stock: type) -> Any:
    """Return the class that the written code defines, as a loader that trusts it would."""
    spec = importlib.util.spec_from_file_location("raycompress_narrowed", folder / CODE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, f"Narrowed{stock.__name__}")


def auto_classes(stock: type, config: type) -> list[str]:
    """Return the names of the Auto classes that give a class of model for its config; ``AutoModel`` where none does."""
    autos = importlib.import_module("transformers.models.auto.modeling_auto")
    found = []
    for name, auto in vars(autos).items():
        mapping = getattr(auto, "_model_mapping", None)
        if isinstance(auto, type) and mapping is not None and name.startswith("AutoModel") and config in mapping:
            kinds = mapping[config]
            if stock in (kinds if isinstance(kinds, tuple) else (kinds,)):
                found.append(name)
    return found or ["AutoModel"]


def _merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a model that was narrowed, and narrowed again."""
    found: dict[str, Any] = json.loads(json.dumps(before))
    for name, change in now.items():
        old = found.get(name, {"attributes": {}, "tensors": {}})
        found[name] = {key: {**old[key], **change[key]} for key in ("attributes", "tensors")}
    return found
