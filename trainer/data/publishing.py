"""Files that are complete or absent, and the error of a full disk."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import UserError
from trainer.files import write_atomically


def publish_file(path: Path, content: bytes) -> None:
    """Writes the whole file or nothing, also if the power fails, after making its folder.

    Raises UserError if the disk is full.
    """
    with explaining_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


@contextmanager
def explaining_full_disk(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk or an exhausted quota into a UserError that names `folder` and the remedy."""
    try:
        yield
    except OSError as error:
        # EFBIG: the limit that the system or the user's shell sets to a file's size.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"no space left in {folder}: free some, or set `data.cache` to a folder on another disk; then start again, "
            "and what is finished is kept."
        ) from error
