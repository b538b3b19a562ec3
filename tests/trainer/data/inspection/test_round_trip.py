"""Target lines that no translation can produce are counted, by text stores and by token stores alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.data.inspection.round_trip import RoundTrip, target_round_trip
from trainer.data.preparation.build_stores import build_stores
from trainer.data.text.tokenizer import train_tokenizer

PLAIN = [f"{a}{b} {c}{a} {b}{c}" for a in "abcdefg" for b in "hijklm" for c in "nopqrs"]
CHANGED = {
    "你好，世界！（三）": "你好,世界!(三)",
    "20 m² und ½ … ™": "20 m2 und 1⁄2 ... TM",
    "10\xa0000\u202f€": "10 000 €",
    "می\u200cروم": "می روم",
}
TARGETS = [*PLAIN, *CHANGED]
NORMALIZING = TokenizerConfig(vocab_size=330, kind="bpe")


@pytest.mark.parametrize("mode", ["store", "stream"])
def test_lines_that_do_not_come_back_are_counted_with_examples(
    mode: Literal["store", "stream"], make_corpus: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    data = DataConfig(train=(make_corpus(TARGETS[::-1], TARGETS),), mode=mode, filters=FilterConfig(min_letters=None))
    found = {}
    for rule in ("nmt_nfkc", "identity"):
        config = replace(NORMALIZING, normalization=rule)  # type: ignore[arg-type]
        prepared = build_stores(data, config, tmp_path / rule, 1)
        found[rule] = target_round_trip(data.train[0], prepared.stores[0], prepared.tokenizers.target)
    num_lines = prepared.stores[0].manifest.num_pairs if mode == "stream" else len(TARGETS)
    assert found["nmt_nfkc"] == RoundTrip(num_lines, len(CHANGED), list(CHANGED.items()))
    assert found["identity"] == RoundTrip(num_lines, 0, [])


def test_text_that_is_gone_is_told(make_corpus: Callable[..., CorpusConfig], tmp_path: Path) -> None:
    data = DataConfig(train=(make_corpus(TARGETS[::-1], TARGETS),))
    prepared = build_stores(data, NORMALIZING, tmp_path / "run", 1)
    (tmp_path / "corpus.de").unlink()
    assert target_round_trip(data.train[0], prepared.stores[0], prepared.tokenizers.target) is None


def test_the_default_normalization_is_that_of_older_tokenizers() -> None:
    default = train_tokenizer(iter(TARGETS), NORMALIZING)
    assert default.decode(default.encode(list(CHANGED))) == list(CHANGED.values())
