"""The laws of the feed in both modes, with a mixture and a temperature; streamed, with sampling and long pairs too."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.trainer.data.conftest import sentences, side
from tests.trainer.data.world import World, pairs, summary
from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.feeding.stored_pairs import StoredPairs
from trainer.data.feeding.streamed_pairs import StreamedPairs
from trainer.data.stores.store import TEXT_DTYPE, Store, writing_store
from trainer.data.text.encoding import EncodedPairs, PairEncoder
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizer
from trainer.errors import UserError

MakeStore = Callable[..., Store]
CORPORA = (CorpusConfig(name="a"), CorpusConfig(name="b", weight=0.7), CorpusConfig(name="c", weight=2.5))
SIZES = (211, 60, 5)
MAX_LENGTH = 16
STEPS = 14


@dataclass(frozen=True)
class Feeds:
    """What a run reads, with the settings of its feeds."""

    stores: Sequence[Store]
    config: DataConfig
    settings: dict[str, Any]

    def world(self, world_size: int, **changes: Any) -> World:
        return World(self.stores, world_size, replace(self.config, **changes), **self.settings)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Has enough pieces that sentences can be split in several ways."""
    return train_tokenizer(iter(sentences(400, 0)), TokenizerConfig(vocab_size=400))


def encoder(tokenizer: Tokenizer, sampling: float | None = 0.3, max_length: int = MAX_LENGTH) -> PairEncoder:
    return PairEncoder(TokenizerPair(tokenizer, tokenizer), max_length, sampling)


