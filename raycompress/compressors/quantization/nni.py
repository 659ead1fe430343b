"""Adapter to NNI's quantizers, which train with quantized weights and activations in float.

NNI wraps layers while the script trains. What it learnt is read off at any time as an ordinary state_dict, weights on
their grid, and a few numbers for the activations; the model is the user's own again once the wrappers are removed.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.engines.nni.library import load_nni, silent
from raycompress.compressors.quantization.fake_quant import FakeQuant, Place, compute_layer_by_layer
from raycompress.compressors.structure.optimizers import StepWatch
from raycompress.compressors.targets.torch import Target

_CLASSES = {
    "naive": "NaiveQuantizer",
    "qat": "QAT_Quantizer",
    "dorefa": "DoReFaQuantizer",
    "bnn": "BNNQuantizer",
    "lsq": "LsqQuantizer",
    "observer": "ObserverQuantizer",
}


@dataclass(frozen=True)
class Learnt:
    """The result of a quantizer.

    Attributes
    ----------
    state
        The state_dict of the plain class: quantized weights on their grid, all else as it is.
    activations
        Layer -> the grids of its input and output.
    missing
        Layer -> what it was to quantize and never saw a value of.
    """

    state: dict[str, Tensor]
    activations: dict[str, dict[Place, FakeQuant]]
    missing: dict[str, str]


def load_library() -> ModuleType:
    """Import and return ``nni.algorithms.compression.pytorch.quantization``, without tensorflow and in silence."""
    quantization = load_nni("quantization")
    with contextlib.suppress(ImportError):  # every export of a quantized model needs it
        importlib.import_module("onnx")
    return quantization


class NniQuantization:
    """Runs one of NNI's quantizers on the user's model.

    Parameters
    ----------
    name
        Of the compressor.
    model
        The user's model; its layers are wrapped until `unwrap`.
    plain
        A copy of it, made before; left as it is.
    targets
        The layers to quantize; their settings are NNI's.
    optimizer
        The one that the script trains with, for step sizes that are learnt.
    example
        An input, for the folding of BatchNorm; None, or one that is more than a tensor, leaves it alone.

    Raises
    ------
    CompressionError
        NNI cannot quantize this model.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        plain: nn.Module,
        targets: Mapping[str, Target],
        optimizer: torch.optim.Optimizer | None,
        example: Example | None,
    ) -> None:
        self._name, self._model, self._plain = name, model, plain
        own = dict(model.named_parameters(remove_duplicate=False))
        config = [{**target.settings, "op_names": [layer]} for layer, target in targets.items()]
        # NNI adds parameters to this one and patches its step; the script's own stays as it is
        stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
        arguments: list[Any] = [model, config, stand_in]
        single = single_input(example)
        if name in ("qat", "lsq") and single is not None:
            arguments.append(single)
        with self._quiet(), evaluating(model), _answering_tensors(model):
            self._quantizer: Any = _class(name)(*arguments)
        del stand_in.step  # the patched one
        self._wrappers = {wrapper.name: wrapper for wrapper in self._quantizer.get_modules_wrapper()}
        for wrapper in self._wrappers.values():
            wrapper.__class__ = _with_attributes_of_layer(type(wrapper))
        for layer, wrapper in self._wrappers.items():
            wrapper.train(wrapper.module.training)
            self._keep_parameters(layer, wrapper.module, own)
        for wrapper in self._quantizer.identity_wrappers:
            wrapper.training = wrapper.module.training
        if optimizer is not None and name == "lsq":
            steps = [p for wrapper in self._wrappers.values() for p in _step_sizes(wrapper.module)]
            optimizer.param_groups[0]["params"].extend(steps)
        compute_layer_by_layer(model)
        self._watch = StepWatch(model, self._quantizer.step_with_optimizer)

    @property
    def trained(self) -> bool:
        """Whether an optimizer stepped since the start, which ``qat`` and ``lsq`` need."""
        return int(getattr(self._model, "steps", 2)) > 1

    @property
    def folds(self) -> bool:
        """Whether BatchNorm was folded into convolutions."""
        return bool(self._quantizer.identity_wrappers)

    def compress(self) -> None:
        """Start to quantize: ``observer`` only records before, the others quantize from the start."""
        with self._quiet():
            self._quantizer.compress()

    def learnt(self) -> Learnt:
        """Return the current result; the model goes on as it is."""
        state = {name: tensor.detach() for name, tensor in self._plain.state_dict().items()}
        current: dict[str, Tensor] = dict(self._model.named_buffers(remove_duplicate=False))
        current.update(self._model.named_parameters(remove_duplicate=False))
        for name in state:
            found = current.get(name, current.get(self._wrapped(name)))
            if found is not None:
                state[name] = found.detach()
        activations: dict[str, dict[Place, FakeQuant]] = {}
        missing: dict[str, str] = {}
        with torch.no_grad():
            for layer, wrapper in self._wrappers.items():
                if "weight" in wrapper.config["quant_types"]:
                    state.update(self._weights(layer, wrapper))
                grids = {place: self._grid(wrapper, place) for place in _places(wrapper)}
                for place, grid in grids.items():
                    if grid is not None:
                        activations.setdefault(self._quantized_layer(layer, place), {})[place] = grid
                unseen: list[str] = [place for place, grid in grids.items() if grid is None or not _usable(grid)]
                unseen += [] if _seen(wrapper.module, "weight") else ["weight"]
                if unseen:
                    missing[layer] = ", ".join(unseen)
        cpu = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
        return Learnt(cpu, activations, missing)

    def unwrap(self, learnt: Learnt) -> None:
        """Remove the wrappers from the model for good; it keeps the quantized weights."""
        self._watch.cancel()
        self._quantizer._unwrap_model()
        if "steps" not in self._plain._buffers:
            self._model._buffers.pop("steps", None)
        for layer, wrapper in self._wrappers.items():
            _restore(wrapper.module, self._plain.get_submodule(layer))
        self._model.load_state_dict(learnt.state)

    def _keep_parameters(self, layer: str, module: nn.Module, own: Mapping[str, nn.Parameter]) -> None:
        """Let NNI train the user's own parameters, which optimizers hold, not the copies that it made of them."""
        for name in ("weight", "bias"):
            if f"old_{name}" in module._parameters:
                module._parameters[f"old_{name}"] = own[f"{layer}.{name}"]

    def _wrapped(self, name: str) -> str:
        """Return the name in the wrapped model of a tensor of the plain one."""
        module, _, tensor = name.rpartition(".")
        wrapper = self._wrappers.get(module)
        if wrapper is not None and f"old_{tensor}" in wrapper.module._parameters:
            return f"{module}.module.old_{tensor}"
        return f"{module}.module.{tensor}"

    def _quantized_layer(self, layer: str, place: Place) -> str:
        """Return the layer whose input or output is quantized: of a folded norm's convolution, the norm behind it."""
        folded: dict[str, str] = self._quantizer.conv_bn_patterns
        return folded.get(layer, layer) if place == "output" else layer

    def _weights(self, layer: str, wrapper: Any) -> dict[str, Tensor]:
        """Return the layer's weight on its grid, and the parameters of BatchNorm that was folded into it."""
        module, norm = wrapper.module, wrapper.bn_module
        folded: dict[str, Tensor] = {}
        weight = module.old_weight.detach()
        if norm is not None:
            deviation = torch.sqrt(norm.running_var + norm.eps)
            weight = weight * (norm.weight / deviation).reshape(-1, *[1] * (weight.dim() - 1))
            shift = norm.bias - norm.running_mean / deviation * norm.weight
            if "old_bias" in module._parameters:
                shift = shift + module.old_bias / deviation * norm.weight
                folded[f"{layer}.bias"] = torch.zeros_like(module.old_bias)
            name = self._quantizer.conv_bn_patterns[layer]
            # the norm then adds the shift, and nothing else
            ones = torch.ones_like(deviation)
            folded[f"{name}.running_mean"], folded[f"{name}.running_var"] = torch.zeros_like(ones), ones - norm.eps
            folded[f"{name}.weight"], folded[f"{name}.bias"] = ones, shift.detach()
        kept, module.weight = module.weight, weight.clone()
        training = wrapper.training
        try:
            wrapper.training = False
            if self._name != "observer" or self._quantizer.compressed:
                self._quantizer.quantize_weight(wrapper)
            folded[f"{layer}.weight"] = module.weight.detach()
        finally:
            module.weight, wrapper.training = kept, training
        return folded

    def _grid(self, wrapper: Any, place: Place) -> FakeQuant | None:
        module, bits = wrapper.module, _bits(wrapper.config, place)
        if self._name == "bnn":
            return FakeQuant("sign", bits)
        scale = getattr(module, f"{place}_scale", None)
        if scale is None:
            return None
        scale = scale.detach().float().cpu().clone()
        zero = getattr(module, f"{place}_zero_point", None)
        zero_point = torch.zeros_like(scale) if zero is None else zero.detach().float().cpu().reshape(scale.shape)
        if self._name == "qat":
            low, high = getattr(module.layer_quant_setting, place).get_qmin_qmax()
        else:
            low, high = getattr(module, f"{place}_qmin"), getattr(module, f"{place}_qmax")
        return FakeQuant("affine", bits, scale, zero_point, int(low), int(high))

    def _quiet(self) -> contextlib.AbstractContextManager[None]:
        return silent(self._name, self._model, instead='another compressor, such as "ptq_static"')


