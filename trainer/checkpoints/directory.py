"""A checkpoint on disk: written under a temporary name, described by a manifest, published by one rename.

    RUN/checkpoints/step-00010000/{state/rank-*.safetensors, lanes.json, trainer.json, manifest.json}

A folder named `step-*` is complete. `.tmp-*` is being written, `.old-*` is being removed, `.replaced-*` is complete but
another one of the same step takes its place, and `damaged-*` failed verification and was kept for a human to look at.

Names that begin with a dot and that the manifest does not list come from elsewhere (`.DS_Store`, `.nfs…`) and are
ignored everywhere.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoints.state_files import FragmentFiles, is_fragment_file
from trainer.checkpoints.trainer_document import TrainerDocument, require_format
from trainer.errors import UserError
from trainer.files import sync
from trainer.run_directory.layout import (
    CHECKPOINT_STATE,
    CHECKPOINTS,
    LANES_DOCUMENT,
    MANIFEST,
    TRAINER_DOCUMENT,
    checkpoint_name,
    list_checkpoints,
)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)?")
_FORMAT, _DOCUMENTS = 1, (LANES_DOCUMENT, TRAINER_DOCUMENT)
_REPLACED, _OLD, _TEMPORARY, _DAMAGED = ".replaced-", ".old-", ".tmp-", "damaged-"


def temporary_of(run_directory: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` until it is published."""
    return run_directory / CHECKPOINTS / f"{_TEMPORARY}{checkpoint_name(step)}"


def describe(path: Path) -> list[Any]:
    """[size, sha256] of a file."""
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def publish(run_directory: Path, step: int, documents: Mapping[str, Any], files: Mapping[str, list[Any]]) -> Path:
    """Completes the checkpoint after `step`, whose state is written, and gives it its final name. Returns its path.

    `documents` are the JSON files next to the state, `files` describes the state's files by name. Raises OSError.
    """
    temporary, final = temporary_of(run_directory, step), run_directory / CHECKPOINTS / checkpoint_name(step)
    described = dict(files)
    for name, document in documents.items():
        (temporary / name).write_text(json.dumps(document, indent=1))
        described[name] = describe(sync(temporary / name))
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({"format": _FORMAT, "files": described}, indent=1))
    for path in (manifest, temporary / CHECKPOINT_STATE, temporary):
        sync(path)
    replaced = final.with_name(f"{_REPLACED}{final.name}")
    if replaced.exists():
        remove(replaced)
    if final.exists():  # the run went back to it, or its documents are replaced
        final.rename(replaced)
    temporary.rename(final)
    sync(final.parent)
    if replaced.exists():
        remove(replaced)
    return final


def link_state(run_directory: Path, step: int) -> dict[str, list[Any]]:
    """Begins another version of a published checkpoint, with the same state; `publish` completes it.

    Returns [size, sha256] by name of the state's files. They are linked, or copied if the file system has no links.
    Raises OSError.
    """
    temporary, final = temporary_of(run_directory, step), run_directory / CHECKPOINTS / checkpoint_name(step)
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / CHECKPOINT_STATE).mkdir(parents=True)
    manifest = _read_manifest(final)
    files = {name: entry for name, entry in manifest.items() if name.startswith(f"{CHECKPOINT_STATE}/")}
    for name in files:
        try:
            os.link(final / name, temporary / name)
        except OSError:
            shutil.copyfile(final / name, temporary / name)
            sync(temporary / name)
    return files


def remove(checkpoint: Path) -> None:
    """Removes a folder. It is renamed first, so that a kill cannot leave half of one that looks complete.

    Raises OSError. Files that NFS keeps because they are still open are left to `remove_leftovers`.
    """
    old = _unused(checkpoint.with_name(f"{_OLD}{checkpoint.name}"))
    checkpoint.rename(old)
    try:
        shutil.rmtree(old)
    except OSError:
        if any(path.is_file() and not path.name.startswith(".nfs") for path in old.rglob("*")):
            raise


def _unused(path: Path) -> Path:
    number, found = 1, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}.{number + 1}")
    return found


