"""What a trial would be refused behind its training is told before: the source says what the script goes on to call."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress.compressors.foresight import Ahead, look_ahead
from raycompress.script import context

SURE = {
    "behind": "here()\nc.apply_speedup()",
    "assigned": "here()\nmodel = c.apply_speedup(dummy_input=x)",
    "in a function": "def main():\n    here()\n    c.apply_speedup()\nif True:\n    main()",
    "behind a loop": "for epoch in c:\n    here()\nc.apply_speedup()",
    "in a context": "here()\nwith c:\n    c.apply_speedup()",
    "finally": "try:\n    here()\nfinally:\n    pass\nc.apply_speedup()",
    "in a function of the file": "def finish(c):\n    c.apply_speedup()\nhere()\nfinish(c)",
    "while it is saved": "here()\nc.export_model('m.pth', speedup=True)",
    "behind what is caught": "try:\n    here()\nexcept KeyboardInterrupt:\n    pass\nc.apply_speedup()",
    "raised again": "try:\n    here()\n    c.apply_speedup()\nexcept Exception:\n    print()\n    raise",
    "behind what a loop breaks": "for epoch in c:\n    here()\n    break\nc.apply_speedup()",
}
UNSURE = {
    "before": "c.apply_speedup()\nhere()",
    "asked": "here()\nif c.small:\n    c.apply_speedup()",
    "caught": "here()\ntry:\n    c.apply_speedup()\nexcept Exception:\n    pass",
    "suppressed": "import contextlib\nhere()\nwith contextlib.suppress(Exception):\n    c.apply_speedup()",
    "caught by who called": "def go():\n    here()\n    c.apply_speedup()\ntry:\n    go()\nexcept Exception:\n    0",
    "caught around": "try:\n    here()\n    c.apply_speedup()\nexcept Exception:\n    pass",
    "left before": "def main():\n    here()\n    if c.small:\n        return\n    c.apply_speedup()\nmain()",
    "ended before": "import sys\nhere()\nif c.small:\n    sys.exit()\nc.apply_speedup()",
    "one of two": "here()\nmodel = c.apply_speedup() if c.small else c",
    "a function that nobody calls": "def finish():\n    c.apply_speedup()\nhere()",
    "each of none": "here()\nfor one in c.none:\n    c.apply_speedup()",
    "not small": "here()\nc.export_model('m.pth', speedup=False)",
}


class Anything:
    small = False
    none = ()

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: self

    def __iter__(self) -> Any:
        return iter([1])

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def ahead_of(text: str, folder: Path) -> Ahead:
    found: list[Ahead] = []
    text = text.replace("here()", "found.append(look_ahead())")  # a function of this file would be on the stack
    run(text, folder, {"found": found, "look_ahead": look_ahead, "c": Anything(), "x": 1})
    return found[0]


def run(text: str, folder: Path, names: dict[str, Any]) -> None:
    """Run a script on a stack of its own, on which there is nothing of the tests; what it raises passes."""
    script = folder / "train.py"
    script.write_text(text)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(exec, compile(text, str(script), "exec"), names).result()


@pytest.mark.parametrize("name", SURE)
def test_a_speedup_that_is_sure(name: str, tmp_path: Path) -> None:
    line = next(n for n, text in enumerate(SURE[name].split("\n"), 1) if "apply_speedup" in text or "=True" in text)
    assert ahead_of(SURE[name], tmp_path).speedup == f"{tmp_path}/train.py:{line}"


@pytest.mark.parametrize("name", UNSURE)
def test_a_speedup_that_is_not(name: str, tmp_path: Path) -> None:
    try:
        ahead = ahead_of(UNSURE[name], tmp_path)
    except SystemExit:
        pytest.fail("the script was to go on")
    assert ahead.speedup == ""


def test_what_a_script_never_names(tmp_path: Path) -> None:
    made = "c = create_compressor(1)\nhere()\n"
    create = "create_compressor = lambda one: c\n"
    assert ahead_of(create + made, tmp_path).never == {"speedup", "update_epoch", "prune_iteration_start"}
    assert ahead_of(f"{create}{made}c.update_epoch(1)", tmp_path).never == {"speedup", "prune_iteration_start"}
    assert ahead_of(f"{create}{made}print(c)", tmp_path).never == frozenset()  # who gets it may call it
    (tmp_path / "helper.py").write_text("def end(compressor):\n    compressor.apply_speedup()")
    assert "speedup" not in ahead_of(create + made, tmp_path).never


# ---- what inspection refuses


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.fc = nn.Conv2d(1, 8, 3), nn.GroupNorm(1, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv1(x))).mean((2, 3)))


class Unwritable(Net):
    """Computes with an operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.histc(x, 4, 0.0, 1.0).sum() * 0 + torch.special.bessel_j0(x).mean() * 0


class ReadsItsWeight(Net):
    """Asks a layer for the type of its weight, as transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.fc.weight.dtype))


class Multiplies(Net):
    """Computes with a layer's weight itself, which is no call of it."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv1(x))).mean((2, 3))
        return torch.einsum("bi,oi->bo", y, self.fc.weight.tanh())


