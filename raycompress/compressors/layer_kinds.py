"""What kind of layer a module is: the types that it counts as, and where its channels lie in its weight."""

from __future__ import annotations

from torch import nn

_NO_LAYERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def torch_base(module: nn.Module) -> str:
    """Return the name of torch's class that the module's class is derived from; empty for torch's own classes.

    Of ``class LoraLinear(nn.Linear)`` it is ``Linear``. A class that torch itself derives from another, such as the
    ``out_proj`` of its attention or a layer with a parametrization, is used by torch in a way of its own: it counts
    as itself alone.
    """
    kind = type(module)
    if kind.__module__.startswith("torch."):
        return ""
    bases = (base for base in kind.__mro__[1:] if base.__module__.startswith("torch.nn.modules"))
    found = next(bases, nn.Module)
    return "" if found in _NO_LAYERS or found.__name__.startswith("_") else found.__name__


def is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether a module is the linear layer of GPT-2, transformers' ``Conv1D``: its weight is inputs by outputs."""
    weight = module._parameters.get("weight")
    is_named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    return is_named and weight is not None and weight.dim() == 2 and vars(module).get("nf") == weight.size(1)


def is_weighted(module: nn.Module) -> bool:
    """Tell whether a module is a convolution or a linear layer: what makes channels by a weight, inputs by outputs."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or is_transposed_linear(module)


def output_dim(module: nn.Module) -> int:
    """Return the dimension of a module's weight that runs along its output channels."""
    if isinstance(module, nn.Embedding) or is_transposed_linear(module):
        return 1
    return int(isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1)