@pytest.fixture(params=["store", "stream"])
def feeds(
    request: pytest.FixtureRequest, make_store: MakeStore, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> Feeds:
    """Smaller than what is asked for at a time, so that every read goes over ends of windows and passes."""
    mode = request.param
    _measure_once(monkeypatch)
    kind, settings = ("text", {"encoder": encoder(tokenizer)}) if mode == "stream" else ("tokens", {})
    stores = [make_store(size, seed, kind=kind) for seed, size in enumerate(SIZES)]
    config = DataConfig(
        train=CORPORA,
        mode=mode,
        temperature=2.0,
        max_length=MAX_LENGTH,
        max_tokens=64,
        micro_batches_per_step=8,
        num_lanes=8,
        window=32,
        workers=0,
    )
    return Feeds(stores, config, settings)


def _measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of the many ranks of a test would encode the same pairs to measure them."""
    measure = StreamedPairs.mean_lengths
    measured: list[NDArray[np.float64]] = []

    def mean_lengths(self: StreamedPairs) -> NDArray[np.float64]:
        if not measured:
            measured.append(measure(self))
        return measured[0]

    monkeypatch.setattr(StreamedPairs, "mean_lengths", mean_lengths)


def test_the_same_micro_batches_for_every_world_size(feeds: Feeds) -> None:
    read, states = [], []
    for world_size in (1, 2, 4, 8):
        with feeds.world(world_size) as world:
            read.append(summary(world.steps(STEPS)))
            states.append(world.state())
    for other in read[1:]:
        assert other == read[0]
    for state in states[1:]:
        assert state == states[0]
    too_long = sum(corpus["rejected"].get("too long", 0) for corpus in states[0]["consumed"].values())
    assert (too_long > 0) == (feeds.config.mode == "stream"), "the test wants pairs that are left out on the way"


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_over_world_sizes_reads_what_an_uninterrupted_run_reads(feeds: Feeds, seed: int) -> None:
    """4 → 2 → 8 ranks, stopped at random steps, some of them twice in a row without a step between."""
    draw = random.Random(seed)
    with feeds.world(1) as world:
        expected, end = summary(world.steps(STEPS)), world.state()
    read: list[Any] = []
    state = None
    while len(read) < len(expected):
        for world_size in (4, 4, 2, 2, 8):
            left = (len(expected) - len(read)) // feeds.config.micro_batches_per_step
            with feeds.world(world_size, prefetch=draw.randint(1, 9)) as world:
                if state is not None:
                    world.restored(state)
                    assert world.state() == state
                read += summary(world.steps(min(left, draw.randint(0, 3))))
                state = world.state()
    assert read == expected
    assert state == end


def test_each_pair_once_per_pass_and_what_is_too_long_is_counted(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    """With one window a pass, so that the passes can be told apart."""
    store = make_store(256, seed=3, kind="text")
    chosen = np.arange(256)
    fits_N = encoder(tokenizer, None).encode(store.source.texts(chosen), store.target.texts(chosen)).kept_N
    fitting = np.flatnonzero(fits_N).tolist()
    assert 0 < len(fitting) < 256
    config = DataConfig(
        train=CORPORA[:1], mode="stream", max_length=MAX_LENGTH, max_tokens=100, micro_batches_per_step=1, num_lanes=1,
        window=256, workers=0,
    )  # fmt: skip
    with World([store], 1, config, encoder=encoder(tokenizer, None)) as world:
        rows: list[int] = []
        while len(rows) < 3 * len(fitting):
            rows += [row for _, _, row in pairs(world.steps(1))]
        state = world.state()
    for number in range(3):
        assert sorted(rows[number * len(fitting) : (number + 1) * len(fitting)]) == fitting
    lane, consumed = state["lanes"]["0"], state["consumed"]["store-3"]
    assert consumed["pairs"] == len(rows)
    assert consumed["pairs"] + consumed["rejected"]["too long"] == 256 * lane["window"] + lane["consumed"]
    assert consumed["passes"] == lane["window"] + lane["consumed"] / 256


def test_counts_are_those_of_the_micro_batches(feeds: Feeds) -> None:
    with feeds.world(2) as world:
        micro_batches = world.steps(5)
        consumed = list(world.state()["consumed"].values())
    read = Counter(corpus for _, corpus, _ in pairs(micro_batches))
    assert [corpus["pairs"] for corpus in consumed] == [read[corpus] for corpus in range(len(SIZES))]
    assert sum(corpus["source_tokens"] for corpus in consumed) == sum(m.batch.source_S.numel() for m in micro_batches)
    assert sum(corpus["target_tokens"] for corpus in consumed) == sum(m.num_target_tokens for m in micro_batches)


def test_segmentations_differ_between_passes(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    store = make_store(4, seed=1, kind="text")
    config = DataConfig(
        train=CORPORA[:1], mode="stream", max_length=60, max_tokens=80, num_lanes=1, micro_batches_per_step=1,
        window=4, workers=0,
    )  # fmt: skip
    forms: dict[int, set[tuple[int, ...]]] = {}
    with World([store], 1, config, encoder=encoder(tokenizer, 0.2, 60)) as world:
        for m in world.steps(30):
            for n, row in enumerate(m.pair_ids[1].tolist()):
                tokens = m.batch.source_S[m.batch.source_cu[n] : m.batch.source_cu[n + 1]]
                forms.setdefault(row, set()).add(tuple(tokens.tolist()))
    assert max(len(of_row) for of_row in forms.values()) > 1


class RecordingEncoder(PairEncoder):
    """Remembers the number that each text begins with."""

    numbers: list[int]

    def encode(
        self, sources: Sequence[str | bytes], targets: Sequence[str | bytes], seed_N: NDArray[np.uint64] | None = None
    ) -> EncodedPairs:
        self.numbers += [int(source.split()[0]) - 1000 for source in sources]
        return super().encode(sources, targets, seed_N)


@pytest.mark.parametrize("steps", [1, 4])
def test_nothing_consumed_is_tokenised_again(
    make_store: MakeStore, tokenizer: Tokenizer, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(4000, seed=1, kind="text")
    config = DataConfig(train=CORPORA[:1], mode="stream", max_length=30, max_tokens=200, window=500, workers=0)
    monkeypatch.setattr(StreamedPairs, "chunk_pairs", 64)
    with World([store], 2, config, encoder=encoder(tokenizer, None, 30)) as world:
        before = {row for _, _, row in pairs(world.steps(steps))}
        state = world.state()
    recording = RecordingEncoder(TokenizerPair(tokenizer, tokenizer), 30)
    recording.numbers = []
    with World([store], 4, replace(config, prefetch=1), encoder=recording) as world:
        recording.numbers.clear()  # what the budgets were estimated from
        after = {row for _, _, row in pairs(world.restored(state).steps(1))}
    assert after <= set(recording.numbers)
    assert not before & set(recording.numbers)
    assert len(recording.numbers) <= 8 * 64, "a chunk for each lane that was read"


def test_token_stores_are_read_only_where_needed(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    store = make_store(4000, seed=1)
    config = DataConfig(train=CORPORA[:1], max_length=16, max_tokens=200, window=500, prefetch=1)
    with World([store], 1, config) as world:
        world.steps(3)
        state = world.state()
    read = StoredPairs._read

    def noting(self: StoredPairs, draws: Any) -> Any:
        asked.append(len(draws))
        return read(self, draws)

    monkeypatch.setattr(StoredPairs, "chunk_pairs", 64)
    monkeypatch.setattr(StoredPairs, "_read", noting)
    with World([store], 1, config) as world:
        world.restored(state).steps(1)
    assert sum(asked) <= 8 * 64


def test_a_corpus_of_long_sentences_is_refused(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    stores = [make_store(20, seed, kind="text") for seed in (1, 2)]
    config = DataConfig(train=CORPORA[:2], mode="stream", max_length=2, max_tokens=64, workers=0)
    with pytest.raises(UserError, match=r"`data\.train\.0` \(store-1\) cannot be used: 20 pairs .* `data\.max_length`"):
        World(stores, 1, config, encoder=encoder(tokenizer, None, 2))


def test_the_estimated_budget_fills_both_sides(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    stores = [make_store(3000, 1, kind="text"), make_store(200, 2, kind="text")]
    config = DataConfig(train=CORPORA[:2], mode="stream", max_length=40, max_tokens=4000, window=512, workers=0)
    with World(stores, 1, config, encoder=encoder(tokenizer, None, 40)) as world:
        budget, micro_batches = world.ranks[0].budget, world.steps(2)
    tokens = [m.batch.source_S.numel() + m.num_target_tokens for m in micro_batches]
    assert np.mean(tokens) > 0.95 * (budget.max_source_tokens + budget.max_target_tokens)


def test_the_budget_is_estimated_from_what_is_drawn(tmp_path: Path) -> None:
    """Drawn, words break up into more pieces; bytes, as which these numbers are spelled, do not."""
    tokenizer = train_tokenizer(iter(sentences(400, 0)), TokenizerConfig(kind="bpe", vocab_size=600))
    draw = random.Random(1)
    texts = sentences(3000, 1), [str(draw.randrange(10**9)) for _ in range(3000)]
    with writing_store(tmp_path / "store", TEXT_DTYPE) as writer:
        writer.append(*(side([list(text.encode()) for text in of_side]) for of_side in texts))
        writer.finish("store", "fingerprint", {}, {})
    store = Store.open(tmp_path / "store")
    assert store is not None
    config = DataConfig(train=CORPORA[:1], mode="stream", max_length=60, max_tokens=4000, window=512, workers=0)
    with World([store], 1, config, encoder=encoder(tokenizer, 0.3, 60)) as world:
        budget, micro_batches = world.ranks[0].budget, world.steps(2)
    tokens = [m.batch.source_S.numel() + m.num_target_tokens for m in micro_batches]
    assert np.mean(tokens) > 0.95 * (budget.max_source_tokens + budget.max_target_tokens)


def test_the_other_mode_is_another_order(feeds: Feeds) -> None:
    with feeds.world(1) as world:
        state = world.state()
        state["order"]["mode"] = "other"
        with pytest.raises(UserError, match=r"`data\.mode` is (store|stream), but the checkpoint was made with other"):
            world.restored(state)


@pytest.fixture
def streamed(make_store: MakeStore, tokenizer: Tokenizer) -> Feeds:
    stores = [make_store(size, seed, kind="text") for seed, size in enumerate((900, 200, 5))]
    config = DataConfig(
        train=CORPORA, mode="stream", max_length=MAX_LENGTH, max_tokens=512, num_lanes=4, window=700, workers=2
    )
    return Feeds(stores, config, {"encoder": encoder(tokenizer)})


@pytest.mark.slow
def test_workers_change_nothing(streamed: Feeds) -> None:
    with streamed.world(1, workers=0) as world:
        expected = summary(world.steps(9))
    with streamed.world(2, workers=1) as world:
        read = summary(world.steps(3))
        state = world.state()
        read += summary(world.restored(state).steps(2))
        state = world.state()
    with streamed.world(1) as world:
        read += summary(world.restored(state).steps(4))
    assert read == expected


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_an_error(streamed: Feeds) -> None:
    with streamed.world(1) as world:
        world.steps(1)
        pids = worker_ids(world)
        os.kill(pids[0], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(UserError, match="a process that tokenises the training data died"):
            world.steps(10_000)
    assert time.monotonic() - start < 20


@pytest.mark.slow
def test_close_ends_the_workers_at_once(streamed: Feeds) -> None:
    world = streamed.world(1)
    world.steps(1)
    pids = worker_ids(world)
    start = time.monotonic()
    world.__exit__()
    assert time.monotonic() - start < 5
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def worker_ids(world: World) -> list[int]:
    source = world.ranks[0]._pairs
    assert isinstance(source, StreamedPairs)
    assert source._pool is not None
    return list(source._pool._processes)
