"""Every corpus as blocks of aligned text; the one door to `datasets` and to the Hub."""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any, get_args

from trainer.data import phrasebook
from trainer.data.config import CorpusConfig
from trainer.errors import UserError

Block = tuple[list[str], list[str]]
"""Sources and targets, equally many, line n of one being the translation of line n of the other."""

_BLOCK_PAIRS = 10_000
_CHUNK_BYTES = 1 << 22
# `datasets` would try a dead network for 100 seconds; five tries of five seconds outlast a hiccup.
_STREAMING_RETRIES = 5
_HUB_TIMEOUT_SECONDS = 10.0


def read_pairs(corpus: CorpusConfig) -> Iterator[Block]:
    """The pairs of a corpus in its own order, at most `limit` of them, the same at every call.

    Raises UserError, naming the file and where it applies the line, for what cannot be read as parallel text.
    """
    remaining = corpus.limit
    empty = True
    for sources, targets in _reader(corpus):
        if remaining is not None:
            sources, targets = sources[:remaining], targets[:remaining]
            remaining -= len(sources)
        empty = empty and not sources
        yield sources, targets
        if remaining == 0:
            break
    if empty:
        raise UserError(f"the corpus {corpus_place(corpus)} is empty: give one with at least one pair or leave it out.")


def corpus_place(corpus: CorpusConfig) -> str:
    """Where a corpus comes from, for messages: the path of its source side, or what the dataset is called."""
    return corpus.source or corpus.parquet or corpus.hub or corpus.builtin or corpus_name(corpus)


def corpus_name(corpus: CorpusConfig) -> str:
    """`name` where one is given, otherwise the file's or the dataset's own name, fit for a folder's name."""
    if corpus.name:
        name = corpus.name
    elif corpus.hub:
        name = "-".join(part for part in (corpus.hub, corpus.config, corpus.split) if part)
    elif corpus.builtin:
        name = f"{corpus.builtin}-{corpus.split}"
    else:
        name = Path(corpus.source or corpus.parquet or "").name.split(".")[0]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "corpus"


def check_sources(corpora: Iterable[CorpusConfig]) -> None:
    """Raises UserError for a file that is missing or not readable; opens nothing and asks no network."""
    for corpus in corpora:
        for path in _local_files(corpus):
            if not os.path.isfile(path):
                raise UserError(f"the corpus file {path} does not exist (or is no file): correct its path.")
            if not os.access(path, os.R_OK):
                raise UserError(f"the corpus file {path} may not be read by this user: change its permissions.")


