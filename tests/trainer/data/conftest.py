"""Small corpora for the tests of the data: as text files, and as token stores without a tokenizer."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.data.config import CorpusConfig, TokenizerConfig
from trainer.data.stores.store import TEXT_DTYPE, Store, writing_store
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import Tokenizer, train_tokenizer

EOS_ID = 3
MAX_LENGTH = 16
WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrst", k=6)) for n in range(200)]

MakeCorpus = Callable[..., CorpusConfig]
MakeStore = Callable[..., Store]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(count)]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Writes two line-aligned files and names them."""

    def make(
        sources: list[str] | bytes, targets: list[str] | bytes, name: str = "corpus", **settings: object
    ) -> CorpusConfig:
        paths = tmp_path / f"{name}.en", tmp_path / f"{name}.de"
        for path, lines in zip(paths, (sources, targets), strict=True):
            path.write_bytes(lines if isinstance(lines, bytes) else "".join(f"{x}\n" for x in lines).encode())
        return CorpusConfig(source=str(paths[0]), target=str(paths[1]), **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(sentences(400, 0)), TokenizerConfig(vocab_size=300))


def side(sentences: list[list[int]], dtype: str = "int64") -> Side:
    return Side(np.array([x for s in sentences for x in s], dtype), np.array([len(s) for s in sentences], np.int64))


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """A store of random pairs; the first id of pair n is 1000 + n on both sides, so that a token identifies its pair.

    With `kind="text"` the pairs are words instead, and the first word of pair n is the number 1000 + n.
    """

    def make(num_pairs: int, seed: int = 0, max_length: int = MAX_LENGTH, kind: str = "tokens") -> Store:
        draw = random.Random(seed)
        directory = tmp_path / f"store-{kind}-{num_pairs}-{seed}"
        with writing_store(directory, TEXT_DTYPE if kind == "text" else "uint16") as writer:
            fill = _random_text if kind == "text" else _random_tokens
            writer.append(*(side([fill(n, draw, max_length) for n in range(num_pairs)]) for _ in range(2)))
            writer.finish(f"store-{seed}", "fingerprint", {}, {})
        store = Store.open(directory)
        assert store is not None
        return store

    return make


def _random_tokens(number: int, draw: random.Random, max_length: int) -> list[int]:
    return [1000 + number, *draw.choices(range(4, 100), k=draw.randint(0, max_length - 2)), EOS_ID]


def _random_text(number: int, draw: random.Random, max_length: int) -> list[int]:
    return list(" ".join([str(1000 + number), *draw.choices(WORDS, k=draw.randint(0, max_length // 4))]).encode())
