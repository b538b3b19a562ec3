"""What the files of the corpora were when they were prepared, so that the files themselves may be gone later."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.data.config import CorpusConfig
from trainer.data.corpora.remote_files import is_remote
from trainer.data.corpora.sources import source_identity
from trainer.errors import UserError
from trainer.files import write_atomically

_FOLDER = "sources"


class KnownSources:
    """The identities of files (see `source_identity`), kept in the folder of the prepared data.

    A file that is gone, or cannot be reached, counts as what it was when `keep` was last called.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER
        self._seen: dict[str, Any] = {}

    def corpus_identity(self, corpus: CorpusConfig) -> dict[str, Any]:
        """The `source_identity` of a corpus. Raises UserError for a file that is gone and was never kept."""
        return source_identity(corpus, self.identity)

    def identity(self, place: str, read: Callable[[str], Any]) -> Any:
        """`read(place)`, JSON-able; if that fails, what it returned before. Raises what `read` raises."""
        key = place if is_remote(place) else os.path.abspath(place)
        try:
            self._seen[key] = read(place)
        except (UserError, OSError):
            if key not in self._seen:
                known = self._read(key)
                if known is None:
                    raise
                self._seen[key] = known["identity"]
        return self._seen[key]

    def keep(self) -> None:
        """Keeps what was seen for later processes. Raises OSError."""
        for key, identity in self._seen.items():
            known = {"place": key, "identity": identity}
            if self._read(key) != json.loads(json.dumps(known)):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path(key), json.dumps(known))

    def _read(self, key: str) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads(self._path(key).read_bytes())
            if isinstance(found, dict) and found.get("place") == key and "identity" in found:
                return found
        return None

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"
