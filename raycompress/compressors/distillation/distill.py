"""`distill`: the loss of a small model that learns from the dense one as well as from the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycompress.bundle.example import device_of
from raycompress.compressors.depth.dropped_block import dropped_in
from raycompress.compressors.distillation.batch import Batch, logits_of, member
from raycompress.compressors.distillation.observing import AttentionMap, Observed, observing
from raycompress.compressors.distillation.survivors import Survivors, survivors_of
from raycompress.compressors.layer_kinds import channel_dim
from raycompress.errors import CompressionError, UsageError
from raycompress.model.groups import is_inside

_WHERE = "rc.distill"
_IGNORED = -100


def distill(
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    task_loss: Callable[..., Tensor] | None = None,
    *,
    weight: float = 0.5,
    temperature: float = 4.0,
    features: str | Sequence[str] = (),
    feature_weight: float = 1.0,
    attention: bool | str | Sequence[str] = False,
    attention_weight: float = 1.0,
) -> Tensor:
    """Return the loss of `student` on `batch`: of the task, and of its distance to `teacher`.

    It is ``(1 - weight) * task + weight * temperature**2 * KL(teacher, student) + feature_weight * hints +
    attention_weight * maps``. Both models are called once, the teacher without gradients.

    Parameters
    ----------
    student, teacher
        What `compress` returned, masked or small, and ``compressor.teacher``; with another teacher layers must be of
        equal width. The teacher follows the student to its device.
    batch
        As a loader yields it: ``(inputs, labels)``, ``(several, inputs, labels)``, ``({...}, labels)``, arguments by
        name such as ``{"input_ids": ..., "labels": ...}``, or inputs alone.
    task_loss
        task_loss(outputs, labels), or task_loss(outputs) where the batch has no labels. Without it the ``loss`` of the
        student's answer counts, as transformers' models return it.
    weight, temperature
        The share of the soft answers (Hinton et al., Distilling the Knowledge in a Neural Network, 2015), and what both
        logits are divided by. Classes lie in the last dimension of two or three, else in the second; of a single
        output the squared error counts; positions whose label is -100 do not.
    features, feature_weight
        Names or patterns (``layer2.*.bn2``) of layers whose outputs are to be the teacher's, on the channels that stay:
        the squared difference over the teacher's mean square (after Romero et al., FitNets, ICLR 2015).
    attention, attention_weight
        True, or names or patterns of the modules whose maps of attention are to be the teacher's, on the heads that
        stay (after Wang et al., MiniLM, NeurIPS 2020): the mean over rows of ``KL(teacher, student)``.

    Raises
    ------
    UsageError
        A model, a weight, a temperature or a name that cannot be.
    CompressionError
        An answer without logits or loss, or the two models do not fit each other.
    """
    _check_models(student, teacher)
    _check(weight, temperature, feature_weight, attention_weight)
    inner, patterns = _plain(student), _patterns(attention)
    layers = _layers(inner, (features,) if isinstance(features, str) else tuple(features))
    watch = _Watch(layers, bool(patterns))
    asked = Batch.of(batch, inner)
    outputs, own = watch(student, asked, inner)
    _join(teacher, inner)
    with torch.no_grad():
        answers, theirs = watch(teacher, asked.cast(teacher), teacher)
    loss = torch.zeros(()) if weight == 1 else (1 - weight) * _task(outputs, asked, task_loss)
    if weight:
        loss = loss + weight * soft_loss(logits_of(outputs), logits_of(answers), temperature, asked.labels)
    survivors, dropped = survivors_of(teacher), dropped_in(inner)
    if layers:
        loss = loss + feature_weight * _hints(inner, own, theirs, survivors)
    maps = [one for one in theirs.maps if not is_inside(one.module, dropped)]
    patterns = tuple(pattern for pattern in patterns if not is_inside(pattern, dropped))
    if patterns and (maps or not dropped):
        loss = loss + attention_weight * _attention(own.maps, maps, survivors, patterns)
    return loss


@dataclass(frozen=True)
class _Watch:
    """Calls models, and watches what the loss compares."""

    layers: Sequence[str]
    attention: bool

    def __call__(self, model: nn.Module, batch: Batch, inner: nn.Module) -> tuple[Any, Observed]:
        with observing(inner, self.layers, attention=self.attention) as seen:
            return batch.call(model), seen


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, labels: Any = None) -> Tensor:
    """Return ``temperature**2 * KL(teacher, student)`` of logits, a mean over all but the classes."""
    if student.shape != teacher.shape:
        raise CompressionError(
            f"the student answers {tuple(student.shape)}, and the teacher {tuple(teacher.shape)}",
            where=_WHERE,
            fix="give compressor.teacher: a teacher has the same classes",
        )
    dim = 1 if student.dim() > 3 else -1
    if student.size(dim) == 1:
        return functional.mse_loss(student.float(), teacher.float())
    log_student = functional.log_softmax(student.float() / temperature, dim)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim)
    distance = (log_teacher.exp() * (log_teacher - log_student)).sum(dim) * temperature**2
    if isinstance(labels, Tensor) and labels.shape == distance.shape and not labels.is_floating_point():
        counts = labels != _IGNORED
        return (distance * counts).sum() / counts.sum().clamp_min(1)
    return distance.mean()


def _task(outputs: Any, batch: Batch, task_loss: Callable[..., Tensor] | None) -> Tensor:
    if task_loss is not None:
        return task_loss(outputs) if batch.labels is None else task_loss(outputs, batch.labels)
    loss: Tensor | None = member(outputs, "loss")
    if loss is None:
        raise CompressionError(
            f"the student's answer, a {type(outputs).__name__}, has no loss of the task",
            where=_WHERE,
            fix="pass task_loss=, such as F.cross_entropy, or weight=1 for the teacher's answers alone",
        )
    return loss


def _hints(student: nn.Module, own: Observed, theirs: Observed, survivors: Survivors) -> Tensor:
    """Return the mean over layers of the squared difference of the channels that stay, over the teacher's square."""
    losses = []
    for name, answer in theirs.features.items():
        dim = channel_dim(student.get_submodule(name), answer)
        mine = own.features[name].float()
        wanted, mine = _paired(name, answer.float(), mine, dim, survivors.channels.get(name))
        losses.append(functional.mse_loss(mine, wanted) / wanted.square().mean().clamp_min(1e-12))
    return torch.stack(losses).mean()


