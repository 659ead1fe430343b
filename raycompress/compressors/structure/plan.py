"""The slicing plan: the changes from a fresh instance of the original class to the small model, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from raycompress.compressors.depth.dropped_block import DroppedBlock, drop_blocks, dropped_in
from raycompress.compressors.structure.attributes import is_size
from raycompress.errors import BundleError
from raycompress.model.groups import is_inside

Fresh = dict[int, tuple[nn.Parameter, nn.Parameter]]
"""id(old parameter) -> (old parameter, new parameter)."""


@dataclass(frozen=True)
class ModulePlan:
    """What changes in one module.

    Attributes
    ----------
    type
        Class name of the module.
    attributes
        New values of its changed attributes: integers, or lists of integers.
    tensors
        New shapes of its changed parameters and buffers.
    """

    type: str
    attributes: Mapping[str, int | tuple[int, ...]]
    tensors: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class DroppedPlan:
    """A residual block that is gone, with an identity in its place.

    Attributes
    ----------
    type
        Class name of the block.
    returns
        0 where it returned a tensor, and the identity does; of a tuple the length.
    """

    type: str
    returns: int


@dataclass(frozen=True)
class SlicingPlan:
    """What changes in a model.

    Attributes
    ----------
    modules
        Module name -> its changes; modules that stay as they are left out.
    kept
        Layer -> indices of the output channels that stay, in the original's numbering.
    dropped
        Name -> the block that is gone there; it is put into the file where there is any.
    """

    modules: Mapping[str, ModulePlan]
    kept: Mapping[str, tuple[int, ...]]
    dropped: Mapping[str, DroppedPlan] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        modules = {
            name: {
                "type": module.type,
                "attributes": {
                    key: list(value) if isinstance(value, tuple) else value for key, value in module.attributes.items()
                },
                "tensors": {key: list(shape) for key, shape in module.tensors.items()},
            }
            for name, module in self.modules.items()
        }
        kept = {name: list(channels) for name, channels in self.kept.items()}
        dropped = {name: {"type": block.type, "returns": block.returns} for name, block in self.dropped.items()}
        return {"modules": modules, "kept": kept, **({"dropped": dropped} if dropped else {})}

    @classmethod
    def from_json(cls, data: Any) -> SlicingPlan:
        """Rebuild what `to_json` returned.

        Raises
        ------
        BundleError
            Where the data is anything else, or names an attribute that slicing never changes.
        """
        keys = {"modules", "kept", *(("dropped",) if isinstance(data, Mapping) and "dropped" in data else ())}
        outer = _mapping(data, "the plan", keys)
        modules = {}
        for name, raw in _mapping(outer["modules"], "modules").items():
            module = _mapping(raw, f"modules.{name}", {"type", "attributes", "tensors"})
            attributes = _mapping(module["attributes"], f"modules.{name}.attributes")
            for key in attributes:
                if not is_size(key):
                    raise _refused(f'it sets "{key}" of "{name}", which slicing never changes')
            modules[name] = ModulePlan(
                type=str(module["type"]),
                attributes={
                    key: _sizes(value, name) if isinstance(value, list) else _size(value, name)
                    for key, value in attributes.items()
                },
                tensors={
                    key: _sizes(shape, name)
                    for key, shape in _mapping(module["tensors"], f"modules.{name}.tensors").items()
                },
            )
        kept = {name: _sizes(value, name) for name, value in _mapping(outer["kept"], "kept").items()}
        dropped = {}
        for name, raw in _mapping(outer.get("dropped", {}), "dropped").items():
            block = _mapping(raw, f"dropped.{name}", {"type", "returns"})
            dropped[name] = DroppedPlan(str(block["type"]), _size(block["returns"], name))
        return cls(modules, kept, dropped)


_EMPTY = SlicingPlan({}, {})
_PLANS: WeakKeyDictionary[nn.Module, SlicingPlan] = WeakKeyDictionary()


def plan_of(model: nn.Module) -> SlicingPlan:
    """Return the plan from a fresh instance of the model's class to `model`, over all slicings in this process."""
    known = _PLANS.get(model, _EMPTY)
    dropped = {name: DroppedPlan(block.class_name, block.returns) for name, block in dropped_in(model).items()}
    if not dropped:
        return known
    modules = {name: change for name, change in known.modules.items() if not is_inside(name, dropped)}
    return SlicingPlan(
        modules, {name: kept for name, kept in known.kept.items() if not is_inside(name, dropped)}, dropped
    )


def inherit(copied: nn.Module, model: nn.Module) -> None:
    """Record that a copy was sliced as `model` was."""
    if model in _PLANS:
        _PLANS[copied] = _PLANS[model]


