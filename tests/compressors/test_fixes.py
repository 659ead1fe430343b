"""Every fix outside of the file's checks that names a compressor, a key or a value is applied, and accepted.

The fixes are read from the code. One that names something is triggered by a situation below, or stands in `BY_HAND`
with the reason why no test can apply it; so a new one has to be put into one of the two. The same for the checks of a
file: `tests/config/test_every_fix.py`.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raycompress
from raycompress import catalog, compress, create_compressor
from raycompress.errors import Problem, RaycompressError

SOURCE = Path(raycompress.__file__).parent
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4
NEEDED = {"sparsity": 0.5, "quant_types": ["weight"], "quant_bits": 8}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.bn(self.conv1(x)).relu()).relu().mean((2, 3)))


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv2.requires_grad_(False)
        self.conv1.requires_grad_(False)
        self.bn.requires_grad_(False)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3.weight = self.conv2.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv3(self.conv2(self.bn(self.conv1(x)).relu())).relu().mean((2, 3)))


class TiedLinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)
        self.fc2.weight = self.fc1.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc2(self.fc1(self.conv1(x).mean((2, 3)))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x.squeeze(1))[0][:, -1])


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any, epoch: int) -> None:
    for _ in range(4):
        optimizer.zero_grad()
        criterion(model(X), Y).backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.01)


PROVIDED: dict[str, Callable[[nn.Module], Any]] = {
    "dummy_input": lambda model: X[:2],
    "optimizer": sgd,
    "calibration_data": lambda model: X,
    "calibration": lambda model: [X],
    "trainer": lambda model: trainer,
    "evaluator": lambda model: lambda other: float(other(X).sum().detach()),
    "criterion": lambda model: nn.CrossEntropyLoss(),
}
"""What a script passes where a fix tells it to."""


def on(compressor: str, *names: str, given: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Return what a script does: see `attempt`."""
    is_pruner = catalog.find(compressor, "torch") is None or catalog.find(compressor, "torch").kind == "pruning"
    found = catalog.find(compressor, "torch")
    needs = ("sparsity",) if found is None or is_pruner else found.needs
    settings = {key: NEEDED[key] for key in needs if key in NEEDED}
    entry = {"op_names": list(names or ("conv1", "conv2")), **settings}
    defaults = {"net": Net, "entries": [entry], "arguments": {}, "wrong": {}, "called": True, "steps": 6, "export": {}}
    return {**defaults, "compressor": compressor, "given": list(given), "ends": "apply_speedup", **more}


