"""Shards belong together if the wildcards of both patterns stand for the same text."""

from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora.shards import pair_shards
from trainer.data.corpora.sources import check_sources, source_identity
from trainer.errors import UserError


def touch(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")


def pairs(folder: Path, source: str, target: str) -> list[tuple[str, str]]:
    found = pair_shards(f"{folder}/{source}", f"{folder}//./{target}")
    return [(str(Path(a).relative_to(folder)), str(Path(b).relative_to(folder))) for a, b in found]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("p.*.en", "p.*.de", [("p.1.en", "p.1.de"), ("p.10.en", "p.10.de"), ("p.2.en", "p.2.de")]),
        ("*.en", "*.de.gz", [("a.en", "a.de.gz"), ("b.en", "b.de.gz")]),
        ("*.en*", "*.de*", [("a.en", "a.de.gz"), ("b.en.gz", "b.de")]),
        ("x.en.*", "x.de.*", [("x.en.aa", "x.de.aa"), ("x.en.ab", "x.de.ab")]),
        ("en/*", "de/*", [("en/news.en", "de/news.de"), ("en/talks.en.xz", "de/talks.de")]),
        ("**/t.*.en", "**/t.*.de", [("k/l/t.1.en", "k/l/t.1.de"), ("k/t.1.en", "k/t.1.de")]),
        ("en/**/t.en", "de/**/t.de", [("en/k/l/t.en", "de/k/l/t.de"), ("en/t.en", "de/t.de")]),
        ("p[0-9][!a-z].en", "p??.de", [("p01.en", "p01.de"), ("p02.en", "p02.de")]),
        ("p*.en", "p*_de", [("p.en", "p_de"), ("p1.en", "p1_de")]),  # sorted by name they would be crossed
        ("a.en", "b*.de", [("a.en", "b7.de")]),
        ("a.en", "b.de", [("a.en", "b.de")]),
    ],
)
def test_shards_go_together_by_what_their_wildcards_stand_for(
    source: str, target: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    touch(tmp_path, [name for pair in expected for name in pair])
    assert pairs(tmp_path, source, target) == expected


@pytest.mark.parametrize(
    ("source", "target", "first"),
    [
        ([f"p.{n}.en" for n in range(1, 11)], [f"p.{n:02}.de" for n in range(1, 11)], ("p.1.en", "p.01.de")),
        (["p.1.en", "p.3.en", "p.4.en"], ["p.1.de", "p.2.de", "p.4.de"], ("p.3.en", "p.2.de")),
        (["p.new.en", "p.old.en"], ["p.alt.de", "p.neu.de"], ("p.new.en", "p.alt.de")),
        (["p.1.en"], ["p.2.de"], ("p.1.en", "p.2.de")),
    ],
)
def test_shards_without_partner_are_named(
    source: list[str], target: list[str], first: tuple[str, str], tmp_path: Path
) -> None:
    touch(tmp_path, source + target)
    corpus = CorpusConfig(source=f"{tmp_path}/p.*.en", target=f"{tmp_path}/p.*.de")
    with pytest.raises(UserError, match=rf"{first[0]} and .*{first[1]} are no two sides of one shard: .* stand for '"):
        check_sources([corpus])


def test_a_shard_in_two_versions_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["a.en", "a.en.gz", "a.de", "a.de.bz2"])
    with pytest.raises(UserError, match=r"a\.en and .*a\.en\.gz are the same shard twice"):
        pairs(tmp_path, "*.en*", "*.de*")


def test_different_numbers_of_wildcards_are_told(tmp_path: Path) -> None:
    touch(tmp_path, ["p.1.en", "p.2.en", "k/q.1.de", "k/q.2.de"])
    with pytest.raises(UserError, match=r"p\.\*\.en has 1 wildcards but .* has 2"):
        pairs(tmp_path, "p.*.en", "*/q.*.de")


def test_shards_at_an_address_go_together_alike() -> None:
    system = fsspec.filesystem("memory")
    for name in ("p.1.en", "p.2.en", "p.1.de", "p.2.de", "p.3.fr", "p.2.fr"):
        system.pipe(f"/pairs/{name}", b"x\n")
    found = pair_shards("memory://pairs/p.*.en", "memory://pairs/p.*.de")
    assert [(a[-6:], b[-6:]) for a, b in found] == [("p.1.en", "p.1.de"), ("p.2.en", "p.2.de")]
    with pytest.raises(UserError, match=r"p\.1\.en and .*p\.2\.fr are no two sides"):
        pair_shards("memory://pairs/p.*.en", "memory://pairs/p.*.fr")


def test_the_identity_has_the_files_in_the_order_of_their_pairs(tmp_path: Path) -> None:
    touch(tmp_path, ["p.en", "p1.en", "p_de", "p1_de"])
    identity = source_identity(CorpusConfig(source=f"{tmp_path}/p*.en", target=f"{tmp_path}/p*_de"))
    assert [Path(file[0]).name for file in identity["target"]] == ["p_de", "p1_de"]