def remember(model: nn.Module, plan: SlicingPlan) -> None:
    """Record that `model` was sliced by `plan`, on top of earlier plans of the same model."""
    before = plan_of(model)
    modules = dict(before.modules)
    for name, change in plan.modules.items():
        old = modules.get(name, ModulePlan(change.type, {}, {}))
        attributes, tensors = {**old.attributes, **change.attributes}, {**old.tensors, **change.tensors}
        modules[name] = ModulePlan(change.type, attributes, tensors)
    kept = dict(before.kept)
    for name, channels in plan.kept.items():
        kept[name] = tuple(kept[name][channel] for channel in channels) if name in kept else channels
    _PLANS[model] = SlicingPlan(modules, kept)


def apply_plan(model: nn.Module, plan: SlicingPlan) -> None:
    """Give `model`, a fresh instance of the original class, the shapes of the small one, in place.

    The values are the leading part of what was there: load the small model's weights next. A model that was sliced by a
    part of the plan before is taken as well.

    Raises
    ------
    BundleError
        The plan names a module, tensor or attribute that the model does not have, or would let something grow. The
        model is not touched then.
    """
    modules = dict(model.named_modules())
    for name, change in plan.modules.items():
        _check(name, change, modules.get(name))
    for name, block in plan.dropped.items():
        _check_dropped(name, block, modules.get(name))
    drop_blocks(model, {name: block.returns for name, block in plan.dropped.items()})
    fresh: Fresh = {}
    for name, change in plan.modules.items():
        module = modules[name]
        for tensor_name, shape in change.tensors.items():
            old = getattr(module, tensor_name)
            part = old.detach()[tuple(slice(size) for size in shape)].clone()
            replace_tensor(module, tensor_name, part, fresh)
        set_attributes(module, change)
    if plan_of(model).modules.keys() <= plan.modules.keys():
        _PLANS[model] = plan
    else:
        remember(model, plan)


def set_attributes(module: nn.Module, change: ModulePlan) -> None:
    """Set the changed attributes of one module."""
    for key, value in change.attributes.items():
        setattr(module, key, value)


def replace_tensor(module: nn.Module, name: str, value: Tensor, fresh: Fresh) -> None:
    """Put `value` in the place of a parameter or buffer; `fresh` is filled, so that tied weights stay tied."""
    old = getattr(module, name)
    if not isinstance(old, nn.Parameter):
        module._buffers[name] = value
        return
    if id(old) not in fresh:
        fresh[id(old)] = (old, nn.Parameter(value, requires_grad=old.requires_grad))
    module._parameters[name] = fresh[id(old)][1]


def _check(name: str, change: ModulePlan, module: nn.Module | None) -> None:
    if module is None:
        raise _misfit(f'the model has no module "{name}"')
    if type(module).__name__ != change.type:
        raise _misfit(f'"{name}" is {type(module).__name__} in the model and {change.type} in the plan')
    for key, value in change.attributes.items():
        old = vars(module).get(key)
        if isinstance(old, (tuple, list)) != isinstance(value, tuple) or not isinstance(old, (int, tuple, list)):
            raise _misfit(f'"{name}" has no {key} of that kind')
        olds, news = ((old,), (value,)) if isinstance(value, int) else (tuple(old), value)  # type: ignore[arg-type]
        if len(olds) != len(news) or any(new > before for new, before in zip(news, olds, strict=True)):
            raise _misfit(f'{key} of "{name}" would grow from {old} to {value}')
    for key, shape in change.tensors.items():
        tensor = {**module._parameters, **module._buffers}.get(key)
        if tensor is None:
            raise _misfit(f'"{name}" has no tensor "{key}"')
        smaller = len(shape) == tensor.dim() and all(n <= o for n, o in zip(shape, tensor.shape, strict=True))
        if not smaller:
            raise _misfit(f'"{name}.{key}" would change from {tuple(tensor.shape)} to {shape}')


def _check_dropped(name: str, block: DroppedPlan, module: nn.Module | None) -> None:
    if not name or module is None:
        raise _misfit(f'the model has no module "{name}"')
    own = module.class_name if isinstance(module, DroppedBlock) else type(module).__name__
    if own != block.type:
        raise _misfit(f'"{name}" is {own} in the model and {block.type} in the plan')


def _misfit(what: str) -> BundleError:
    return BundleError(
        f"the slicing plan does not fit the model: {what}",
        where="plan.json",
        fix="give a fresh instance of the class that was compressed, made with the same arguments",
    )


def _refused(what: str) -> BundleError:
    return BundleError(f"the slicing plan is refused: {what}", where="plan.json", fix="get the bundle from its maker")


def _mapping(data: Any, what: str, keys: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise _refused(f"{what} is no object")
    if keys is not None and set(data) != keys:
        raise _refused(f"{what} has the keys {sorted(data)}, not {sorted(keys)}")
    return data


def _size(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refused(f'"{name}" has a size that is no natural number: {value!r}')
    return value


def _sizes(values: Any, name: str) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise _refused(f'"{name}" has sizes that are no list: {values!r}')
    return tuple(_size(value, name) for value in values)
