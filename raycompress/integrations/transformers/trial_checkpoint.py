"""A lost trial goes on from the last checkpoint of its Trainer: the trial's checkpoint holds that folder's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.disk import translate_os_errors
from raycompress.script import context
from raycompress.script.checkpoint import checkpoint, usable

_KEY = "transformers_trainer"
_OF_TRAINING_ALONE = ("optimizer", "scheduler", "scaler", "rng_state")
_OF_OTHER_WORKERS = "rng_state_[1-9]*.pth"


class TrialCheckpoint:
    """The checkpoint of the trial of this process, by `raycompress.checkpoint`; by hand it holds nothing.

    A script that calls ``rc.checkpoint.load`` itself before the training keeps what it likes, and this keeps nothing.

    Parameters
    ----------
    trainer
        A ``transformers.Trainer``.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._trial = context.current()
        self._is_ours = False
        self.was_reported = False

    @property
    def was_masked(self) -> bool:
        """Whether the trial goes on from a checkpoint whose model was not sliced yet; known after ``compress()``."""
        found = None if self._trial is None else usable(self._trial)
        held = {} if found is None else found["plain"].get(_KEY, {})
        return bool(held) and not held["is_small"]

    def load(self) -> Path | None:
        """Return the folder that the training goes on from, as the Trainer wrote it; None where it begins anew."""
        if self._trial is None or self._trial.checkpoint is None or self._trial.is_loaded:
            return None
        self._is_ours = True
        held = (checkpoint.load() or {}).get(_KEY)
        if held is None:
            return None
        self.was_reported = held["was_reported"]
        for name, files in held["folders"].items():
            _write(Path(self._trainer.args.output_dir, name), files)
        return Path(self._trainer.args.output_dir, held["folder"])

    def close(self) -> None:
        """Keep nothing from now on: a second training of the script starts at its beginning."""
        self._is_ours = False

    @property
    def keeps(self) -> bool:
        """Whether what the Trainer saves is to be kept."""
        is_first = self._trial is not None and self._trial.rank == 0
        return self._is_ours and is_first and not self._trainer.args.save_only_model

    def save(self, folder: Path, state: Any, *, is_small: bool, was_reported: bool) -> None:
        """Keep a folder that the Trainer has just written, and of its best one what the end of the training reads.

        Parameters
        ----------
        state
            The Trainer's ``TrainerState``.
        is_small
            Whether the model is sliced.
        was_reported
            Whether the model was reported as it is.
        """
        args = self._trainer.args
        folders = {folder.name: _read(folder)}
        best = None if state.best_model_checkpoint is None else Path(state.best_model_checkpoint)
        if args.load_best_model_at_end and best is not None and best.name != folder.name:
            folders[best.name] = _read(best, but=_OF_TRAINING_ALONE)
        held = {"folder": folder.name, "folders": folders, "is_small": is_small, "was_reported": was_reported}
        checkpoint(**{_KEY: held}, epoch=round(float(state.epoch or 0), 4), step=state.global_step)


def _read(folder: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return the files of a folder by their paths in it."""
    with translate_os_errors("cannot read", folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            # other workers may be writing theirs
            if path.is_file() and not path.match(_OF_OTHER_WORKERS) and not path.name.startswith(but)
        }


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, each in one step: another worker of the trial may write the same."""
    with translate_os_errors("cannot write", folder):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(content)
            aside.replace(path)
