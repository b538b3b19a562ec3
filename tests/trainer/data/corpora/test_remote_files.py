"""Text at an address reads like text on the disk, through an unsteady network too, and a dead one is reported."""

import gzip
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora import remote_files
from trainer.data.corpora.compressed_files import check_files, file_identity, find_files, read_bytes
from trainer.data.corpora.remote_files import is_missing
from trainer.data.corpora.sources import read_pairs
from trainer.errors import UserError

LINES = [f"line {n}" for n in range(200_000)]
TEXT = "\n".join(LINES).encode()
DEAD = "http://127.0.0.1:9"  # the discard port, where nobody listens


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "_SECONDS_BETWEEN_TRIES", 0.01)


class Handler(BaseHTTPRequestHandler):
    """Serves `files` by path; gives parts unless the path has `whole`, and breaks off `breaks` times."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    breaks: int

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        body, status = self.files.get(self.path.partition("?")[0], b""), 200
        if not body:
            status = 404
        elif (part := self.headers["Range"]) and "whole" not in self.path:
            first, last = (int(number) for number in part.removeprefix("bytes=").split("-"))
            body, status = body[first : last + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body)}"')
        self.end_headers()
        if with_body and len(body) > 1 and type(self).breaks:
            type(self).breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(body)


@pytest.fixture
def handler() -> Iterator[tuple[type[Handler], str]]:
    class Fresh(Handler):
        files = {"/a.en": TEXT, "/a.de.gz": gzip.compress(TEXT), "/whole.en": TEXT}  # noqa: RUF012
        breaks = 0

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Fresh, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_text_comes_over_http(handler: tuple[type[Handler], str]) -> None:
    _, url = handler
    corpus = CorpusConfig(source=f"{url}/a.en?download=1", target=f"{url}/a.de.gz?download=1")
    pairs = [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]
    assert pairs == list(zip(LINES, LINES, strict=True))


def test_a_server_that_gives_no_parts_is_read_through(handler: tuple[type[Handler], str]) -> None:
    _, url = handler
    assert b"".join(read_bytes(f"{url}/whole.en")) == TEXT


def test_a_broken_connection_is_tried_again(handler: tuple[type[Handler], str]) -> None:
    served, url = handler
    served.breaks = 3
    assert b"".join(read_bytes(f"{url}/a.en")) == TEXT
    assert served.breaks == 0


@pytest.mark.parametrize("name", ["a.en", "whole.en"])
def test_a_connection_that_stays_broken_is_told(name: str, handler: tuple[type[Handler], str]) -> None:
    served, url = handler
    served.breaks = 1000
    with pytest.raises(UserError, match=rf"{name} cannot be read: .*; start again when it can be reached"):
        list(read_bytes(f"{url}/{name}"))


def test_parquet_comes_over_http(handler: tuple[type[Handler], str], tmp_path: Path) -> None:
    served, url = handler
    table = pyarrow.table({"en": ["one", "two"], "de": ["eins", "zwei"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    served.files["/t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    served.breaks = 1
    corpus = CorpusConfig(parquet=f"{url}/t.parquet", columns=("en", "de"))
    assert list(read_pairs(corpus)) == [(["one", "two"], ["eins", "zwei"])]


def test_an_address_of_nothing_is_told(handler: tuple[type[Handler], str]) -> None:
    _, url = handler
    with pytest.raises(UserError, match=r"nothing\.en does not exist"):
        file_identity(f"{url}/nothing.en")


@pytest.mark.parametrize("address", [f"{DEAD}/a.en", f"{DEAD}/*.en"])
def test_a_dead_network_is_told(address: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read: Cannot connect to host .*; start again when it can be"):
        list(read_bytes(find_files(address)[0]))


def test_a_remote_file_is_another_when_its_mark_changes(handler: tuple[type[Handler], str]) -> None:
    served, url = handler
    before = file_identity(f"{url}/a.en")
    assert file_identity(f"{url}/a.en") == before
    served.files["/a.en"] = TEXT[::-1]
    assert file_identity(f"{url}/a.en") != before


def test_shards_of_any_file_system_come_in_sorted_order() -> None:
    system = fsspec.filesystem("memory")
    for name in ("b.2.en", "b.1.en", "b.1.de"):
        system.pipe_file(f"/shards/{name}", name.encode())
    found = find_files("memory://shards/b.*.en")
    assert [path.rsplit("/", 1)[1] for path in found] == ["b.1.en", "b.2.en"]
    assert [b"".join(read_bytes(path)) for path in found] == [b"b.1.en", b"b.2.en"]
    with pytest.raises(UserError, match=r"no corpus file matches memory://shards/\*\.fr"):
        find_files("memory://shards/*.fr")


def test_the_files_of_an_archive_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        archive.writestr("a.en", TEXT)
        archive.writestr("a.de", b"")
    (found,) = find_files(f"zip://*.en::{tmp_path}/corpus.zip")
    assert b"".join(read_bytes(found)) == TEXT


def test_a_missing_file_is_not_asked_for_again() -> None:
    def missing(cause: Exception | None) -> FileNotFoundError:
        error = FileNotFoundError("nothing")
        error.__cause__ = cause
        return error

    assert is_missing(missing(None))
    assert is_missing(missing(KeyError("no such repository")))
    assert not is_missing(missing(TimeoutError()))


def test_a_missing_package_is_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    entry = {"class": "not_installed.FileSystem", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "bucket", entry)
    with pytest.raises(UserError, match="bucket://a/b needs a package that is not installed: Install s3fs"):
        check_files("bucket://a/b")
    with pytest.raises(UserError, match="foo://a cannot be read: Protocol not known: foo"):
        check_files("foo://a")
