"""Datasets of the Hugging Face Hub, streamed; the one door to `datasets`."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from trainer.data.config import CorpusConfig
from trainer.data.corpora.tables import BATCH_ROWS, read_batch
from trainer.errors import Unavailable, UserError, error_line

# `datasets` would try a dead network for 100 seconds; five tries of five seconds outlast a hiccup.
_RETRIES = 5
_TIMEOUT_SECONDS = 10.0


def read_hub(corpus: CorpusConfig) -> Iterator[tuple[list[str], list[str]]]:
    """Yields blocks of pairs from one split of a dataset at `hub_revision`, without a copy on the disk.

    Raises UserError, which names the dataset and the row if there is one, for what the Hub refuses or is no text.
    """
    assert corpus.hub is not None
    revision = hub_revision(corpus.hub)
    first_row = 1
    try:
        for table in _open(corpus, revision).with_format("arrow").iter(batch_size=BATCH_ROWS):
            for batch in table.to_batches():
                yield read_batch(batch, corpus, corpus.hub, first_row)
                first_row += batch.num_rows
    except UserError:
        raise
    except Exception as error:
        # Arrow, fsspec and the Hub's client each raise types of their own.
        if first_row == 1 and _is_lasting(error):
            raise UserError(
                f"the Hub's dataset {corpus.hub} cannot be read: {error_line(error, with_type=False)}."
            ) from error
        beyond = f" beyond row {first_row - 1}" if first_row > 1 else ""
        raise Unavailable(
            f"the Hub's dataset {corpus.hub} cannot be read{beyond} ({error_line(error, with_type=False)}): start "
            "again when the network is back; what is prepared already is kept."
        ) from error


@cache
def hub_revision(name: str) -> str | None:
    """Returns the current commit of a dataset; always the same within a process, so that no two are mixed.

    One short request, before `datasets` makes its own with many retries. Raises UserError if the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return HfApi().dataset_info(name, timeout=_TIMEOUT_SECONDS).sha
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(f"the Hub gives no dataset {name!r}: {error_line(error, with_type=False)}.") from error
    except Exception as error:
        raise Unavailable(
            f"the Hub cannot be reached for the dataset {name} ({type(error).__name__}): prepare the data "
            "on a machine with a network, or give the text as local files (`source` and `target`, or `parquet`)."
        ) from error


def _open(corpus: CorpusConfig, revision: str | None) -> Any:
    # Imported where needed: it takes two seconds, which commands that read no data should not cost.
    import datasets
    import pyarrow.dataset
    from datasets.packaged_modules.cache.cache import Cache

    datasets.config.STREAMING_READ_MAX_RETRIES = _RETRIES
    datasets.config.STREAMING_OPEN_MAX_RETRIES = _RETRIES
    builder = datasets.load_dataset_builder(corpus.hub, corpus.config, revision=revision)
    if isinstance(builder, Cache):  # of any revision; `datasets` takes it when the network fails
        raise ConnectionError("the Hub gave no answer")
    if hasattr(builder.config, "fragment_scan_options"):
        # A Parquet file that is fetched ahead of its reader stays in memory as a whole.
        builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        builder.config.batch_size = BATCH_ROWS
    return builder.as_streaming_dataset(split=corpus.split)


def _is_lasting(error: Exception) -> bool:
    """Whether a retry is useless, as for an unknown configuration or split.

    FileNotFoundError does not count: without an answer from the Hub, its client looks for the file in its cache.
    """
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DatasetsError

    lasting = (ValueError, RuntimeError, ImportError, PermissionError, DatasetsError, EmptyDatasetError)
    return isinstance(error, lasting)