LOTTERY = [{"sparsity": 0.5, "op_types": ["Conv2d"], "prune_iterations": 2}]
SITUATIONS: dict[str, dict[str, Any]] = {
    "slip in a compressor": on("l1_fliter"),
    "of another framework": on("magnitude", ends="export_model"),
    "slip in an argument": on("group_l1", arguments={"rond_to": 2}),
    "layers too narrow": on("group_l1", arguments={"round_to": 16}),
    "a required argument": on("lsq"),
    "no inputs to see": on("group_wanda"),
    "no input": on("group_l1", called=False, steps=0),
    "no input, dependency aware": on("l1_filter", arguments={"dependency_aware": True}, called=False),
    "no input of auto_compress": on(
        "auto_compress", given=("trainer", "evaluator", "optimizer", "criterion"), called=False
    ),
    "outputs of amc": on(
        "amc",
        given=("evaluator",),
        wrong={"val_loader": [(X, Y)]},
        entries=[{"op_names": ["fc"]}],
        arguments={"train_episode": 1, "warmup": 1, "flops_ratio": 0.9},
    ),
    "time of a search": on("simulated_annealing", given=("evaluator",), arguments={"search_timeout_s": 0}),
    "row of admm": on("admm", given=("trainer", "optimizer", "criterion"), arguments={"row": -1, "num_iterations": 1}),
    "activation": on(
        "activation_mean_rank_filter", given=("trainer", "optimizer", "criterion"), arguments={"activation": "gelu"}
    ),
    "lottery without an optimizer": on("lottery_ticket", entries=LOTTERY, ends="export_model"),
    "scheduler of another kind": on(
        "lottery_ticket", entries=LOTTERY, given=("optimizer",), wrong={"lr_scheduler": "cosine"}, ends="export_model"
    ),
    "epochs of agp": on("agp", arguments={"num_iterations": 3}, given=("optimizer", "criterion"), ends="export_model"),
    "one iteration of agp": on(
        "agp",
        arguments={"num_iterations": 1, "epochs_per_iteration": 2},
        given=("trainer", "optimizer", "criterion"),
        ends="export_model",
    ),
    "slim without an optimizer": on("slim", "bn", given=("trainer", "criterion")),
    "optimizer by name": on("agp", wrong={"optimizer": "adam"}, ends="export_model"),
    "trainer without an optimizer": on("taylor_fo_weight_filter", given=("trainer", "criterion")),
    "no gradients": on("group_taylor", "conv1", net=Frozen, given=("trainer", "optimizer", "criterion")),
    "masks of single weights": on("level"),
    "calibration of an observer": on("observer", called=False, ends="export_model"),
    "calibration": on("ptq_static", called=False, given=("dummy_input",), steps=0),
    "a method of calibration": on(
        "ptq_static", given=("calibration_data",), arguments={"calibration": "mean"}, steps=0
    ),
    "a range": on("ptq_static", given=("calibration_data",), arguments={"reduce_range": "yes"}, steps=0),
    "bits that int8 has not": on("qat", entries=[{"op_names": ["conv1"], "quant_types": ["weight"], "quant_bits": 16}]),
    "bits of a shared weight": on(
        "int8_weight_only",
        net=TiedLinear,
        entries=[{"op_names": ["fc1"], "quant_bits": 4}, {"op_names": ["fc2"], "quant_bits": 8}],
        steps=0,
    ),
    "no input of a quantizer": on("ptq_dynamic", "fc", called=False, steps=0),
    "a shared weight in training": on("qat", "conv2", "conv1", net=Tied),
    "compensation without inputs": on("group_l1", arguments={"round_to": 1, "compensate": True}),
    "compensation without channels": on(
        "simulated_annealing",
        given=("evaluator",),
        arguments={"base_algo": "level", "compensate": True, "start_temperature": 21},
        ends="export_model",
    ),
    "no entry": on("group_l1", entries=[]),
    "no entry of a quantizer": on("qat", entries=[]),
}


def attempt(script: dict[str, Any]) -> None:
    """Do what a script does: make a compressor, compress, train, and make small or save."""
    torch.manual_seed(0)
    model = script["net"]()
    given = {name: PROVIDED[name](model) for name in script["given"]} | script["wrong"]
    config = {key: script[key] for key in ("compressor", "arguments")}
    compressor = create_compressor(model, {**config, "config_list": copy.deepcopy(script["entries"])}, **given)
    if script["called"]:
        with torch.no_grad():
            model(X)
    model = compressor.compress()
    optimizer = given["optimizer"] if isinstance(given.get("optimizer"), torch.optim.Optimizer) else sgd(model)
    for _ in compressor.get_prune_iterations() if hasattr(compressor, "get_prune_iterations") else [0]:
        if hasattr(compressor, "prune_iteration_start"):
            compressor.prune_iteration_start()
        for epoch in range(script["steps"]):
            trainer(model, optimizer, nn.functional.cross_entropy, epoch)
    getattr(compressor, script["ends"])(*(["model.pth", "mask.pth"] if script["ends"] == "export_model" else []))


