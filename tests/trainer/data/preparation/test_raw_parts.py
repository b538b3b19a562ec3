from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainer.data.config import FilterConfig
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.raw_parts import Part, PartFile, PartMaker, Rejections, hash_pairs
from trainer.data.stores.store import TEXT_DTYPE
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair

SOURCES = ["a house", "", "a tree", "\ud800 the end", "same", "", "", ""]
TARGETS = ["ein Haus", "leer", "ein Baum", "das Ende", "same", "1", "2", "3"]


@pytest.fixture
def maker() -> PartMaker:
    return PartMaker(PairFilter(FilterConfig()), None, TEXT_DTYPE)


@pytest.fixture
def part(maker: PartMaker) -> Part:
    return maker.make(SOURCES, TARGETS)


def test_a_part_holds_the_text_of_the_fit_pairs_and_accounts_for_the_others(part: Part) -> None:
    assert bytes(part.source.token_L.tolist()).decode() == "a housea tree? the end"
    assert part.source.length_N.tolist() == [7, 6, 9]
    assert part.target.length_N.tolist() == [8, 8, 8]
    assert part.rejections.counts == {"empty source": 4, "copy": 1}
    assert part.rejections.examples == {
        "empty source": [["", "leer"], ["", "1"], ["", "2"]],
        "copy": [["same", "same"]],
    }


def test_with_an_encoder_it_holds_tokens_and_what_is_too_long_is_counted(
    maker: PartMaker, part: Part, tokenizer: Tokenizer
) -> None:
    longest = max(len(tokenizer.encode_side([line]).token_L) for line in ("a house", "ein Haus"))
    encoder = PairEncoder(TokenizerPair(tokenizer, tokenizer), longest)
    encoded = replace(maker, encoder=encoder, dtype="uint16").make(["a house", "?" * 100], ["ein Haus", "x" * 100])
    assert encoded.rejections.counts == {"few letters": 1}
    encoded = replace(maker, encoder=encoder, dtype="uint16").make(["a house", "a b " * 100], ["ein Haus", "x" * 300])
    assert encoded.rejections.counts == {"too long": 1}
    ((shown_source, shown_target),) = encoded.rejections.examples["too long"]
    assert (len(shown_source), len(shown_target)) == (200, 200)
    assert shown_target.endswith("x…")
    assert encoded.source.token_L.tolist() == tokenizer.encode_side(["a house"]).token_L.tolist()
    assert encoded.hash_N.tolist() == part.hash_N[:1].tolist(), "the hash is of the text, whatever is kept of it"


def test_pairs_are_told_apart_by_both_sides_and_where_they_meet() -> None:
    pairs = [(b"ab", b"c"), (b"a", b"bc"), (b"ab", b"d"), (b"ab", b"c"), (b"2 ab", b"c")]
    hash_N = hash_pairs(*zip(*pairs, strict=True))
    assert hash_N.dtype == np.uint64
    assert hash_N[0] == hash_N[3]
    assert len(set(hash_N.tolist())) == 4


def test_what_is_written_is_read(part: Part, tmp_path: Path) -> None:
    file = PartFile(tmp_path / "part.npz")
    assert not file.is_sound()
    file.write(part, TEXT_DTYPE)
    assert file.is_sound()
    assert [path.name for path in tmp_path.iterdir()] == ["part.npz"]
    assert file.hashes().tolist() == part.hash_N.tolist()
    assert file.rejections() == part.rejections
    for read, written in zip(file.sides(), (part.source, part.target), strict=True):
        assert read.token_L.dtype == np.uint8
        assert read.token_L.tolist() == written.token_L.tolist()
        assert read.length_N.tolist() == written.length_N.tolist()


def test_every_torn_or_changed_file_is_found(part: Part, tmp_path: Path) -> None:
    file = PartFile(tmp_path / "part.npz")
    file.write(part, TEXT_DTYPE)
    whole = file.path.read_bytes()
    for length in range(0, len(whole), 97):
        file.path.write_bytes(whole[:length])
        assert not file.is_sound()
    text = whole.index(b"a housea tree")
    file.path.write_bytes(whole[:text] + b"A" + whole[text + 1 :])
    assert not file.is_sound()


def test_a_failed_write_leaves_nothing(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, **_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="full"):
        PartFile(tmp_path / "part.npz").write(part, TEXT_DTYPE)
    assert list(tmp_path.iterdir()) == []


def test_of_all_parts_the_first_examples_are_kept() -> None:
    rejections = Rejections.none()
    for number in range(3):
        more = Rejections.none()
        more.add("copy", 2, [[str(number), "a"], [str(number), "b"]])
        rejections.add_all(more)
    assert rejections.counts == {"copy": 6}
    assert rejections.examples == {"copy": [["0", "a"], ["0", "b"], ["1", "a"]]}
