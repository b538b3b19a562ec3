"""Checkpoints: written under a temporary name, described by a manifest, published by one rename.

    RUN/checkpoints/step-00010000/{state/rank-*.safetensors, lanes.json, trainer.json, manifest.json}

A directory named `step-*` is complete by construction; `.tmp-*` is one being written, `.old-*` one being removed and
`damaged-*` one that failed verification and was set aside for a human.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from trainer.config import CheckpointConfig
from trainer.engine.base import Engine
from trainer.errors import UserError
from trainer.fragments import STATE_DIRECTORY, FragmentFiles, write_fragments

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
_PUBLISHED = re.compile(r"step-(\d{8})")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)?")


class SaveFailed(Exception):
    """A checkpoint could not be written on some rank; what was written has been removed. Raised on every rank."""


def save(run_directory: Path, step: int, engine: Engine, documents: Mapping[str, Any]) -> Path:
    """Publishes the state of all ranks after `step`; a collective.

    `documents` are JSON files beside the state (`trainer.json`, `lanes.json`), the same on every rank. Raises
    SaveFailed on every rank where any rank's disk refused; the checkpoints published before stay as they are.
    """
    final = run_directory / CHECKPOINTS / name_of(step)
    temporary = final.with_name(f".tmp-{final.name}")
    _agree(engine, lambda: _begin(temporary) if engine.rank == 0 else None, temporary)
    described = _agree(engine, lambda: _write_state(temporary, engine), temporary)
    files = {name: entry for part in described for name, entry in part.items()}
    _agree(engine, lambda: _publish(temporary, final, documents, files) if engine.rank == 0 else None, temporary)
    return final


def name_of(step: int) -> str:
    """The directory name of the checkpoint after `step`."""
    return f"step-{step:08d}"


def _agree(engine: Engine, action: Any, temporary: Path) -> list[Any]:
    """Runs one phase on every rank and tells every rank how all of them fared."""
    try:
        outcome: dict[str, Any] = {"value": action()}
    except (OSError, SafetensorError) as error:
        outcome = {"error": f"rank {engine.rank}: {error}"}
    outcomes = engine.gather(outcome)
    errors = [o["error"] for o in outcomes if "error" in o]
    if errors:
        if engine.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise SaveFailed("; ".join(errors))
    return [o["value"] for o in outcomes]


def _begin(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / STATE_DIRECTORY).mkdir(parents=True)


def _write_state(temporary: Path, engine: Engine) -> dict[str, list[Any]]:
    path = write_fragments(temporary, engine.rank, engine.world_size, engine.fragments())
    return {f"{STATE_DIRECTORY}/{path.name}": _describe(path)}


def _describe(path: Path) -> list[Any]:
    """[size, sha256] of a file that has reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _publish(temporary: Path, final: Path, documents: Mapping[str, Any], files: dict[str, Any]) -> None:
    for name, document in documents.items():
        path = temporary / name
        path.write_text(json.dumps(document, indent=1))
        files[name] = _describe(path)
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=1))
    _describe(manifest)
    for directory in (temporary / STATE_DIRECTORY, temporary):
        _sync_directory(directory)
    if final.exists():  # saved before by a run that then went back to an older checkpoint
        _remove(final)
    temporary.rename(final)
    _sync_directory(final.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(checkpoint: Path) -> None:
    """Removes a published checkpoint; renamed first, so that a kill cannot leave half of one that looks whole."""
    old = checkpoint.with_name(f".old-{checkpoint.name}")
    shutil.rmtree(old, ignore_errors=True)
    checkpoint.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    found = (run_directory / CHECKPOINTS).glob("step-*")
    return sorted(path for path in found if _PUBLISHED.fullmatch(path.name))


def verify(checkpoint: Path, rank: int = 0, world_size: int = 1) -> list[str]:
    """What is wrong with a checkpoint, a sentence each; of several ranks each one hashes its share of the files."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    names = sorted(files)
    unsafe = [name for name in names if not _SAFE_NAME.fullmatch(name)]
    if unsafe:
        return [f"{MANIFEST} names a file outside the checkpoint: {unsafe[0]!r}"]
    listed = {name for name in names if name.startswith(f"{STATE_DIRECTORY}/")}
    present = {f"{STATE_DIRECTORY}/{path.name}" for path in (checkpoint / STATE_DIRECTORY).glob("*")}
    strange = [f"{name} is not in {MANIFEST}" for name in sorted(present - listed)]
    return strange + [p for name in names[rank::world_size] for p in _check_file(checkpoint / name, files[name])]


def _check_file(path: Path, expected: list[Any]) -> list[str]:
    try:
        size, digest = _describe(path)
    except OSError as error:
        return [f"{path.name} cannot be read ({error.strerror})"]
    if size != expected[0]:
        return [f"{path.name} has {size} bytes instead of {expected[0]}"]
    return [] if digest == expected[1] else [f"{path.name} does not match its checksum"]


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint so that nothing loads it again and a human can look at it."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def remove_leftovers(run_directory: Path) -> None:
    """Removes what killed saves and removals left behind."""
    for pattern in (".tmp-*", ".old-*"):
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
    """One of the JSON documents that `save` was given."""
    return json.loads((checkpoint / name).read_text())


def fragment_files(checkpoint: Path) -> FragmentFiles:
    """A reader of the sharded state."""
    return FragmentFiles(checkpoint, num_updates=read_document(checkpoint, "trainer.json")["num_updates"])


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
        document = read_document(checkpoint, "trainer.json")
        return document["score"] if document["metric"] == metric else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def apply_retention(run_directory: Path, config: CheckpointConfig, metric: str) -> None:
    """Keeps the last `keep_last` checkpoints and the `keep_best` with the highest score; removes the others."""
    checkpoints = list_checkpoints(run_directory)
    kept = {*checkpoints[-config.keep_last :], *best_first(checkpoints, metric)[: config.keep_best]}
    for path in checkpoints:
        if path not in kept:
            _remove(path)