def applied(problem: Problem, script: dict[str, Any]) -> dict[str, Any]:
    """Return the script with the first thing that the fix names done."""
    script, fix = copy.deepcopy(script), problem.fix
    key = re.split(r"[.()\[\]]", problem.where)[-1]
    if found := re.match(r'did you mean "(\w+)"', fix):
        if wrong := re.search(r'no argument "(\w+)"', problem.what):
            script["arguments"][found[1]] = script["arguments"].pop(wrong[1])
        else:
            script["compressor"] = found[1]
    elif found := re.match(r"take one of (\w+)", fix):
        script["compressor"] = found[1]
    elif found := re.match(r'write "arguments": (\{.*?\})', fix):
        script["arguments"].update(json.loads(found[1]))
    elif found := re.search(r"pass (\w+)=|^(\w+)(?:=|: )(?!\d)", fix):
        name = found[1] or found[2]
        script["wrong"].pop(name, None)
        if name in PROVIDED:
            script["given"].append(name)
    elif found := re.match(r'(?:"?(\w+)"?(?:=|: )|(\w+) from )([\d.e-]+)', fix):
        script["arguments"][found[1] or found[2]] = (
            float(found[3]) if "." in found[3] or "e" in found[3] else int(found[3])
        )
    elif found := re.fullmatch(r'remove "(\w+)"', fix):
        del script["arguments"][found[1]]
    elif found := re.match(r'"(\w+)" is "(\w+)"', fix):
        script["arguments"][found[1]] = found[2]
    elif found := re.match(r'"(\w+)" (?:is the default|asks)', fix):
        script["arguments"][key] = found[1]
    elif found := re.match(r'write "quant_bits": (\d+) for both', fix):
        for entry in script["entries"]:
            entry["quant_bits"] = int(found[1])
    elif found := re.match(r'quantize "weight" with "quant_bits": (\d+)', fix):
        script["entries"][0].update(quant_types=["weight"], quant_bits=int(found[1]))
    elif found := re.search(r"(\{[^{}]*\})", fix):
        entry = json.loads(found[1])
        keep = {name: value for name, value in (script["entries"] or [{}])[0].items() if name != "op_names"}
        script["entries"] = [*script["entries"], entry] if "exclude" in entry else [{**keep, **entry}]
    elif found := re.search(r"(?:use|such as|compressor:|channels, such as) \"?([a-z]\w+)", fix):
        script["compressor"] = found[1]
        if catalog.find(found[1], "torch").kind != "pruning":
            script["entries"] = [{"op_names": one["op_names"]} for one in script["entries"]]
            script["steps"] = 0
    else:
        raise AssertionError(fix)
    return script


def problem_of(script: dict[str, Any]) -> Problem | None:
    try:
        attempt(script)
    except RaycompressError as error:
        return error.problems[0]
    return None


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SEEN: list[str] = []


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_fix_is_accepted(name: str) -> None:
    script = SITUATIONS[name]
    problem = problem_of(script)
    assert problem is not None, name
    SEEN.append(problem.fix)
    after = problem_of(applied(problem, script))
    assert after is None, (problem, "its fix leads to another mistake", after)


def trains(model: nn.Module) -> None:
    for epoch in range(6):
        trainer(model, sgd(model), nn.functional.cross_entropy, epoch)


COMPRESS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], dict[str, Any]]] = {
    "training after int8": (
        Net,
        {"compressor": "int8_weight_only", "finetune": lambda model: None},
        {"compressor": "qat", "finetune": trains},
    ),
    "no data": (Net, {"compressor": "ptq_static"}, {"calibration_data": X}),
    "no layer": (Recurrent, {"compressor": "l1_filter"}, {"compressor": "int8_weight_only"}),
    "an optimizer of another model": (Net, {"compressor": "agp", "optimizer": sgd(Net())}, {"optimizer": sgd}),
    "a sparsity": (Net, {"compressor": "int8_weight_only", "sparsity": 0.5}, {"sparsity": None}),
}


@pytest.mark.parametrize("name", COMPRESS)
def test_a_fix_of_compress_is_accepted(name: str) -> None:
    net, wrong, right = COMPRESS[name]
    with pytest.raises(RaycompressError) as caught:
        compress(net(), example_inputs=X, **wrong)
    SEEN.append(caught.value.problems[0].fix)
    compress(net(), example_inputs=X, **{**wrong, **right})


# ---- which fixes there are, and why some are applied by nobody

