"""Parallel text in Arrow tables: Parquet files and the rows of the Hub."""

from collections.abc import Iterator
from typing import Any

from trainer.data.config import CorpusConfig
from trainer.data.corpora.compressed_files import find_files, naming, open_file
from trainer.errors import UserError

BATCH_ROWS = 10_000


def read_parquet(corpus: CorpusConfig) -> Iterator[tuple[list[str], list[str]]]:
    """Blocks of pairs from Parquet files. Reads only the two columns, one row group at a time.

    Not through `datasets`, which keeps all of a file that it has read (1 GB after a file of 600 MB) and leaves a lock
    file in its cache for every corpus. Raises UserError, naming the file and the row, counted from 1.
    """
    assert corpus.parquet is not None
    for path in find_files(corpus.parquet):
        first_row = 1
        with naming(path):
            for batch in _batches(path, corpus):
                yield read_batch(batch, corpus, path, first_row)
                first_row += batch.num_rows


def _batches(path: str, corpus: CorpusConfig) -> Iterator[Any]:
    # Imported late: commands that read no data should not pay for it.
    import pyarrow.parquet

    with open_file(path) as file:
        # Read ahead, the whole file would stay in memory.
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
        yield from table.iter_batches(BATCH_ROWS, columns=column_paths(table.schema_arrow, corpus, path))


def column_paths(schema: Any, corpus: CorpusConfig, place: str) -> list[str]:
    """Returns the columns of source and target, or `translation.<language>` if they are entries of that column.

    Raises UserError for a column that the table does not have.
    """
    import pyarrow

    setting, names, prefix, present = "columns", corpus.columns, "", list(schema.names)
    if corpus.languages:
        setting, names = "languages", corpus.languages
        nested = schema.field("translation").type if "translation" in schema.names else None
        if nested is not None and pyarrow.types.is_struct(nested):
            prefix, present = "translation.", [field.name for field in nested]
    assert names is not None, "checked with the configuration"
    for name in names:
        if name not in present:
            raise UserError(
                f"`{setting}` of {place} names {name!r}, but the data has {', '.join(present) or 'no columns'}: "
                "give [source, target] with two of these."
            )
    return [f"{prefix}{name}" for name in names]


def read_batch(batch: Any, corpus: CorpusConfig, place: str, first_row: int) -> tuple[list[str], list[str]]:
    """Returns the pairs of a record batch; a null is an empty text.

    Raises UserError, which names place and row, for a value that is no text or not UTF-8.
    """
    sources, targets = (
        _texts(_column(batch, path), place, path, first_row) for path in column_paths(batch.schema, corpus, place)
    )
    return sources, targets


def _column(batch: Any, path: str) -> Any:
    if path in batch.schema.names:
        return batch.column(path)
    parent, _, name = path.partition(".")
    struct = batch.column(parent)
    return struct.flatten()[struct.type.get_field_index(name)]


def _texts(column: Any, place: str, name: str, first_row: int) -> list[str]:
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(value, f"{place}, row {row}") for row, value in enumerate(column, first_row)]
    if set(map(type, values)) <= {str}:
        return values
    for row, value in enumerate(values, first_row):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{place}, row {row}: {name!r} must be a text, but is {str(value)[:40]!r} ({column.type}).")
    return [value or "" for value in values]


def _decoded(scalar: Any, place: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{place}: byte 0x{byte:02x} is not valid UTF-8: convert the text to UTF-8.") from None
