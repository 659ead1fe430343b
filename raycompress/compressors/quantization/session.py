"""A torch model that computes with an int8 ONNX file: same object, same class, its forward runs in onnxruntime."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle import bundle, optional_inputs
from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import map_tensors, tensors_in
from raycompress.compressors.saving.onnx_export import feed, runtime, session_options
from raycompress.errors import BundleError, CompressionError, MissingDependencyError
from raycompress.extras import load_extra


class SessionForward:
    """Replaces a model's ``forward``.

    Parameters
    ----------
    data
        The ONNX file, as written for `example` by `raycompress.compressors.saving.onnx_export.export_onnx`.
    example
        One input, arguments in the order of forward's parameters (see `bound`).
    answer
        What the model answers to it; of the same structure are the answers of the session.
    name
        Class name of the model, for messages.
    signature
        Of the forward that it replaces.
    neutral
        Parameter -> the value of the tensor that stands for it where a call leaves it out.
    """

    def __init__(
        self,
        data: bytes,
        example: Example,
        answer: Any,
        name: str,
        signature: inspect.Signature,
        neutral: Mapping[str, int] | None = None,
    ) -> None:
        self.data = data
        self._structure = _structure(example)
        empty = iter([torch.empty(0)] * len(tensors_in(answer)))
        held = _without_caches(answer)
        self._answer = _filled(held, empty)
        self._name = name
        self._signature = signature
        self._names = optional_inputs.names_of(example, signature)
        self._neutral = dict(neutral or {})
        self._session: Any = None
        self._threads = 0
        if not all(isinstance(leaf, Tensor) for leaf in _leaves(held)):
            raise CompressionError(
                f"{name} answers a {type(answer).__name__}, which the int8 model cannot give",
                where="apply_speedup",
                fix="return tensors, tuples, lists, dicts or dataclasses from forward(), or leave apply_speedup out",
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs in the structure of the model's forward."""
        example = self.completed(Example(args, kwargs))
        if _structure(example) != self._structure:
            raise CompressionError(
                f"the int8 {self._name} was made for calls as {self._structure}, not {_structure(example)}",
                where=f"{self._name}.forward",
                fix="call the model as it was called when it was quantized, or pass dummy_input= of this form there",
            )
        device = next((tensor.device for tensor in tensors_in([example.args, example.kwargs])), torch.device("cpu"))
        return _filled(self._answer, (torch.as_tensor(array).to(device) for array in self.run(example)))

    def completed(self, call: Example) -> Example:
        """Return a call with the arguments that the file has inputs for; see `optional_inputs.completed`."""
        return optional_inputs.completed(call, self._signature, self._names, self._neutral)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None, "_threads": 0}

    @property
    def count(self) -> int:
        """Number of output tensors."""
        return len(tensors_in(self._answer))

    def run(self, example: Example) -> list[Any]:
        """Return the outputs of the ONNX file."""
        try:
            if self._threads != torch.get_num_threads():
                options = session_options(torch.get_num_threads())
                self._session = runtime().InferenceSession(self.data, options, providers=["CPUExecutionProvider"])
                self._threads = torch.get_num_threads()
            known = {value.name: value.type for value in self._session.get_inputs()}
            given = {name: _as_type(array, known[name]) for name, array in feed(example).items() if name in known}
            return list(self._session.run(None, given))
        except MissingDependencyError:
            raise
        except Exception as error:
            shapes = ", ".join(str(list(shape)) for shape in example.shapes)
            raise CompressionError(
                f"the int8 {self._name} cannot compute an input of shape {shapes}: {str(error).splitlines()[0]}",
                where=f"{self._name}.forward",
                fix="keep to the shapes and types that the model was quantized with; the batch size is free where "
                "its forward() computes it from the input",
            ) from error


def bound(example: Example, signature: inspect.Signature) -> Example:
    """Return the example with its arguments in the order of the parameters, however they were passed."""
    given = signature.bind(*example.args, **example.kwargs)
    return replace(example, args=tuple(given.args), kwargs=dict(given.kwargs))


def signature_of(model: nn.Module) -> inspect.Signature:
    """Return the signature of the forward of the model's class."""
    return inspect.signature(type(model).forward.__get__(model))


def make(model: nn.Module, example: Example, data: bytes, neutral: Mapping[str, int] | None = None) -> SessionForward:
    """Return a forward for models of this class; `model` is a float one, `example` as in `bound`."""
    with evaluating(model), torch.no_grad():
        answer = example.call(model)
    return SessionForward(data, example, answer, type(model).__name__, signature_of(model), neutral)


def install(model: nn.Module, forward: SessionForward) -> nn.Module:
    """Let `model` compute with `forward`, as a whole and in eval mode alone; returns it.

    Parts without weights compute as they did: an activation may be one object for all models, as YOLO's is.
    """
    model.forward = forward
    for module in model.modules():
        has_weights = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        if module is not model and has_weights:
            module.register_forward_pre_hook(_refuse_alone, prepend=True)
    return eval_only(model)