BY_HAND: dict[str, tuple[str, ...]] = {
    "a model, a bundle or a file of the script's changes": (
        *("bundle/*", "compressors/analysis/*", "compressors/depth/*", "compressors/structure/*"),
        *("compressors/saving/*", "script/*", "session/python.py"),
        *("compressors/quantization/session.py", "compressors/quantization/nni.py"),
    ),
    "of a runtime, or the environment that has it: tests/deployment": ("deployment/*", "compressors/deploying/*"),
    "of Keras models: tests/compressors/keras": ("compressors/keras/*",),
    "of another library's trainer: tests/integrations": ("integrations/*",),
    "of another machine, an account or a cluster": ("clusters/*", "doctor/*", "backend/*", "cli/commands/machine/*"),
    "the results of a search are put right by a person": ("results/*",),
    "a search has to run for it: tests/session, tests/cli": ("session/*", "search/*", "cli/commands/search/*"),
    # one by one
    "weights that are all alike": ("an entry of its own for",),
    "an attention in rounds: tests/compressors/engines": ("exclude the layers before it, or use group_l1",),
    "a folder": ("name a folder for the bundle",),
    "a key of the file, which its checks tell as well": ('"slice": ', "slice=", '"depth"'),
    "the call of the function, not its configuration": ("pass the rest by name",),
    "a layer that nothing is measured of is refused by its type before": ("use another compressor, such as group_l2",),
    "no operator with a weight in the ONNX file: tests/compressors/quantization": ("take another compressor: int8",),
    "operators that ONNX 21 lacks: tests/compressors/quantization": ('write "quant_bits": 8 for convolutions',),
    "a second compressor on one model": ("name all layers in one config_list",),
    "a norm that loses channels is saved as it is: tests/compressors/structure": ("call apply_speedup first, or pass",),
    "a per-channel scale of activations, which only some quantizers have": ('write "per_tensor_affine"',),
    "what a loader yields: tests/compressors/engines/test_calibrated.py": (
        *("leave criterion= out", "pass calibration= a loader"),
    ),
    "a training loop: tests/compressors/test_distill.py": ("compressors/distillation/*", "leave teacher= out"),
    "several processes: tests/runtime/test_torchrun.py": ("shard and train a copy", "wrap what apply_speedup()"),
    "several stages: tests/compressors/test_stages.py": ("compressors/stages/*", '[{"compressor": "group_l1", ...}'),
    "layers that are called twice": ("leave dummy_input= out, so that BatchNorm",),
}  # fmt: skip
"""Reason -> files, or parts of fixes, that no test can apply."""


def fixes() -> Iterator[tuple[str, int, str]]:
    """Yield (file, line, template) of each fix in the code but those of `config`, what is filled in as ``{}``."""
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE).as_posix()
        if place.startswith("config/"):
            continue
        tree = ast.parse(file.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for given in (one.value for one in call.keywords if one.arg == "fix"):
                around = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
                for value in _assigned(given, around):
                    yield from ((place, call.lineno, template) for template in _templates(value))


def _assigned(given: ast.expr, around: list[ast.FunctionDef]) -> list[ast.expr]:
    """Return `given`, or what is assigned to it where it is a name."""
    if not isinstance(given, ast.Name):
        return [given]
    assigned = [node for function in around for node in ast.walk(function) if isinstance(node, ast.Assign)]
    return [node.value for node in assigned if any(ast.unparse(one) == given.id for one in node.targets)]


def _templates(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _templates(child)


def names_something(template: str) -> bool:
    """Tell whether a fix names a compressor, or a key or a value to write."""
    words = set(re.findall(r"[a-z0-9_]+", template))
    return '"' in template or bool(re.search(r"\w=(?!=)", template)) or bool(words & set(catalog.names()))


def reason(place: str, template: str) -> str:
    """Return why no test applies a fix; empty where one does, or should."""
    for why, where in BY_HAND.items():
        if any(part in template or (part.endswith((".py", "*")) and fnmatch(place, part)) for part in where):
            return why
    return ""


def test_every_fix_that_names_something_is_applied_or_has_a_reason() -> None:
    if len(SEEN) < len(SITUATIONS) + len(COMPRESS):
        pytest.skip("only after the tests above")
    seen = "\n".join(SEEN)
    naming = [one for one in fixes() if names_something(one[2])]
    assert len(naming) > 50
    missing = [
        (place, line, template)
        for place, line, template in naming
        if not reason(place, template) and not re.search(re.escape(template).replace(r"\{\}", ".*"), seen)
    ]
    assert missing == []


def test_every_reason_is_of_a_fix_that_is_there() -> None:
    found = {reason(place, template) for place, _line, template in fixes()}
    assert set(BY_HAND) <= found
