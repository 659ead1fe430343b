"""Bundles from a stranger: refused with an error of ours, or loaded; nothing is unpickled, no other file is touched."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import raycompress
from raycompress.bundle import bundle
from raycompress.errors import BundleError
from tests.support.mutating import changed_bytes, changed_texts, changed_values


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        answer: Tensor = self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
        return answer


CONFIGS: dict[str, dict[str, Any]] = {
    "sliced": {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]},
    "quantized": {
        "compressor": "naive",
        "config_list": [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}],
    },
}


class EarlyStopper:
    """Notes what a process does that loading a bundle never should: the audit events of Python."""

    def __init__(self) -> None:
        self.home: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.home is None:
            return
        unpickles = event == "pickle.find_class"
        starts = event in ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
        changes = event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "os.chmod")
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if unpickles or starts or changes or writes:
            self.seen.append(f"{event} {args!r}"[:200])


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> EarlyStopper:
    found = EarlyStopper()
    found.home = tmp_path_factory.mktemp("watched")
    pickle.loads(pickle.dumps(Path("x")))  # noqa: S301
    (found.home / "x").write_text("")
    found.home = None
    assert [seen.split()[0] for seen in found.seen if "pickle" in seen or "open" in seen] == [
        "pickle.find_class",
        "open",
    ]
    return found


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "outside").write_text("root:x:0:0:root:/root:/bin/bash\n")
    found = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = Net()
        compressor = raycompress.create_compressor(model, config, dummy_input=torch.zeros(1, 1, 8, 8))
        compressor.compress()
        if name == "sliced":
            compressor.apply_speedup()
        found[name] = folder / name
        compressor.export_model("model.pth", folder_name=str(folder), bundle_path=str(found[name]))
        raycompress.load(found[name], Net())
    yield found


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/raycompress-was-here",)


def header(data: dict[str, Any]) -> bytes:
    text = json.dumps(data).encode()
    return len(text).to_bytes(8, "little") + text


FILES = [
    *(pickle.dumps(Evil()), b"", b"\x00" * 64, (2**63).to_bytes(8, "little") + b"{}", b"PK\x03\x04" + b"\x00" * 30),
    header({"conv1.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}),
    header({"conv1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"\x00" * 4,
    header({"conv1.weight": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}) + b"\x00" * 4,
]
NAMES = ("../x", "/etc/passwd", "a/../../x", "\x00", "a\\b", "x" * 300, "loop", ".", "sub/x", "plan.json/x", "")


def change(folder: Path, how: str, name: str, data: Any) -> None:
    path = folder / name
    if path.is_symlink() or (folder / "manifest.json").is_symlink():
        return  # what it leads to is not ours to change
    if not path.exists() and how in ("json", "text", "bytes"):
        return
    match how:
        case "json":
            path.write_text(json.dumps(data.draw(changed_values(json.loads(path.read_text())))))
        case "text":
            path.write_bytes(data.draw(changed_texts(path.read_text())).encode(errors="surrogatepass"))
        case "bytes":
            path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
        case "file":
            path.write_bytes(data.draw(st.sampled_from(FILES)))
        case "link":
            path.unlink()
            path.symlink_to(
                data.draw(st.sampled_from(["../outside", path.name, "/dev/null", "..", "masks.safetensors"]))
            )
        case _:
            _change_manifest(folder, how, data)


def _change_manifest(folder: Path, how: str, data: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    if how == "kind":
        manifest["kind"] = data.draw(st.sampled_from(["torch", "quantized", "os", 1]))
    else:
        manifest["files"][data.draw(st.sampled_from(NAMES))] = {"sha256": "0" * 64, "bytes": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def vouch(folder: Path) -> None:
    """Write the hashes of the files as they are into the manifest: whoever changes the one can change the other."""
    if (folder / "manifest.json").is_symlink():
        return
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for name, file in manifest["files"].items():
            path = folder / name
            if path.is_file() and path.resolve().is_relative_to(folder):
                file["bytes"], file["sha256"] = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError):
        return


@given(st.sampled_from(sorted(CONFIGS)), st.data(), st.booleans())
def test_a_strangers_bundle_is_refused_or_loaded(
    originals: dict[str, Path], watch: EarlyStopper, kind: str, data: st.DataObject, vouched: bool
) -> None:
    folder = originals[kind].with_name("changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(originals[kind], folder)
    for _ in range(data.draw(st.integers(1, 2))):
        how = data.draw(st.sampled_from(["json", "json", "json", "text", "bytes", "file", "name", "link", "kind"]))
        names = ["manifest.json", "plan.json", "quantization.json"]
        if how not in ("json", "text"):
            names = ["manifest.json", "plan.json", "weights.safetensors", "reference.safetensors"]
        if (folder / "manifest.json").is_file():
            try:
                change(folder, how, data.draw(st.sampled_from(names)), data)
            except (ValueError, UnicodeDecodeError, TypeError, KeyError, OSError, AttributeError):
                continue  # already so broken that there is nothing more to change
    if vouched:
        vouch(folder)
    before = {path: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")}
    model = Net()
    watch.home, watch.seen = folder, []
    try:
        for use in (bundle.check_hashes, lambda path: raycompress.load(path, model), bundle.reference):
            try:
                use(folder)
            except BundleError as error:
                assert error.problems[0].fix
                str(error).encode()
    finally:
        watch.home = None
    assert (folder.parent / "outside").read_text() == "root:x:0:0:root:/root:/bin/bash\n"
    assert watch.seen == []
    assert {path: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")} == before


def test_a_pipe_is_not_waited_for(originals: dict[str, Path], tmp_path: Path) -> None:
    for name in ("manifest.json", "plan.json"):
        folder = tmp_path / name
        shutil.copytree(originals["sliced"], folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(BundleError, match=r"is no file|is missing"):
            raycompress.load(folder, Net())


def test_a_bundle_is_not_written_through_a_link_to_elsewhere(originals: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x").write_text("mine")
    foreign = tmp_path / "foreign"
    shutil.copytree(originals["sliced"], foreign)
    (foreign / "sub").symlink_to(elsewhere, target_is_directory=True)
    manifest = json.loads((foreign / "manifest.json").read_text())
    manifest["files"]["sub/x"] = copy.deepcopy(manifest["files"]["plan.json"])
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    compressor = raycompress.create_compressor(Net(), CONFIGS["sliced"], dummy_input=torch.zeros(1, 1, 8, 8))
    compressor.compress()
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(foreign))
    assert (elsewhere / "x").read_text() == "mine"
    bundle.check_hashes(foreign)