def _attention(
    own: Sequence[AttentionMap], theirs: Sequence[AttentionMap], survivors: Survivors, patterns: Sequence[str]
) -> Tensor:
    """Return the mean over modules of the distance of the maps of the heads that stay."""
    if [one.module for one in own] != [one.module for one in theirs]:
        raise CompressionError(
            "student and teacher do not compute attention in the same modules",
            where=_WHERE,
            fix="give compressor.teacher, or leave attention= out",
        )
    pairs = [pair for pair in zip(own, theirs, strict=True) if _is_in(pair[0].module, patterns)]
    if not pairs:
        seen = ", ".join(dict.fromkeys(one.module for one in own)) or "none"
        raise UsageError(
            f"attention= matches no module that computes attention; seen: {seen}",
            where=_WHERE,
            fix="attention=True, or names of these",
        )
    return torch.stack([_map_distance(mine, wanted, survivors) for mine, wanted in pairs]).mean()


def _map_distance(mine: AttentionMap, wanted: AttentionMap, survivors: Survivors) -> Tensor:
    kept = survivors.heads_of(wanted.module, wanted.shares.size(-3))
    teacher, student = _paired(wanted.module, wanted.shares.float(), mine.shares.float(), -3, kept)
    log_teacher, log_student = (one.clamp_min(1e-8).log() for one in (teacher, student))
    return (teacher * (log_teacher - log_student)).sum(-1).mean()


def _paired(name: str, teacher: Tensor, student: Tensor, dim: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both tensors with what stays alone; a student that is masked has the rest still."""
    wide = teacher.size(dim)
    if kept is not None:
        places = kept.to(teacher.device)
        teacher = teacher.index_select(dim, places)
        if student.size(dim) == wide:
            student = student.index_select(dim, places)
    if teacher.shape != student.shape:
        raise CompressionError(
            f'"{name}" answers {tuple(student.shape)}, where what stays of the teacher is {tuple(teacher.shape)}',
            where=_WHERE,
            fix="give the teacher of the compressor that cut the model, or leave that layer out",
        )
    return teacher, student


def _layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the layers with weights of their own that the patterns name, in the model's order."""
    with_channels = [name for name, module in model.named_modules() if _has_channels(module)]
    found = [name for name in with_channels if any(fnmatchcase(name, one) for one in patterns)]
    dropped = dropped_in(model)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found) and not is_inside(pattern, dropped):
            raise UsageError(
                f'features= names no layer "{pattern}" with channels',
                where=_WHERE,
                fix=f"name convolutions, linear layers or norms, such as {', '.join(with_channels[:3])}",
            )
    return found


def _has_channels(module: nn.Module) -> bool:
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    named = type(module).__name__ in ("Conv1D", "RMSNorm")
    return isinstance(module, (*kinds, nn.Embedding, nn.MultiheadAttention)) or named


def _patterns(attention: bool | str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(attention, bool):
        return ("*",) if attention else ()
    return (attention,) if isinstance(attention, str) else tuple(attention)


def _is_in(module: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(module, one) or fnmatchcase(module, f"{one}.*") for one in patterns)


def _join(teacher: nn.Module, student: nn.Module) -> None:
    """Move the teacher to the student's device, where it is on another."""
    device = device_of(student)
    if device is not None and device_of(teacher) not in (None, device):
        teacher.to(device)


def _plain(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers, which has the layers' names."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":
            model = model.get_submodule("_orig_mod")
        else:
            return model


def _check_models(student: Any, teacher: Any) -> None:
    """Raise UsageError for what is no model, such as the compressor itself."""
    for name, given in (("student", student), ("teacher", teacher)):
        if not isinstance(given, nn.Module):
            raise UsageError(
                f"the {name} is a torch.nn.Module, not {type(given).__name__}",
                where=_WHERE,
                fix="rc.distill(model, compressor.teacher, batch, ...)",
            )


def _check(weight: float, temperature: float, *others: float) -> None:
    """Raise UsageError for numbers that cannot be."""
    for what, fits in (
        (f"weight= is a share from 0 to 1, not {weight!r}", 0 <= weight <= 1),
        (f"temperature= is above 0, not {temperature!r}", temperature > 0),
        ("feature_weight= and attention_weight= are not negative", min(others) >= 0),
    ):
        if not fits:
            raise UsageError(what, where=_WHERE, fix="weight=0.5, temperature=4.0 is a place to begin")