def eval_only(model: nn.Module) -> nn.Module:
    """Put `model` into eval mode, and refuse to compute in training mode from now on; returns it."""
    model.register_forward_pre_hook(_refuse_training, prepend=True)
    return model.eval()


def installed(model: nn.Module) -> SessionForward | None:
    """Return the int8 forward of `model`, or None."""
    found = vars(model).get("forward")
    return found if isinstance(found, SessionForward) else None


def from_file(model: nn.Module, example: Example, path: Path, neutral: Mapping[str, int] | None = None) -> nn.Module:
    """Let `model`, a fresh instance, compute with the file at `path`; returns it.

    Raises
    ------
    BundleError
        The file cannot be run, or answers something else than the model does.
    """
    data = path.read_bytes()
    _refuse_further_files(data, path)
    try:
        example = bound(example, signature_of(model))
        forward = make(model, example, data, neutral)
    except Exception as error:
        raise _misfit(path, model, str(error).strip().partition("\n")[0]) from error
    try:
        answers = forward.run(example)
    except CompressionError as error:
        raise bundle.broken(path.parent, f"{path.name}: {error.problems[0].what}") from error
    if len(answers) != forward.count:
        raise _misfit(path, model, f"its forward() answers {forward.count} tensors, the saved model {len(answers)}")
    return install(model, forward)


def _misfit(path: Path, model: nn.Module, what: str) -> BundleError:
    return BundleError(
        f"the bundle does not fit {type(model).__name__}: {what}",
        where=str(path.parent),
        fix="give a fresh instance of the class that was compressed, as the class was then",
    )


def _refuse_further_files(data: bytes, path: Path) -> None:
    """Raise BundleError where the weights are in other files, which no hash covers."""
    onnx = load_extra("onnx", "onnx", "loading an int8 model")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise bundle.broken(path.parent, f"{path.name} is no ONNX file") from error
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in _tensors(model)):
        raise bundle.broken(path.parent, f"{path.name} takes its weights from another file")


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor inside a protobuf message."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for member in value if hasattr(value, "__len__") else (value,):
                if field.message_type.name == "TensorProto":
                    yield member
                else:
                    yield from _tensors(member)


def _refuse_training(model: nn.Module, _args: Any) -> None:
    if model.training:
        raise CompressionError(
            f"{type(model).__name__} is quantized, and can only compute in eval mode",
            where=f"{type(model).__name__}.forward",
            fix="train before it is quantized (before apply_speedup), and call model.eval() to evaluate",
        )


def _refuse_alone(module: nn.Module, _args: Any) -> None:
    raise CompressionError(
        f"a {type(module).__name__} inside the int8 model cannot compute by itself: its weights are not the int8 ones",
        where=f"{type(module).__name__}.forward",
        fix="call the whole model, as it was called when it was quantized",
    )


def _structure(example: Example) -> str:
    return repr(_plain([example.args, example.kwargs]))


def _plain(value: Any) -> Any:
    """Return the structure of an input as a bundle keeps it: plain tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return _TENSOR
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, (tuple, list)):
        members = [_plain(member) for member in value]
        return tuple(members) if isinstance(value, tuple) else members
    return value


class _Tensor(Tensor):
    """Placeholder for any tensor where only the structure counts."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return "tensor"


_TENSOR = torch.empty(0).as_subclass(_Tensor)


def _as_type(array: Any, kind: str) -> Any:
    """Return a mask of truth values or whole numbers in the type that the file's input has: ``tensor(int64)`` ..."""
    types = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}
    return array.astype(types[kind]) if kind in types and array.dtype.kind in "biu" else array


def _without_caches(answer: Any) -> Any:
    """Return a dict-like answer without members that hold no tensor of it, as a decoder's cache of keys and values."""
    if not isinstance(answer, dict):
        return answer
    held = {key: value for key, value in answer.items() if all(isinstance(leaf, Tensor) for leaf in _leaves(value))}
    if not held or len(held) == len(answer):
        return answer
    return type(answer)(**held) if is_dataclass(answer) else held


def _filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return `value`, the structure of an output, with each of its tensors replaced by the next of `tensors`."""
    return map_tensors(value, lambda _: next(tensors))


def _leaves(value: Any) -> list[Any]:
    """Return the tensors, and what `_filled` leaves as it is; numbers and strings are constants."""
    if isinstance(value, MutableMapping):
        return [leaf for member in value.values() for leaf in _leaves(member)]
    if isinstance(value, (tuple, list)):
        return [leaf for member in value for leaf in _leaves(member)]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for one in fields(value) for leaf in _leaves(getattr(value, one.name))]
    return [] if value is None or isinstance(value, (bool, int, float, str)) else [value]