def source_identity(corpus: CorpusConfig) -> dict[str, Any]:
    """What must be unchanged for a corpus to hold the same pairs, JSON-able: names, sizes, times of the files."""
    check_sources([corpus])
    identity: dict[str, Any] = {"limit": corpus.limit}
    if corpus.hub or corpus.builtin:
        identity |= {"hub": corpus.hub, "builtin": corpus.builtin, "config": corpus.config, "split": corpus.split}
    if corpus.builtin:
        modules = sorted(Path(str(_builtin(corpus).__file__)).parent.glob(f"{corpus.builtin}*.py"))
        identity["code"] = hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest()
    if corpus.hub or corpus.parquet:
        identity["languages"] = list(corpus.languages or ())
    stats = [(os.path.abspath(path), os.stat(path)) for path in _local_files(corpus)]
    return identity | {"files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]}


def _reader(corpus: CorpusConfig) -> Iterator[Block]:
    if corpus.builtin:
        return _read_builtin(corpus)
    if corpus.parquet or corpus.hub:
        return _read_table(corpus)
    return _read_text(corpus)


def _local_files(corpus: CorpusConfig) -> list[str]:
    if corpus.parquet:
        return sorted(glob.glob(corpus.parquet)) or [corpus.parquet]
    return [path for path in (corpus.source, corpus.target) if path is not None]


def _builtin(corpus: CorpusConfig) -> ModuleType:
    if corpus.builtin != "phrasebook":
        raise UserError(f"`builtin` is {corpus.builtin!r}, but the only corpus that ships with dragoman is phrasebook.")
    return phrasebook


def _read_builtin(corpus: CorpusConfig) -> Iterator[Block]:
    splits = get_args(phrasebook.Split)
    if corpus.split not in splits:
        raise UserError(
            f"`split` of the builtin {corpus.builtin} is {corpus.split!r}: it must be one of {', '.join(splits)}."
        )
    pairs = iter(_builtin(corpus).pairs(corpus.split))
    while block := list(islice(pairs, _BLOCK_PAIRS)):
        yield [source for source, _ in block], [target for _, target in block]


def _read_text(corpus: CorpusConfig) -> Iterator[Block]:
    check_sources([corpus])
    sides = [_lines(path) for path in _local_files(corpus)]
    assert len(sides) == 2, "checked with the configuration"
    num_pairs = 0
    while True:
        sources, targets = (list(islice(side, _BLOCK_PAIRS)) for side in sides)
        if len(sources) != len(targets):
            counts = [num_pairs + len(b) + sum(1 for _ in s) for b, s in zip((sources, targets), sides, strict=True)]
            raise UserError(
                f"{corpus.source} has {counts[0]} lines but {corpus.target} has {counts[1]}: "
                "line n of one must be the translation of line n of the other, so make them equally long."
            )
        if not sources:
            return
        num_pairs += len(sources)
        yield sources, targets


def _lines(path: str) -> Iterator[str]:
    return chain.from_iterable(_line_blocks(path))


def _line_blocks(path: str) -> Iterator[list[str]]:
    """Lines that end at a line feed and nowhere else, so that their numbers are those of every other tool.

    The text builder of `datasets` also ends lines at a lone carriage return, which shifts one side of a corpus
    against the other; so the bytes come through `datasets` (which decompresses) and the lines are cut here.
    """
    number, rest = 0, b""
    with _open_binary(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            complete, line_feed, rest = (rest + chunk).rpartition(b"\n")
            if line_feed:
                lines = _decode(complete, path, number)
                number += len(lines)
                yield lines
    if rest:
        yield _decode(rest, path, number)


def _decode(data: bytes, path: str, lines_before: int) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines_before + data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8: convert the file to UTF-8."
        ) from None
    if lines_before == 0:
        text = text.removeprefix("\ufeff")
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


@contextmanager
def _open_binary(path: str) -> Iterator[IO[bytes]]:
    # Imported where needed: it takes two seconds, which commands that read no data should not cost.
    from datasets import StreamingDownloadManager
    from datasets.download.streaming_download_manager import xopen

    try:
        with xopen(StreamingDownloadManager().extract(os.path.abspath(path)), "rb") as file:
            yield file
    except EOFError:
        raise UserError(f"{path} is cut off: its compressed data ends early, so fetch or compress it again.") from None
    except UserError:
        raise
    except Exception as error:
        # Each decompressor has an exception of its own (BadGzipFile, LZMAError, zlib.error, ...).
        raise UserError(f"{path} cannot be read: {error}.") from error


def _read_table(corpus: CorpusConfig) -> Iterator[Block]:
    rows = _open_hub(corpus) if corpus.hub else _open_parquet(corpus)
    source, target = corpus.languages or (None, None)
    try:
        for batch in rows.with_format("arrow").iter(batch_size=_BLOCK_PAIRS):
            yield _column(batch, source, corpus), _column(batch, target, corpus)
    except UserError:
        raise
    except Exception as error:
        # Arrow, fsspec and the Hub's client each raise types of their own.
        where = corpus.hub or corpus.parquet
        raise UserError(f"{where} cannot be read: {_first_line(error)}.") from error


def _column(batch: Any, name: str | None, corpus: CorpusConfig) -> list[str]:
    """A column, or an entry of the Hub's nested `translation` column; a missing text is an empty one."""
    nested = batch.schema.field("translation").type if "translation" in batch.column_names else None
    entries = [field.name for field in nested] if nested is not None else batch.column_names
    if name not in entries:
        raise UserError(
            f"`languages` of {corpus.hub or corpus.parquet} names {name!r}, but the data has {', '.join(entries)}: "
            "give [source, target] with two of these."
        )
    column = batch.column("translation" if nested is not None else name).combine_chunks()
    texts = column.field(name) if nested is not None else column
    return [text or "" for text in texts.to_pylist()]


def _open_parquet(corpus: CorpusConfig) -> Any:
    from datasets import load_dataset

    check_sources([corpus])
    try:
        return load_dataset("parquet", data_files=_local_files(corpus), split="train", streaming=True)
    except Exception as error:
        raise UserError(f"{corpus.parquet} cannot be read as Parquet: {_first_line(error)}.") from error


def _open_hub(corpus: CorpusConfig) -> Any:
    import datasets

    datasets.config.STREAMING_READ_MAX_RETRIES = _STREAMING_RETRIES
    datasets.config.STREAMING_OPEN_MAX_RETRIES = _STREAMING_RETRIES
    assert corpus.hub is not None
    _check_hub(corpus.hub)
    try:
        return datasets.load_dataset(corpus.hub, corpus.config, split=corpus.split, streaming=True)
    except Exception as error:
        raise UserError(f"the Hub's dataset {corpus.hub} cannot be read: {_first_line(error)}.") from error


def _check_hub(name: str) -> None:
    """One short question before `datasets` asks with its many retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(f"the Hub gives no dataset {name!r}: {_first_line(error)}.") from error
    except Exception as error:
        raise UserError(
            f"the Hub cannot be reached for the dataset {name} ({type(error).__name__}): prepare the data "
            "where there is a network, or give the text as local files (`source` and `target`, or `parquet`)."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