def verify(checkpoint: Path, rank: int = 0, world_size: int = 1) -> list[str]:
    """Returns what is wrong with a checkpoint, a sentence each. Each of several ranks hashes a part of the files.

    Raises UserError for a checkpoint that a newer version wrote.
    """
    try:
        files = _read_manifest(checkpoint)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    names = sorted(files)
    unsafe = [name for name in names if not _SAFE_NAME.fullmatch(name)]
    if unsafe:
        return [f"{MANIFEST} names a file outside the checkpoint: {unsafe[0]!r}"]
    listed = {name for name in names if name.startswith(f"{CHECKPOINT_STATE}/")}
    missing = [f"{name} is not in {MANIFEST}" for name in _DOCUMENTS if name not in files]
    missing += [] if listed else [f"no state is in {MANIFEST}"]
    present = {f"{CHECKPOINT_STATE}/{path.name}" for path in (checkpoint / CHECKPOINT_STATE).glob("[!.]*")}
    unknown = [f"{name} is not in {MANIFEST}" for name in sorted(present - listed)]
    wrong = [p for name in names[rank::world_size] for p in _check_file(checkpoint, name, files[name])]
    return missing + unknown + wrong


def _read_manifest(checkpoint: Path) -> dict[str, list[Any]]:
    """[size, sha256] by file name. Raises one of many exceptions if it is not such a document."""
    path = checkpoint / MANIFEST
    document = json.loads(path.read_text())
    require_format(document["format"], _FORMAT, path)
    return {str(name): [int(size), str(digest)] for name, (size, digest) in document["files"].items()}


def _check_file(checkpoint: Path, name: str, expected: list[Any]) -> list[str]:
    path = checkpoint / name
    if path.resolve() != checkpoint.resolve() / name:
        return [f"{path.name} is a link"]
    try:
        size, digest = describe(path)
    except OSError as error:
        return [f"{path.name} cannot be read ({error.strerror})"]
    if size != expected[0]:
        return [f"{path.name} has {size} bytes instead of {expected[0]}"]
    if digest != expected[1]:
        return [f"{path.name} does not match its checksum"]
    # The checksum proves nothing if the manifest is forged: a pickle under this name must never be loaded.
    return [] if name in _DOCUMENTS or is_fragment_file(path) else [f"{path.name} is no safetensors file of a state"]


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint so that it is not loaded again and a human can look at it. Returns its new path."""
    aside = checkpoint.with_name(f"{_DAMAGED}{checkpoint.name}")
    if aside.exists():
        remove(aside)
    return checkpoint.rename(aside)


def remove_leftovers(run_directory: Path) -> None:
    """Removes what killed saves and removals left; restores a checkpoint that a killed save was about to replace."""
    folder = run_directory / CHECKPOINTS
    for replaced in folder.glob(f"{_REPLACED}*"):
        final = replaced.with_name(replaced.name.removeprefix(_REPLACED))
        if not final.exists():
            replaced.rename(final)
    for prefix in (_TEMPORARY, _OLD, _REPLACED):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(run_directory: Path) -> Path:
    """The newest checkpoint that verifies, for reading by one process. Raises UserError if there is none."""
    checkpoints = list_checkpoints(run_directory)
    for checkpoint in reversed(checkpoints):
        if not verify(checkpoint):
            return checkpoint
    state = f"all {len(checkpoints)} are damaged" if checkpoints else "none has been published yet"
    raise UserError(f"the run directory {run_directory} has no usable checkpoint: {state}; train first")


def read_document(checkpoint: Path, name: str) -> Any:
    """One of the JSON documents that `publish` was given."""
    return json.loads((checkpoint / name).read_text())


def fragment_files(checkpoint: Path) -> FragmentFiles:
    """A reader of the sharded state: of the files that the manifest lists, whatever else the folder holds."""
    listed = [name for name in sorted(_read_manifest(checkpoint)) if name.startswith(f"{CHECKPOINT_STATE}/")]
    return FragmentFiles([checkpoint / name for name in listed], TrainerDocument.read(checkpoint).num_updates)


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """All weights by parameter name, each flattened (1-D, fp32, CPU): the shapes belong to the model."""
    files = fragment_files(checkpoint)
    return {name: files.read(name, "weight", 0, files.numel(name)) for name in files.names}
