"""Files at fsspec addresses, such as `s3://bucket/key`; the one door to `fsspec`."""

import io
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

# Five tries of five seconds outlast a hiccup of the network and still end.
_TRIES = 5
_SECONDS_BETWEEN_TRIES = 5.0
_SILENCE_SECONDS = 20.0
# Names that file systems give to a value that changes with the content, in lower-case letters and digits.
_MARKS = ("etag", "md5", "contentmd5", "blobid", "sha256", "crc", "mtime", "lastmodified", "updated", "created")

Result = TypeVar("Result")


def is_remote(path: str) -> bool:
    """Whether a path is an address rather than the name of a local file."""
    return "://" in path


def check_protocol(address: str) -> None:
    """Raises ImportError or ValueError for a protocol that is not available here. Asks no network."""
    import fsspec  # here, because it takes a tenth of a second, and most corpora are local files

    fsspec.get_filesystem_class(address.split("://")[0])


def find_remote_files(address: str) -> list[str]:
    """Returns the address itself, or the files that its `*` and `[...]` match, sorted. A `?` begins a query."""
    if not any(mark in address for mark in "*["):
        return [address]
    system, path = _file_system(address)
    inner, chain, outer = address.partition("::")
    archive = f"{chain}{outer}" if is_remote(inner) else ""  # such as zip://*.en::corpus.zip
    return sorted(f"{system.unstrip_protocol(name)}{archive}" for name in _patiently(lambda: system.glob(path)))


def open_remote_file(address: str) -> io.RawIOBase:
    """Opens a file whose bytes are fetched while they are read."""
    system, path = _file_system(address)
    open_file = _open_over_http if _is_http(address) else _open
    return _PatientFile(_patiently(lambda: open_file(system, path)), system)


def remote_file_identity(address: str) -> list[Any]:
    """Returns address, size, and the hash, tag or time that the store has for the file."""
    system, path = _file_system(address)
    info = _patiently(lambda: system.info(path))
    marks = {re.sub("[^a-z0-9]", "", key.lower()): str(value) for key, value in info.items()}
    return [address, info.get("size"), *(marks[mark] for mark in _MARKS if mark in marks)]


def is_missing(error: Exception) -> bool:
    """Whether the file does not exist. fsspec raises the same for a silent HTTP server, but with a cause."""
    cause = error.__cause__
    is_of_http = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp.")
    return isinstance(error, FileNotFoundError) and (not is_of_http or getattr(cause, "status", None) in (404, 410))


def is_lasting(error: Exception) -> bool:
    """Whether a retry is useless. Errors that may pass have types of their own in each protocol."""
    return is_missing(error) or isinstance(error, PermissionError | NotImplementedError | ImportError | ValueError)


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(address, **(_http_options() if _is_http(address) else {}))


def _http_options() -> dict[str, Any]:
    """Proxies from the environment, no compression behind our back, and no limit but on silence."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)
    return {"client_kwargs": {"trust_env": True, "timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _open(system: Any, path: str) -> Any:
    return system.open(path, "rb")


def _open_over_http(system: Any, path: str) -> Any:
    try:
        with system.open(path, "rb", cache_type="none") as probe:
            probe.seek(1)
            probe.read(1)
    except ValueError:  # a server that gives no parts of a file is read from beginning to end
        return system.open(path, "rb", block_size=0)
    return system.open(path, "rb")


def _patiently(action: Callable[[], Result]) -> Result:
    """Returns what `action` returns; repeats it after a pause if the network fails."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return action()
        except Exception as error:
            if is_lasting(error) or not tries_left:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
    raise AssertionError("the last try returns or raises")


class _PatientFile(io.RawIOBase):
    """A remote file that repeats failed reads. fsspec moves its position only after a successful read."""

    def __init__(self, file: Any, system: Any) -> None:
        self._file = file
        self._system = system  # kept, because an archive closes its files when it is garbage-collected

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        data = _patiently(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
