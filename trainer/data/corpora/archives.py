"""Archives, which hold files rather than lines of text, are refused by name and by content."""

import re
import tarfile
from collections.abc import Iterable, Iterator

from trainer.errors import UserError

_NAMES = re.compile(r"\.(tar(\.(gz|bz2|xz|zst|lz|lz4|lzma|Z))?|tgz|tbz2?|txz|tzst|tlz|zip|7z|rar)$", re.IGNORECASE)
_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"!<arch>\n": "an ar archive",
    b"\x1f\x8b\x08": "gzip data",
    b"BZh91AY&SY": "bzip2 data",
    b"\xfd7zXZ\x00": "xz data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
}


def refuse_archive_names(path: str) -> None:
    """Raises UserError if the name of a file, or the inner name of an address such as `zip://a::b.zip`, is one."""
    name = path.split("::")[0].partition("?")[0] if "://" in path else path
    if _NAMES.search(name):
        _refuse(path, "an archive")


def refuse_archives(path: str, content: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a file, decompressed, unchanged. Raises UserError if it begins as an archive does."""
    pieces, beginning, failure = iter(content), b"", None
    try:
        while len(beginning) < tarfile.BLOCKSIZE and (piece := next(pieces, None)) is not None:
            beginning += piece
    except Exception as error:  # raised below, after what came before it
        failure = error
    found = next((kind for mark, kind in _BEGINNINGS.items() if beginning.startswith(mark)), None)
    if found is None and _is_tar_header(beginning[: tarfile.BLOCKSIZE]):
        found = "a tar archive"
    if found is not None:
        _refuse(path, found)
    if beginning:
        yield beginning
    if failure is not None:
        raise failure
    yield from pieces


def _is_tar_header(block: bytes) -> bool:
    """Whether the checksum of a tar header is right, as in archives of every age."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _refuse(path: str, kind: str) -> None:
    remedy = "unpack it and name the text files in it"
    if kind.endswith("data"):
        remedy = "decompress it, or end its name in .gz, .bz2, .xz or .zst if it is compressed once"
    raise UserError(f"{path} is {kind}, not text: {remedy}.")
