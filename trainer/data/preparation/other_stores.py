"""Stores in the same folder that the run does not use."""

from collections.abc import Iterator
from pathlib import Path

from trainer.data.preparation.build_stores import HALF_WRITTEN, WORK, Prepared
from trainer.data.preparation.working_folder import is_worked_in
from trainer.data.stores.store import Store


def other_stores(prepared: Prepared) -> Iterator[tuple[Path, int]]:
    """Finished and abandoned stores of other configurations next to those of the run, and their bytes.

    Leaves out what a live process works on.
    """
    own = {store.directory for store in prepared.stores}
    for cache in sorted({store.directory.parent for store in prepared.stores}):
        for path in sorted(set(cache.iterdir()) - own):
            try:
                is_other = _is_abandoned(path) or Store.open(path) is not None
                num_bytes = sum(file.stat().st_size for file in path.iterdir()) if is_other else 0
            except FileNotFoundError:  # another process has removed it just now
                continue
            if is_other:
                yield path, num_bytes


def _is_abandoned(path: Path) -> bool:
    """Whether a killed process left this half of a store."""
    for beginning in (WORK, HALF_WRITTEN):
        if path.name.startswith(beginning) and path.is_dir():
            return not is_worked_in(path.with_name(WORK + path.name.removeprefix(beginning)))
    return False