START = """
from raycompress import create_compressor
def train(model):
    return model(x)
def main():
    c = create_compressor(model, config, **more)
    m = c.compress()
    train(m)
"""
SPEEDUP, SAVE = "    m = c.apply_speedup()\n", "    c.export_model('m.pth')\n"
LEVEL = {"sparsity": 0.5, "op_types": ["Conv2d"]}
ON_CONV = [{"sparsity": 0.5, "op_names": ["conv1"]}]
QAT = [{"quant_types": ["weight"], "quant_bits": 8, "op_names": ["fc"]}]
EVERY: list[dict[str, Any]] = [{"op_types": ["default"]}]


def refused(
    folder: Path, config: dict[str, Any], end: str, model: nn.Module | None = None, exports: Any = (), **more: Any
) -> list[Any]:
    """Return what inspection of a script refuses: (what, where) of each problem."""
    sent: list[Any] = []
    trial = context.Trial(
        mode="inspect", candidate=folder, send=sent.append, analysis={"rehearse": config}, exports=exports
    )
    model = Net() if model is None else model
    names = {"model": model, "config": config, "x": torch.rand(4, 1, 8, 8), "more": more}
    context.enter(trial)
    try:
        with pytest.raises(context.EndOfInspection):
            run(f"{START}{end}main()\n", folder, names)
    finally:
        context.enter(None)
    return [
        (problem["what"], problem["where"])
        for message in sent
        if message["type"] == "refused"
        for problem in message["problems"]
    ]


def config_of(name: str, entries: Any, **arguments: Any) -> dict[str, Any]:
    return {"compressor": name, "config_list": entries, "arguments": arguments}


LATE: dict[str, tuple[dict[str, Any], str, dict[str, Any], str]] = {
    "agp on level": (config_of("agp", [LEVEL]), f"    c.update_epoch(0)\n{SPEEDUP}", {}, "masks single weights"),
    "level": (config_of("level", [LEVEL]), SPEEDUP, {}, "masks single weights"),
    "nothing falls": (
        config_of("l1_filter", [{"sparsity": 0.1, "op_names": ["conv1"]}]),
        SAVE,
        {},
        "every sparsity rounds to no channel",
    ),
    "a norm that no file holds": (config_of("l1_filter", ON_CONV), SAVE, {}, 'its norm "norm" loses channels'),
    "no epochs": (
        config_of("agp", [{**LEVEL, "end_epoch": 4}]),
        SAVE,
        {},
        "the script never calls update_epoch",
    ),
    "onnx": (
        config_of("l1_filter", ON_CONV),
        f"{SPEEDUP}    c.export_model('m.pth', onnx_path='m.onnx')\n",
        {"model": Unwritable()},
        "cannot be written as ONNX",
    ),
    "onnx of the experiment": (
        config_of("l1_filter", ON_CONV),
        SPEEDUP + SAVE,
        {"model": Unwritable(), "exports": ("onnx",)},
        "cannot be written as ONNX",
    ),
    "int8 of what onnx lacks": (config_of("ptq_dynamic", EVERY), SAVE, {"model": Unwritable()}, "cannot be written"),
    "int8 after training": (config_of("qat", QAT), SPEEDUP + SAVE, {"model": Unwritable()}, "cannot be written"),
    "int8 of a weight in double": (
        config_of("ptq_dynamic", EVERY),
        SAVE,
        {"model": Net().double()},
        "are float64, of which no int8 is made",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_a_trial_would_be_refused_is_known_at_inspection(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config, end, more, what = LATE[name]
    more = dict(more)
    model = more.pop("model", None)
    if "double" in name:
        model = nn.Sequential(Doubling(), *[model])
    ((found, _where),) = refused(tmp_path, config, end, model, **more)
    assert what in found


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_the_place_is_the_script_s(tmp_path: Path) -> None:
    ((_what, where),) = refused(tmp_path, config_of("agp", [LEVEL]), SPEEDUP)
    assert where == f"{tmp_path}/train.py:9"


GOOD = {
    "agp on filters": (config_of("agp", ON_CONV, pruning_algorithm="l1"), SPEEDUP),
    "agp that is saved": (config_of("agp", [LEVEL]), SAVE),
    "agp that may be": (config_of("agp", [LEVEL]), f"    if c is None:\n    {SPEEDUP}{SAVE}"),
    "small": (config_of("l1_filter", ON_CONV), SPEEDUP + SAVE),
    "epochs": (
        config_of("agp", [{**LEVEL, "end_epoch": 4}]),
        f"    for e in range(4):\n        c.update_epoch(e)\n{SAVE}",
    ),
    "static": (config_of("ptq_static", EVERY), SAVE),
    "dynamic": (config_of("ptq_dynamic", EVERY), SAVE),
    "qat": (config_of("qat", QAT), SPEEDUP + SAVE),
    "naive": (config_of("naive", QAT), SAVE),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_works_is_not_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config, end = GOOD[name]
    assert refused(tmp_path, config, end, ReadsItsWeight() if name in ("qat", "naive") else None) == []


def test_a_layer_that_a_forward_pass_reads_is_quantized_by_nni_too(tmp_path: Path) -> None:
    from raycompress import create_compressor

    model, x = ReadsItsWeight(), torch.rand(4, 1, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    compressor = create_compressor(model, config_of("qat", QAT), optimizer=optimizer)
    model = compressor.compress()
    for _ in range(3):
        model(x).sum().backward()
        optimizer.step()
    compressor.export_model(str(tmp_path / "m.pth"))
    assert len(torch.unique(torch.load(tmp_path / "m.pth")["fc.weight"])) > 2
    assert "train" not in sys.modules
