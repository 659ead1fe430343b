"""How scripts of the old tool save: with the folder of their config, in their own way, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import raycompress
from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.compressors.saving.witness import NOTE
from raycompress.errors import CompressionError, UsageError
from raycompress.script.context import Trial
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, digits, train, trained
from tests.support.models.quantizing import quantized

CONFIG = {"compressor": "l1_filter", "config_list": CONVOLUTIONS}
Enter = Callable[..., tuple[Trial, list[dict[str, Any]]]]


def finish(trial: Trial) -> None:
    for hook in trial.on_finish:
        hook()


def report(trial: Trial) -> None:
    for hook in trial.on_report:
        hook({"accuracy": 0.5})


def names(folder: Path) -> set[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - set(bundle.RESERVED)


@pytest.mark.parametrize("small", [True, False])
def test_the_model_of_a_script_that_never_saves_is_saved(enter: Enter, small: bool) -> None:
    trial, sent = enter("trial")
    model = trained("cnn")
    compressor = create_compressor(model, CONFIG, dummy_input=DUMMY)
    compressor.compress()
    train(model, 2)
    report(trial)
    if small:
        compressor.apply_speedup()  # the same function, so the report is still of it
    finish(trial)
    assert [message["notes"] for message in sent] == [[NOTE]]
    assert list(bundle.read(trial.candidate).notes) == [NOTE]
    assert names(trial.candidate) == {"model.pth", "mask.pth"}
    loaded = raycompress.load(trial.candidate, Cnn()).eval()
    images = digits()[0][:64]
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("name", ["qat", "ptq_static", "ptq_dynamic"])
def test_so_is_a_quantized_one(enter: Enter, name: str) -> None:
    trial, sent = enter("trial")
    model, _ = quantized(name)
    report(trial)
    finish(trial)
    assert sent[-1]["notes"][-1] == NOTE
    assert names(trial.candidate) == {"model.pth", "calibration.pth"}
    loaded = raycompress.load(trial.candidate, Cnn()).eval()
    images = digits()[0][:64]
    assert torch.allclose(loaded(images), model.eval()(images), atol=1e-5)


def test_a_script_that_saves_has_no_note_and_no_second_save(enter: Enter) -> None:
    trial, sent = enter("trial")
    compressor = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("m.pth")
    report(trial)
    finish(trial)
    assert [message["notes"] for message in sent] == [[]]
    assert names(trial.candidate) == {"m.pth"}


def test_one_compressor_does_not_save_over_what_another_one_saved(enter: Enter) -> None:
    trial, _ = enter("trial")
    first = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    first.compress()
    second = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    second.compress()
    second.export_model("second.pth")
    report(trial)
    with pytest.raises(CompressionError, match="saved no model"):
        finish(trial)
    assert names(trial.candidate) == {"second.pth"}


def test_what_cannot_be_saved_is_an_error_as_before(enter: Enter) -> None:
    trial, _ = enter("trial")
    create_compressor(trained("cnn"), CONFIG)
    report(trial)
    with pytest.raises(CompressionError, match="never called its compress"):
        finish(trial)
    trial, _ = enter("trial")
    create_compressor(trained("cnn"), CONFIG).compress()
    report(trial)
    with pytest.raises(CompressionError, match="no input of the model is known"):
        finish(trial)


@pytest.mark.parametrize("form", ["folder", "config", "joined", "both", "in the folder", "relative"])
def test_the_folder_of_the_config_may_be_named_in_every_way(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    trial, _ = enter("trial")
    trial.candidate.mkdir()
    folder = str(trial.candidate)
    config = {**CONFIG, "compression_framework": "torch", "arguments": {}, "tid": 3, "job_id": 3, "save_model": True}
    config["folder_name"] = folder
    compressor = create_compressor(trained("cnn"), config, dummy_input=DUMMY)
    compressor.compress()
    export = compressor.export_model
    match form:
        case "folder":
            export(model_path="m.pth", mask_path="mask.pth", save_best_only=True, folder_name=config["folder_name"])
        case "config":
            export(model_path="m.pth", mask_path="mask.pth", save_best_only=True, **config)
        case "joined":
            export(f"{folder}/m.pth", str(Path("aup_models", folder, "mask.pth")))
        case "both":
            export(f"{folder}/m.pth", f"{folder}/mask.pth", folder)
        case "in the folder":
            monkeypatch.chdir(trial.candidate)
            export("m.pth", str(Path.cwd() / "mask.pth"))
        case "relative":
            export("m.pth", "mask.pth", folder_name="models_3")
    below = "models_3/" if form == "relative" else ""
    assert names(trial.candidate) == {f"{below}m.pth", f"{below}mask.pth"}
    assert set(bundle.read(trial.candidate).files) >= {f"{below}m.pth", f"{below}mask.pth"}


@pytest.mark.parametrize(
    "folder", ["{parent}", "{inside}/..", "{inside}/../../x", "{inside}2", "/", "..", "models/../.."]
)
def test_other_folders_are_refused(enter: Enter, folder: str) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    with pytest.raises(UsageError, match="would leave the folder of the trial"):
        compressor.export_model(
            "m.pth", folder_name=folder.format(inside=trial.candidate, parent=trial.candidate.parent)
        )
    with pytest.raises(UsageError, match="name of a file of the bundle"):
        compressor.export_model(str(trial.candidate / "manifest.json"))
    with pytest.raises(UsageError, match="names no file"):
        compressor.export_model(str(trial.candidate))
    assert not trial.candidate.exists()


def test_a_candidate_folder_that_is_reached_through_a_link(enter: Enter, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    trial, _ = enter("trial")
    trial.candidate = tmp_path / "link"
    compressor = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    for path in (tmp_path / "link" / "a.pth", tmp_path / "real" / "b.pth"):
        compressor.export_model(str(path), onnx_path=None)
        assert path.exists()
