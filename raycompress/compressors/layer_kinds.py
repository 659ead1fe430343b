"""What kind of layer a module is: the types that it counts as, and where its channels lie in its weight."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from raycompress.catalog import EXPERTS

_REMOVED_BY = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm({})",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm({})",
    "BasePruningMethod": 'torch.nn.utils.prune.remove({}, "weight")',
}
"""Class of the hook that computes a weight -> the call that ends it."""
_NO_LAYERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def torch_base(module: nn.Module) -> str:
    """Return the name of torch's class that the module's class is derived from; empty for torch's own classes.

    Of what holds the stacked weights of a mixture of experts it is ``Experts``, whatever its class.

    Of ``class LoraLinear(nn.Linear)`` it is ``Linear``, and so it is of a linear layer with a parametrization, of
    which torch makes a class. Another class that torch itself derives from one, such as the ``out_proj`` of its
    attention, is used by torch in a way of its own: it counts as itself alone.
    """
    kind = type(module)
    if is_parametrized(module):
        kind = kind.__bases__[0]
        if kind.__module__.startswith("torch.nn.modules"):
            return kind.__name__
    if stacked_weights(module):
        return EXPERTS
    if kind.__module__.startswith("torch."):
        return ""
    bases = (base for base in kind.__mro__[1:] if base.__module__.startswith("torch.nn.modules"))
    found = next(bases, nn.Module)
    return "" if found in _NO_LAYERS or found.__name__.startswith("_") else found.__name__


def is_parametrized(module: nn.Module) -> bool:
    """Tell whether torch.nn.utils.parametrize computes something of a module, whose class is then one of its own."""
    return isinstance(module._modules.get("parametrizations"), nn.ModuleDict)


def is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether a module is the linear layer of GPT-2, transformers' ``Conv1D``: its weight is inputs by outputs."""
    weight = module._parameters.get("weight")
    is_named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    return is_named and weight is not None and weight.dim() == 2 and vars(module).get("nf") == weight.size(1)


def stacked_weights(module: nn.Module) -> tuple[str, ...]:
    """Return the parameters that hold one matrix for each expert of a mixture; none for other modules.

    Their dimensions are experts, outputs, inputs; with an attribute ``is_transposed`` experts, inputs, outputs. The
    first of them makes the inner channels, which all experts have the same number of.
    """
    count = vars(module).get("num_experts")
    own = module._parameters.items() if isinstance(count, int) else ()
    return tuple(name for name, tensor in own if tensor is not None and tensor.dim() == 3 and tensor.size(0) == count)


def is_weighted(module: nn.Module) -> bool:
    """Tell whether a module is a convolution or a linear layer, whose work is in proportion to its weight's size."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or is_transposed_linear(module)


def makes_channels(module: nn.Module) -> bool:
    """Tell whether a module makes channels, by its weights, of those that it reads."""
    return is_weighted(module) or bool(stacked_weights(module))


def output_dim(module: nn.Module) -> int:
    """Return the dimension of a module's weight that runs along its output channels."""
    if stacked_weights(module):
        return 2 if getattr(module, "is_transposed", False) else 1
    if isinstance(module, nn.Embedding) or is_transposed_linear(module):
        return 1
    return int(isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1)


def channel_dim(module: nn.Module, tensor: Tensor) -> int:
    """Return the dimension of a layer's input or output that runs along its channels."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return int(tensor.dim() - len(module.kernel_size) - 1)
    return 1 if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)) else int(tensor.dim() - 1)


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's weights, that by which it makes channels first."""
    return stacked_weights(module) or ("weight",)


def made_plain_by(name: str, module: nn.Module) -> str:
    """Return the call that gives a layer a weight of its own again, where it has one that is computed from others.

    So it has by weight_norm, spectral_norm and other parametrizations, of either API, and by torch.nn.utils.prune.
    """
    path = f"model.{name}" if all(map(str.isidentifier, name.split("."))) else f'model.get_submodule("{name}")'
    if is_parametrized(module) and "weight" in module.get_submodule("parametrizations")._modules:
        return f'torch.nn.utils.parametrize.remove_parametrizations({path}, "weight")'
    for hook in module._forward_pre_hooks.values():
        names = [kind.__name__ for kind in type(hook).__mro__ if kind.__module__.startswith("torch.nn.utils")]
        if getattr(hook, "name", getattr(hook, "_tensor_name", "")) == "weight":
            for kind in _REMOVED_BY.keys() & set(names):
                return _REMOVED_BY[kind].format(path)
    return ""


def make_plain(model: nn.Module) -> nn.Module:
    """Give all layers of a model, in eval mode, weights of their own in place of computed ones; returns it."""
    for module in list(model.modules()):
        if is_parametrized(module):
            _end_parametrizations(module)
        for number, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                hook.remove(module)
                del module._forward_pre_hooks[number]
    return model


def _end_parametrizations(module: nn.Module) -> None:
    """Do what torch does to end them, which would change the class of the model that this one is a copy of."""
    computed = {key: getattr(module, key).detach() for key in module.get_submodule("parametrizations")._modules}
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    for key, value in computed.items():
        module.register_parameter(key, nn.Parameter(value))


def is_plain(model: nn.Module) -> bool:
    """Tell whether no layer of a model has a weight that is computed from others."""
    return not any(made_plain_by("", module) for module in model.modules())
