"""Text files as blocks of lines."""

import codecs
from collections.abc import Iterator

from trainer.data.corpora.compressed_files import CutOff, read_bytes
from trainer.errors import UserError

_BLOCK_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 24


def line_blocks(path: str) -> Iterator[list[str]]:
    """Yields the lines of a file, decompressed, about a megabyte at a time.

    A line ends at a line feed and nowhere else, so that its number is the same as in other tools. The text reader of
    `datasets` also ends lines at a lone carriage return, which shifts one side of a corpus against the other.
    Raises UserError, which names file and line, for text that is not UTF-8 or has no line feeds.
    """
    num_lines = 0
    for block in _whole_lines(path):
        lines = _decode(block, path, num_lines)
        num_lines += len(lines)
        yield lines


def _whole_lines(path: str) -> Iterator[bytes]:
    """Yields the file in blocks that end at a line feed, without that line feed."""
    pieces: list[bytes] = []
    num_bytes = num_lines = 0
    for piece in _pieces(path):
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes < _BLOCK_BYTES:
            continue
        block, line_feed, rest = b"".join(pieces).rpartition(b"\n")
        if line_feed:
            num_lines += block.count(b"\n") + 1
            yield block
        if len(rest) > _MAX_LINE_BYTES:
            raise UserError(
                f"{path}, line {num_lines + 1} is longer than {_MAX_LINE_BYTES:,} bytes: "
                "a corpus has one sentence per line."
            )
        pieces, num_bytes = [rest], 0
    block = b"".join(pieces)
    if block:
        yield block.removesuffix(b"\n")


def _pieces(path: str) -> Iterator[bytes]:
    """Those of `read_bytes`; if they end too early, the error names the last line read."""
    num_lines = 0
    try:
        for piece in read_bytes(path):
            num_lines += piece.count(b"\n")
            yield piece
    except CutOff:
        raise CutOff(path, f" after line {num_lines}") from None


def _decode(block: bytes, path: str, lines_before: int) -> list[str]:
    if lines_before == 0:
        block = block.removeprefix(codecs.BOM_UTF8)
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        line = lines_before + block.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{block[error.start]:02x} is not valid UTF-8: convert the file to UTF-8."
        ) from None
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines
