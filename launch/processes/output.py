"""Standard output and error of a training, which continues when nobody reads them any more."""

import errno
import os
import sys
from typing import Any, TextIO

# The reader of a pipe has ended, or the terminal was closed: nothing will be read from now on.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


def outlive_the_readers() -> None:
    """Replaces `sys.stdout` and `sys.stderr` by streams that never raise; see `LossyStream`."""
    if not isinstance(sys.stdout, LossyStream):
        sys.stdout = LossyStream(sys.stdout)  # type: ignore[assignment]
    if not isinstance(sys.stderr, LossyStream):
        sys.stderr = LossyStream(sys.stderr)  # type: ignore[assignment]


class LossyStream:
    """A text stream that drops what cannot be written, because the reader has gone or the disk is full.

    Once the reader has gone, the file descriptor writes to /dev/null, so that native code and child processes can
    still write to it as well. Everything else is the wrapped stream's; None, a stream closed at start, drops all.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno in _NOBODY_READS:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
