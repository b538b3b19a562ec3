"""Checkpoints: written under a temporary name, described by a manifest, published by one rename.

    RUN/checkpoints/step-00010000/{state/rank-*.safetensors, lanes.json, trainer.json, manifest.json}

A directory named `step-*` is complete by construction; `.tmp-*` is one being written, `.old-*` one being removed,
`.replaced-*` a complete one that another of the same step takes the place of, and `damaged-*` one that failed
verification and was set aside for a human.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoints.state_files import FragmentFiles, is_fragment_file
from trainer.configuration.sections import CheckpointConfig
from trainer.errors import UserError
from trainer.files import sync
from trainer.run_directory.layout import (
    CHECKPOINT_STATE,
    CHECKPOINTS,
    LANES_DOCUMENT,
    MANIFEST,
    TRAINER_DOCUMENT,
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)?")
_FORMAT, _DOCUMENTS = 1, (LANES_DOCUMENT, TRAINER_DOCUMENT)


def temporary_of(run_directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` lies until it is published."""
    return run_directory / CHECKPOINTS / f".tmp-{checkpoint_name(step)}"


def describe(path: Path) -> list[Any]:
    """[size, sha256] of a file."""
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def publish(run_directory: Path, step: int, documents: Mapping[str, Any], files: Mapping[str, list[Any]]) -> Path:
    """Completes the checkpoint after `step`, whose state is written, and makes it one by a rename.

    `documents` are the JSON files beside the state, `files` describes the state's files by name. Raises OSError.
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
    replaced = final.with_name(f".replaced-{final.name}")
    if final.exists():  # by a run that went back to it
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def _remove(checkpoint: Path) -> None:
    """Removes a published checkpoint; renamed first, so that a kill cannot leave half of one that looks whole."""
    old = checkpoint.with_name(f".old-{checkpoint.name}")
    shutil.rmtree(old, ignore_errors=True)
    checkpoint.rename(old)
    shutil.rmtree(old)


def verify(checkpoint: Path, rank: int = 0, world_size: int = 1) -> list[str]:
    """What is wrong with a checkpoint, a sentence each; of several ranks each one hashes its share of the files."""
    try:
        files = _read_manifest(checkpoint / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    names = sorted(files)
    unsafe = [name for name in names if not _SAFE_NAME.fullmatch(name)]
    if unsafe:
        return [f"{MANIFEST} names a file outside the checkpoint: {unsafe[0]!r}"]
    listed = {name for name in names if name.startswith(f"{CHECKPOINT_STATE}/")}
    missing = [f"{name} is not in {MANIFEST}" for name in _DOCUMENTS if name not in files]
    missing += [] if listed else [f"no state is in {MANIFEST}"]
    present = {f"{CHECKPOINT_STATE}/{path.name}" for path in (checkpoint / CHECKPOINT_STATE).glob("*")}
    strange = [f"{name} is not in {MANIFEST}" for name in sorted(present - listed)]
    wrong = [p for name in names[rank::world_size] for p in _check_file(checkpoint, name, files[name])]
    return missing + strange + wrong


def _read_manifest(path: Path) -> dict[str, list[Any]]:
    """[size, sha256] by file name. Raises one of many exceptions where it is not such a document."""
    document = json.loads(path.read_text())
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']}")
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
    # The checksum is only as good as who wrote the manifest; a pickle under this name must not end every start.
    return [] if name in _DOCUMENTS or is_fragment_file(path) else [f"{path.name} is no safetensors file of a state"]


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint so that nothing loads it again and a human can look at it."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def remove_leftovers(run_directory: Path) -> None:
    """Removes what killed saves and removals left behind; puts back what a killed save had not replaced yet."""
    for replaced in (run_directory / CHECKPOINTS).glob(".replaced-*"):
        final = replaced.with_name(replaced.name.removeprefix(".replaced-"))
        if not final.exists():
            replaced.rename(final)
    for pattern in (".tmp-*", ".old-*", ".replaced-*"):
        for path in (run_directory / CHECKPOINTS).glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(run_directory: Path) -> Path:
    """The newest checkpoint that verifies, for reading by one process. Raises UserError where there is none."""
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
    """A reader of the sharded state."""
    return FragmentFiles(checkpoint, num_updates=read_document(checkpoint, TRAINER_DOCUMENT)["num_updates"])


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """All weights by parameter name, each flattened (1-D, fp32, CPU): the shapes belong to the model."""
    files = fragment_files(checkpoint)
    return {name: files.read(name, "weight", 0, files.numel(name)) for name in files.names}


def best_first(checkpoints: Sequence[Path], metric: str) -> list[Path]:
    """Those that were validated by `metric`, the highest score first; of equal ones the oldest."""
    scores = {path: _score(path, metric) for path in sorted(checkpoints)}
    return sorted((p for p in scores if scores[p] is not None), key=lambda p: scores[p] or 0.0, reverse=True)


def _score(checkpoint: Path, metric: str) -> float | None:
    """None where the checkpoint was not validated, or by another metric, or cannot be read."""
    try:
        document = read_document(checkpoint, TRAINER_DOCUMENT)
        return document["score"] if document["metric"] == metric else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def apply_retention(run_directory: Path, config: CheckpointConfig, metric: str) -> list[str]:
    """Removes the checkpoints that `config` does not keep; what could not be removed, a sentence each."""
    checkpoints = list_checkpoints(run_directory)
    kept = {*checkpoints[-config.keep_last :], *best_first(checkpoints, metric)[: config.keep_best]}
    if config.keep_every:
        kept |= {path for path in checkpoints if checkpoint_step(path) % config.keep_every == 0}
    complaints = []
    for path in checkpoints:
        try:
            if path not in kept:
                _remove(path)
        except OSError as error:
            complaints.append(f"{path.name}: {error}")
    return complaints
