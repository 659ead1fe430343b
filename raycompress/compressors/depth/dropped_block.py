"""`DroppedBlock`: the identity that stands in the place of a residual block that was dropped."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from raycompress.errors import CompressionError

_PLAIN = (bool, int, str, type(None))
Plain = dict[str, "bool | int | str | None"]
"""Path of an attribute inside a module -> its value, of those that are plain values."""


class DroppedBlock(nn.Module):
    """Returns its first argument, in the form in which the block that stood here returned its own.

    What the modules around it read of the block, such as a layer's ``attention_type`` or torch's
    ``layers[0].self_attn.batch_first``, it still has: the attributes with plain values, of modules inside it too.

    Parameters
    ----------
    block
        What is dropped.
    returns
        0 where it returns a tensor; of a tuple the length, all but the first member None.
    """

    def __init__(self, block: nn.Module, returns: int) -> None:
        super().__init__()
        for name, value in vars(_attributes(block)).items():
            setattr(self, name, value)
        self._class, self._returns, self._input = type(block).__name__, returns, input_name(block)
        self._plain = plain_of(block)
        self.train(block.training)

    @property
    def class_name(self) -> str:
        """Class of the block that stood here."""
        return self._class

    @property
    def returns(self) -> int:
        """See the parameter."""
        return self._returns

    @property
    def plain(self) -> Plain:
        """The plain attributes of all modules of the block that stood here."""
        return self._plain

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument."""
        return in_form(args[0] if args else kwargs[self._input], self._returns)

    def extra_repr(self) -> str:
        """Return what stood here, for the model's text."""
        return self._class


def _attributes(module: nn.Module) -> SimpleNamespace:
    """Return the plain attributes of a module, and those of the modules inside it in its place."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    plain = {name: value for name, value in own.items() if isinstance(value, _PLAIN)}
    return SimpleNamespace(**plain, **{name: _attributes(child) for name, child in module.named_children()})


def in_form(x: Tensor, returns: int) -> Any:
    """Return `x` as a block returns it: alone, or first of a tuple of so many."""
    return (x, *[None] * (returns - 1)) if returns else x


def input_name(module: nn.Module) -> str:
    """Return the name of the first argument of a module's forward(); empty where it has none."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except ValueError:  # of a TorchScript module
        return ""
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
        return name if named else ""
    return ""


def input_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a module is called with as its first argument, by position or by name; None where with nothing."""
    return args[0] if args else kwargs.get(input_name(module))


def drop_blocks(model: nn.Module, blocks: Mapping[str, int]) -> list[nn.Parameter]:
    """Put a `DroppedBlock` in the place of each of `blocks`, in place; return the parameters that the model lost.

    The blocks that stay move up to the first places of a cache of keys and values, see `_renumber`.

    Parameters
    ----------
    blocks
        Name -> what it returns, see `DroppedBlock`. One that is dropped already is passed over.

    Raises
    ------
    CompressionError
        As in `_renumber`.
    """
    before = list(model.parameters())
    for name, returns in blocks.items():
        block = model.get_submodule(name)
        if not isinstance(block, DroppedBlock):
            parent, _, key = name.rpartition(".")
            model.get_submodule(parent)._modules[key] = DroppedBlock(block, returns)
            _leave_fast_path(model.get_submodule(parent.rpartition(".")[0]))
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in blocks):
        _renumber([one for key, one in model.get_submodule(parent).named_children() if key.isdigit()])
    left = {id(parameter) for parameter in model.parameters()}
    return [parameter for parameter in before if id(parameter) not in left]


def _leave_fast_path(around: nn.Module) -> None:
    """Keep torch's encoder from asking its first layer for the weights that its fast path would compute with."""
    if isinstance(around, nn.TransformerEncoder):
        around.use_nested_tensor = False


def dropped_in(model: nn.Module) -> dict[str, DroppedBlock]:
    """Return name -> identity of all blocks that were dropped from `model`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, DroppedBlock)}


def plain_of(module: nn.Module) -> Plain:
    """Return the plain attributes of a module and of all modules inside it."""
    if isinstance(module, DroppedBlock):
        return module.plain
    return {
        f"{path}.{name}": value
        for path, inner in module.named_modules()
        for name, value in vars(inner).items()
        if not name.startswith("_") and name != "training" and isinstance(value, _PLAIN)
    }


def _renumber(siblings: list[nn.Module]) -> None:
    """Give the blocks that stay the lowest of the numbers that blocks of their kind had.

    A decoder's layers hold their places in the cache of keys and values: integers that number the layers from 0 on.
    How much is in the cache is asked of its first place, which has to be of a layer that runs. A cache may have places
    of several kinds, for sliding windows for example: blocks are of one kind where the modules that hold the number
    have all other plain attributes alike.

    Raises
    ------
    CompressionError
        No block is left of the kind that the first place is for, though others are.
    """
    plain = [plain_of(block) for block in siblings]
    for name in _numbers(plain):
        kinds: dict[Any, list[int]] = {}
        for index, one in enumerate(plain):
            kinds.setdefault(_kind(one, name), []).append(index)
        found = [_number(one, name) for one in plain]
        for members in kinds.values():
            in_order = sorted(members, key=lambda index: (isinstance(siblings[index], DroppedBlock), found[index]))
            numbers = sorted(found[index] for index in members)
            if numbers[0] == 0 and isinstance(siblings[in_order[0]], DroppedBlock):
                _check_none_left(siblings, name)
            for index, number in zip(in_order, numbers, strict=True):
                _set_number(siblings[index], name, number)


def _check_none_left(siblings: list[nn.Module], name: str) -> None:
    if not all(isinstance(block, DroppedBlock) for block in siblings):
        raise CompressionError(
            f"no block of the first one's kind would be left, and its {name} is the place by which the others know how "
            "much their cache of keys and values holds",
            where="depth",
            fix="keep one of them",
        )


def _numbers(plain: list[Plain]) -> list[str]:
    """Return the names of the attributes by which all of some blocks are numbered, from 0 on."""
    names = {key.rpartition(".")[2] for key in (plain[0] if len(plain) > 1 else ())}
    places = list(range(len(plain)))
    return sorted(name for name in names if sorted(_number(one, name) for one in plain) == places)


def _number(plain: Plain, name: str) -> int:
    """Return the one integer that all attributes called `name` have; -1 where they differ, or there is none."""
    found = {value for key, value in plain.items() if key.rpartition(".")[2] == name}
    (only,) = found if len(found) == 1 else (None,)
    return only if type(only) is int else -1


def _kind(plain: Plain, name: str) -> Any:
    """Return what is the same for blocks of one kind."""
    owners = {key.rpartition(".")[0] for key in plain if key.rpartition(".")[2] == name}
    return tuple(item for item in plain.items() if item[0].rpartition(".")[0] in owners and not item[0].endswith(name))


def _set_number(block: nn.Module, name: str, value: int) -> None:
    for key in plain_of(block):
        path, _, own = key.rpartition(".")
        if own == name and isinstance(block, DroppedBlock):
            block.plain[key] = value
        elif own == name:
            setattr(block.get_submodule(path), name, value)
    if isinstance(block, DroppedBlock) and name in vars(block):
        setattr(block, name, value)