def _class(name: str) -> Any:
    quantizer: Any = getattr(load_library(), _CLASSES[name])
    mend = {"qat": _qat, "lsq": _lsq, "observer": _observer}.get(name)
    return quantizer if mend is None else mend(quantizer)


def _with_attributes_of_layer(base: type) -> Any:
    """Return NNI's wrapper of a layer, with the layer's attributes: forward() may read ``self.fc.weight.dtype``."""

    of_base: Any = base.__getattr__  # type: ignore[attr-defined]

    def attribute(self: Any, name: str) -> Any:
        try:
            return of_base(self, name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(of_base(self, "module"), name)

    return type(base.__name__, (base,), {"__getattr__": attribute, "__module__": base.__module__})


def _qat(base: Any) -> Any:
    """Return NNI's QAT_Quantizer, changed to work without dummy_input and to compute in float until it starts."""

    class Qat(base):  # type: ignore[misc]
        def record_shape(self, model: nn.Module, dummy_input: Any) -> None:
            super().record_shape(model, dummy_input)
            if dummy_input is None:  # shapes are needed for scales per channel only
                self.all_shapes = {layer.name: ((), ()) for layer, _ in self.get_modules_to_compress()}

        def quantize_weight(self, wrapper: Any, **kwargs: Any) -> Any:
            started = wrapper.training or _seen(wrapper.module, "weight")
            return super().quantize_weight(wrapper, **kwargs) if started else wrapper.module.weight

        def quantize_input(self, inputs: Any, wrapper: Any, **kwargs: Any) -> Any:
            started = wrapper.training or _seen(wrapper.module, "input")
            return super().quantize_input(inputs, wrapper, **kwargs) if started else inputs

        def quantize_output(self, output: Any, wrapper: Any, **kwargs: Any) -> Any:
            started = wrapper.training or _seen(wrapper.module, "output")
            return super().quantize_output(output, wrapper, **kwargs) if started else output

    return Qat


def _lsq(base: Any) -> Any:
    """Return NNI's LsqQuantizer that trains the weights as in the paper, not their step sizes alone."""

    class Lsq(base):  # type: ignore[misc]
        def quantize_weight(self, wrapper: Any, **kwargs: Any) -> Any:
            if wrapper.bn_module is None and wrapper.training:
                # NNI's wrapper has put a detached copy there, through which no gradient comes
                wrapper.module.weight = wrapper.module.old_weight.clone()
            return super().quantize_weight(wrapper, **kwargs)

    return Lsq


def _observer(base: Any) -> Any:
    """Return NNI's ObserverQuantizer, changed to quantize the weights of the model too."""

    class Observer(base):  # type: ignore[misc]
        def quantize_weight(self, wrapper: Any, **kwargs: Any) -> Any:
            if not self.compressed:
                return super().quantize_weight(wrapper, **kwargs)
            module = wrapper.module  # NNI's wrapper has just put the float weight back
            module.weight = self._quantize(
                module.weight, module.weight_scale, module.weight_zero_point, module.weight_qmin, module.weight_qmax
            )
            return module.weight

    return Observer


def _seen(module: nn.Module, part: str) -> bool:
    """Whether a scale that is kept for `part` is set; NNI starts with zeros."""
    scale = getattr(module, f"{part}_scale", None)
    return scale is None or bool((scale != 0).all())


def _usable(grid: FakeQuant) -> bool:
    return grid.kind == "sign" or bool(torch.isfinite(grid.scale).all() and (grid.scale != 0).all())


def _places(wrapper: Any) -> list[Place]:
    places: tuple[Place, ...] = ("input", "output")
    return [place for place in places if place in wrapper.config["quant_types"]]


def _bits(config: Mapping[str, Any], part: str) -> int:
    bits = config["quant_bits"]
    return int(bits[part] if isinstance(bits, Mapping) else bits)


def _step_sizes(module: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in module.named_parameters(recurse=False) if name.endswith("_scale")]


@contextlib.contextmanager
def _answering_tensors(model: nn.Module) -> Iterator[None]:
    """Let a model answer a tuple of its tensors: NNI traces it, and torch's tracing knows no dataclasses."""

    def flat(one: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_in(type(one).forward(one, *args, **kwargs)))

    compiled = {one: one._compiled_call_impl for one in model.modules() if one._compiled_call_impl is not None}
    for one in compiled:
        one._compiled_call_impl = None  # by model.compile(), which torch does not trace
    before = vars(model).get("forward")
    model.forward = MethodType(flat, model)  # of a copy it is the copy's
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before
        for one, call in compiled.items():
            one._compiled_call_impl = call


def single_input(example: Example | None) -> Tensor | None:
    """Return the one tensor that a model is called with; None for other calls, with which NNI cannot trace a model."""
    if example is not None and len(example.args) == 1 and isinstance(example.args[0], Tensor) and not example.kwargs:
        return example.args[0]
    return None


def _restore(module: nn.Module, plain: nn.Module) -> None:
    """Give `module` the parameters, buffers and attributes of `plain`, its parameters being the user's own objects."""
    own = {name: module._parameters.get(f"old_{name}", module._parameters.get(name)) for name in plain._parameters}
    buffers = {name: module._buffers[name] for name in plain._buffers}
    for name in set(vars(module)) - set(vars(plain)):
        delattr(module, name)
    module._parameters.clear()
    module._buffers.clear()
    module._parameters.update(own)
    module._buffers.update(buffers)
