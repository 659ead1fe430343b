"""Bundles: reloaded by a fresh process, and what is broken, foreign or hostile is refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raycompress
from raycompress.bundle import bundle
from raycompress.bundle.manifest import sha256
from raycompress.errors import BundleError
from raycompress.script import context
from raycompress.script.context import Trial

NETWORK = '''
import torch
from torch import nn

class Network(nn.Module):
    """Depthwise, BatchNorm, flatten, and a weight that two layers share."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.conv2 = nn.Conv2d(12, 8, 1)
        self.first = nn.Linear(8 * 16, 8)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.b.weight = self.a.weight
    def forward(self, x):
        x = torch.relu(self.depthwise(torch.relu(self.bn(self.conv(x)))))
        return {"logits": self.b(self.a(self.first(torch.relu(self.conv2(x)).flatten(1))))}
'''
namespace: dict[str, Any] = {}
exec(NETWORK, namespace)
Network: type[nn.Module] = namespace["Network"]
DUMMY = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Callable[[], Trial]]:
    """Make this process a trial that has exported a model."""

    def start() -> Trial:
        trial = Trial("trial", tmp_path / "candidate", lambda _message: None)
        context.enter(trial)
        config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
        compressor = raycompress.create_compressor(Network(), config, dummy_input=DUMMY)
        compressor.compress()
        compressor.export_model("model.pth", "mask.pth")
        return trial

    yield start
    context.enter(None)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Network()
    config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
    compressor = raycompress.create_compressor(model, config)
    compressor.compress()
    model.train()(torch.randn(8, 1, 4, 4))["logits"].sum().backward()
    compressor.apply_speedup()
    folder = tmp_path / "bundle"
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(folder))
    torch.save(model.eval()(DUMMY)["logits"].detach(), tmp_path / "outputs.pt")
    return folder


def test_a_fresh_process_gives_equal_outputs(saved: Path) -> None:
    program = (
        NETWORK
        + f"""
import raycompress
torch.set_num_threads(1)
model = raycompress.load({str(saved)!r}, Network()).eval()
assert model.conv.out_channels == 6 and model.depthwise.groups == 6 and model.first.in_features == 64
assert model.a.weight is model.b.weight
print(model(torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4))["logits"].tolist())
"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected: Tensor = torch.load(saved.parent / "outputs.pt", weights_only=True)
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), expected, atol=1e-7)
    manifest = bundle.read(saved)
    assert manifest.aliases == {"b.weight": "a.weight"}
    assert manifest.removed["conv"] == (6, 12)
    assert manifest.compressor["name"] == "l1_filter"
    assert manifest.after.params < manifest.before.params
    assert not [path for path in saved.iterdir() if path.suffix in (".pth", ".pt", ".pkl")]


def test_sealing_adds_facts_and_keeps_the_hashes(saved: Path) -> None:
    bundle.seal(saved, {"number": 3, "metrics": {"accuracy": 0.97}})
    bundle.seal(saved, {"seconds": 1.5})
    assert bundle.read(saved).trial == {"number": 3, "metrics": {"accuracy": 0.97}, "seconds": 1.5}
    bundle.check_hashes(saved)
    assert {path.name for path in saved.iterdir()} == set(bundle.FILES)


def test_the_bundles_of_older_versions_load(saved: Path) -> None:
    path, now = saved / "manifest.json", bundle.read(saved)
    path.write_text(path.read_text().replace('"size_bytes"', '"bytes"'))
    assert "size_bytes" not in path.read_text()
    assert bundle.read(saved) == now


def edit_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / "manifest.json").read_text())
        change(data)
        (folder / "manifest.json").write_text(json.dumps(data))

    return edit


def edit_plan(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the plan, and make the manifest vouch for it."""

    def edit(folder: Path) -> None:
        path = folder / "plan.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        file = {"sha256": sha256(path), "bytes": path.stat().st_size}
        edit_manifest(lambda manifest: manifest["files"].update({"plan.json": file}))(folder)

    return edit


def flip(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / "weights.safetensors").rename(outside)
    (folder / "weights.safetensors").symlink_to(outside)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "is no bundle"),
    "cut manifest": (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), "is broken"),
    "another format": (edit_manifest(lambda data: data.update(format=99)), "format 99"),
    "a missing file": (lambda folder: (folder / "plan.json").unlink(), "plan.json is missing"),
    "a flipped bit": (flip, "SHA-256 differs"),
    "a link out": (link_out, "leads out of the folder"),
    "climbing": (
        edit_manifest(lambda data: data["files"].update({"../x": data["files"]["plan.json"]})),
        "leaves the folder",
    ),
    "absolute": (
        edit_manifest(lambda data: data["files"].update({"/etc/passwd": data["files"]["plan.json"]})),
        "leaves the folder",
    ),
    "unlisted weights": (edit_manifest(lambda data: data["files"].pop("weights.safetensors")), "lists no weights"),
    "foreign alias": (edit_manifest(lambda data: data["aliases"].update({"x": "y"})), 'listed to share "y"'),
    "foreign attribute": (
        edit_plan(lambda plan: plan["modules"]["conv"]["attributes"].update(forward=1)),
        'sets "forward"',
    ),
    "a class": (
        edit_plan(lambda plan: plan["modules"]["conv"]["attributes"].update(__class__=1)),
        'sets "__class__"',
    ),
    "a string": (edit_plan(lambda plan: plan["modules"]["conv"]["attributes"].update(groups="os")), "natural number"),
    "foreign module": (
        edit_plan(lambda plan: plan["modules"].update(evil=plan["modules"]["conv"])),
        'no module "evil"',
    ),
    "another type": (edit_plan(lambda plan: plan["modules"]["conv"].update(type="Linear")), "Conv2d in the model"),
    "growing": (edit_plan(lambda plan: plan["modules"]["conv"]["tensors"].update(bias=[10**9])), "would change"),
    "foreign tensor": (
        edit_plan(lambda plan: plan["modules"]["conv"]["tensors"].update(forward=[1])),
        'no tensor "forward"',
    ),
    "more keys": (edit_plan(lambda plan: plan.update(run="rm")), "has the keys"),
    "wrong shape": (
        edit_plan(lambda plan: plan["modules"]["conv"]["tensors"].update(bias=[5])),
        "the weights do not fit",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_broken_and_hostile_bundles_are_refused(saved: Path, name: str) -> None:
    break_it, reason = HOSTILE[name]
    break_it(saved)
    with pytest.raises(BundleError, match=reason) as caught:
        raycompress.load(saved, Network())
    assert caught.value.problems[0].fix


def test_a_foreign_model_is_refused_untouched(saved: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    before = model[0].weight.clone()  # type: ignore[operator]
    with pytest.raises(BundleError, match="does not fit Sequential"):
        raycompress.load(saved, model)
    assert torch.equal(before, model[0].weight)  # type: ignore[arg-type]


def test_a_write_that_fails_leaves_the_old_bundle_whole(saved: Path) -> None:
    manifest = bundle.read(saved)
    content = bundle.Content({}, {}, {}, {}, {}, {"before": object()})
    with pytest.raises(TypeError):
        bundle.write(saved, content)
    assert bundle.read(saved) == manifest
    bundle.check_hashes(saved)


def test_sealing_lists_what_the_script_wrote_by_itself(saved: Path, tmp_path: Path) -> None:
    (saved / "own" / "deep").mkdir(parents=True)
    (saved / "own" / "deep" / "model.h5").write_text("saved in its own way")
    (saved / "own" / "link").symlink_to(saved / "own" / "deep" / "model.h5")
    (tmp_path / "secret").write_text("elsewhere")
    (saved / "file out").symlink_to(tmp_path / "secret")
    (saved / "folder out").symlink_to(tmp_path, target_is_directory=True)
    (saved / "dangling").symlink_to(tmp_path / "none")
    (saved / "back\\slash").write_text("a name that a manifest refuses")
    os.mkfifo(saved / "pipe")
    before = bundle.read(saved).files
    bundle.seal(saved, {"trial": 7})
    manifest = bundle.read(saved)
    assert manifest.trial == {"trial": 7}
    assert set(manifest.files) - set(before) == {"own/deep/model.h5", "own/link"}
    assert {name: manifest.files[name] for name in before} == before
    bundle.check_hashes(saved)
    (saved / "own" / "deep" / "model.h5").write_text("changed since")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.check_hashes(saved)


def test_sealing_takes_the_scripts_files_as_they_are_and_the_bundles_own_as_written(enter: Any) -> None:
    trial = enter()
    folder = trial.candidate
    (folder / "model.pth").write_text("saved again by torch.save")
    (folder / "mask.pth").unlink()
    bundle.seal(folder, {})
    bundle.check_hashes(folder)
    assert "mask.pth" not in bundle.read(folder).files
    (folder / bundle.WEIGHTS).write_bytes(b"other weights")
    bundle.seal(folder, {})
    with pytest.raises(BundleError, match=r"weights\.safetensors is not the file that was saved"):
        bundle.check_hashes(folder)
