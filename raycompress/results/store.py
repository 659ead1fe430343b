"""Experiments in a results folder, local or on S3: creates, lists and finds them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

from raycompress.config.places import S3Address, Storage, is_remote
from raycompress.errors import StorageError, UsageError
from raycompress.model.info import ModelInfo
from raycompress.results.folder import ExperimentFolder, new_id


def check(storage: Storage) -> None:
    """Raise StorageError where results could not be written to S3; a folder is looked at as experiments are loaded."""
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        s3.check(storage)


def create(storage: Storage, name: str, wanted: str | None = None) -> ExperimentFolder:
    """Make a new experiment folder, called after the experiment and the time.

    Parameters
    ----------
    wanted
        What it is to be called instead; a number is added where it is there already.

    Raises
    ------
    StorageError
        `storage` cannot be written.
    """
    stem = wanted or new_id(name)
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        return s3.create(storage, stem)
    try:
        storage.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            root = storage / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                root.mkdir()
            except FileExistsError:
                continue
            (root / "trials").mkdir()
            (root / "logs").mkdir()
            return ExperimentFolder(root)
    except OSError as error:
        raise StorageError(
            f"results cannot be written: {error.strerror}",
            where=str(storage),
            fix='make the folder writable, or name another one with "storage" in the experiment file',
        ) from error
    raise StorageError(f"a thousand experiments were launched at once as {stem}", where=str(storage))


def list_folders(storage: Storage) -> list[ExperimentFolder]:
    """Return the experiments in `storage`, the newest first; those that never began are left out."""
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        return list(s3.begun(storage))
    journals = [(_started(path), path) for path in storage.resolve().glob("*/journal.jsonl")]
    begun = [(started, path) for started, path in journals if started is not None]
    return [ExperimentFolder(path.parent) for _, path in sorted(begun, reverse=True)]


def models(storage: Storage, most: int = 16) -> Iterator[ModelInfo]:
    """Yield the models of the newest experiments in a results folder of this machine, as inspection found them."""
    if isinstance(storage, S3Address):
        return
    for folder in list_folders(storage)[:most]:
        try:
            found = read_model(folder)
        except (OSError, ValueError, KeyError, TypeError):  # another experiment's: told to whoever resumes it
            continue
        if found is not None:
            yield found


def read_model(folder: ExperimentFolder) -> ModelInfo | None:
    """Return the model of an experiment, as inspection found it; None where it has none."""
    file = folder.model
    return ModelInfo.from_json(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def write_model(folder: ExperimentFolder, model: ModelInfo) -> None:
    """Write what inspection found into an experiment's folder."""
    folder.write(folder.model, json.dumps(model.to_json(), indent=2) + "\n")


def _started(journal: Path) -> float | None:
    """Return when the experiment began; None for a journal that a kill kept from beginning."""
    from raycompress.results.journal.journal import read

    try:
        return next((event["t"] for event in read(journal)), None)
    except StorageError:  # told to whoever opens it; the others can be found
        return 0.0


def find(reference: str | None, storage: Storage) -> ExperimentFolder:
    """Return the experiment that `reference` names.

    Parameters
    ----------
    reference
        A path to an experiment folder, its address on S3, an id in `storage`, the beginning of one, or None for the
        newest.
    storage
        Where results are looked for.

    Raises
    ------
    UsageError
        Nothing, or more than one experiment, goes by that name.
    """
    if reference is not None and is_remote(reference):
        return _at_address(reference)
    if reference is not None and (Path(reference) / "journal.jsonl").exists():
        return ExperimentFolder(Path(reference).resolve())
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        named = _named(reference, list(s3.found(storage)), storage)
        named.refresh()
        return named
    return _named(reference, list_folders(storage), storage)


def _at_address(reference: str) -> ExperimentFolder:
    try:
        address = S3Address.parse(reference)
    except ValueError as error:
        raise UsageError(str(error), where=reference, fix="s3://bucket/prefix/ID names an experiment") from error
    return find(address.name or None, address.parent)


def _named(reference: str | None, folders: list[ExperimentFolder], storage: Storage) -> ExperimentFolder:
    if not folders:
        raise UsageError(
            "no experiment here yet",
            where=str(storage),
            fix="`raycompress launch exp.json` makes one; --storage names another results folder",
        )
    if reference is None:
        return folders[0]
    exact = [folder for folder in folders if folder.id == reference]
    found = exact or [folder for folder in folders if folder.id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    ids = [folder.id for folder in (found or folders)]
    if found:
        raise UsageError(f'"{reference}" names {len(found)} experiments', where=str(storage), fix=", ".join(ids[:5]))
    near = difflib.get_close_matches(reference, ids, n=1, cutoff=0.3)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UsageError(f'no experiment "{reference}"', where=str(storage), fix=f"{hint}`raycompress ls` lists them all")
