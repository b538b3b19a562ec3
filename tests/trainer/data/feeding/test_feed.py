import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.trainer.data.world import IDS, World, pairs, summary
from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.feeding.feed import TrainingData
from trainer.data.order.partition import Partition, check_world_size
from trainer.data.stores.store import Store
from trainer.errors import UserError

MakeStore = Callable[..., Store]
NUM_LANES = MICRO_BATCHES_PER_STEP = 8
CONFIG = DataConfig(
    train=(CorpusConfig(name="a"), CorpusConfig(name="b", weight=1.5)),
    max_length=16,
    max_tokens=64,
    micro_batches_per_step=MICRO_BATCHES_PER_STEP,
    num_lanes=NUM_LANES,
    window=32,
)


@pytest.fixture
def stores(make_store: MakeStore) -> list[Store]:
    return [make_store(301, seed=1), make_store(57, seed=2)]


def test_the_same_micro_batches_for_every_world_size(stores: list[Store]) -> None:
    read = []
    for world_size in (1, 2, 4, 8):
        with World(stores, world_size, CONFIG) as world:
            read.append(summary(world.steps(12)))
    assert [entry[0] for entry in read[0]] == list(range(12 * MICRO_BATCHES_PER_STEP))
    assert len({entry[2] for entry in read[0]}) == len(read[0]), "each micro-batch has a seed of its own"
    for other in read[1:]:
        assert other == read[0]


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_every_pair_once_per_pass_over_all_ranks(make_store: MakeStore, world_size: int) -> None:
    """With one window a lane and pass, so that the passes can be told apart."""
    store = make_store(NUM_LANES * CONFIG.window, seed=3)
    with World([store], world_size, replace(CONFIG, train=(CorpusConfig(name="a"),))) as world:
        seen = list(pairs(world.steps(60)))
    rows_of_lane = [[row for lane, _, row in seen if lane == wanted] for wanted in range(NUM_LANES)]
    for number in range(4):
        window = slice(number * CONFIG.window, (number + 1) * CONFIG.window)
        rows = [row for rows in rows_of_lane for row in rows[window]]
        assert sorted(rows) == list(range(store.manifest.num_pairs))


def test_tokens_belong_to_their_pairs(stores: list[Store]) -> None:
    with World(stores, 2, CONFIG) as world:
        micro_batches = world.steps(10)
    for m in micro_batches:
        corpus_N, row_N = m.pair_ids
        assert m.num_pairs == m.batch.num_sentences
        assert m.batch.source_S[m.batch.source_cu[:-1].long()].tolist() == (1000 + row_N).tolist()
        for n, (corpus, row) in enumerate(zip(corpus_N.tolist(), row_N.tolist(), strict=True)):
            for table, tokens, cu in (
                (stores[corpus].source, m.batch.source_S, m.batch.source_cu),
                (stores[corpus].target, m.batch.target_out_T, m.batch.target_cu),
            ):
                assert tokens[cu[n] : cu[n + 1]].tolist() == table.gather(np.array([row])).token_L.tolist()


@pytest.mark.parametrize("max_tokens", [16, 17, 64, 500, 5000])
def test_the_budget_is_kept_and_used(stores: list[Store], max_tokens: int) -> None:
    with World(stores, 1, replace(CONFIG, max_tokens=max_tokens)) as world:
        budget = world.ranks[0].budget
        micro_batches = world.steps(4)
    assert budget.max_target_tokens == max_tokens
    for m in micro_batches:
        source, target = m.batch.source_S.numel(), m.num_target_tokens
        assert 0 < target <= max_tokens
        assert 0 < source <= budget.max_source_tokens
        assert m.num_pairs <= budget.max_sentences
        # It stopped because the next pair, of at most max_length, might not have fitted.
        room = min(budget.max_source_tokens - source, max_tokens - target)
        assert room < CONFIG.max_length or m.num_pairs == budget.max_sentences


def test_both_sides_fill_together(make_store: MakeStore) -> None:
    config = replace(CONFIG, train=(CorpusConfig(name="a"),), max_tokens=2000, window=512)
    with World([make_store(5000, seed=4)], 1, config) as world:
        budget = world.ranks[0].budget
        micro_batches = world.steps(4)
    assert np.mean([m.num_target_tokens for m in micro_batches]) > 0.94 * budget.max_target_tokens
    assert np.mean([m.batch.source_S.numel() for m in micro_batches]) > 0.94 * budget.max_source_tokens
    assert max(m.num_pairs for m in micro_batches) < 0.9 * budget.max_sentences


@pytest.mark.parametrize("cuts", [[1], [0, 0, 3], [5, 2], [2, 1, 1, 3]])
def test_interrupted_reads_what_uninterrupted_reads_at_any_world_size(stores: list[Store], cuts: list[int]) -> None:
    with World(stores, 1, CONFIG) as world:
        expected = summary(world.steps(14))
    read: list[Any] = []
    state = None
    for count, world_size in zip([*cuts, 14 - sum(cuts)], (4, 2, 8, 1, 4), strict=False):
        with World(stores, world_size, CONFIG) as world:
            if state is not None:
                world.restored(state)
                assert world.state() == state
            read += summary(world.steps(count))
            state = world.state()
    assert read == expected


def test_a_changed_budget_goes_on_at_the_right_pair(stores: list[Store]) -> None:
    with World(stores, 2, CONFIG) as world:
        expected = list(pairs(world.steps(40)))
    with World(stores, 4, CONFIG) as world:
        read = list(pairs(world.steps(5)))
        state = world.state()
    for max_tokens, world_size in ((200, 2), (30, 8)):
        with World(stores, world_size, replace(CONFIG, max_tokens=max_tokens)) as world:
            read += pairs(world.restored(state).steps(4))
            state = world.state()
    for lane in range(NUM_LANES):
        of_lane = [pair for pair in read if pair[0] == lane]
        assert of_lane == [pair for pair in expected if pair[0] == lane][: len(of_lane)]


def test_a_changed_number_of_micro_batches_goes_on_too(stores: list[Store]) -> None:
    with World(stores, 1, CONFIG) as world:
        expected = summary(world.steps(6))
    with World(stores, 2, replace(CONFIG, micro_batches_per_step=4)) as world:
        read = summary(world.steps(3))
        state = world.state()
    with World(stores, 8, CONFIG) as world:
        read += summary(world.restored(state).steps(4))
    assert read == expected[: len(read)]


def test_work_ahead_is_not_in_the_state(stores: list[Store]) -> None:
    with World(stores, 1, replace(CONFIG, prefetch=40)) as world:
        world.steps(2)
        eager = world.state()
    with World(stores, 1, replace(CONFIG, prefetch=1)) as world:
        world.steps(2)
        assert world.state() == eager


def test_the_state_does_not_grow(stores: list[Store]) -> None:
    with World(stores, 1, CONFIG) as world:
        world.steps(30)
        for lane in world.state()["lanes"].values():
            assert set(lane) == {"window", "consumed", "positions", "counts"}
            assert {len(numbers) for numbers in (lane["positions"], *lane["counts"].values())} == {len(stores)}
            assert 0 <= lane["consumed"] < CONFIG.window


def test_another_seed_reads_another_order(stores: list[Store]) -> None:
    with World(stores, 1, CONFIG) as one, World(stores, 1, CONFIG, seed=2) as two:
        assert list(pairs(one.steps(1))) != list(pairs(two.steps(1)))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"window": 64}, r"`data\.window` is 64, but the checkpoint was made with 32"),
        ({"num_lanes": 16}, r"`data\.num_lanes` is 16"),
        ({"temperature": 2.0}, r"`data\.temperature` is 2\.0"),
        ({"train": (CorpusConfig(name="a"), CorpusConfig(name="b"))}, r"the weight of `data\.train\.1` \(store-2\)"),
    ],
)
def test_a_state_of_another_order_is_refused(stores: list[Store], change: dict[str, Any], name: str) -> None:
    with World(stores, 1, CONFIG) as world:
        state = world.state()
    with World(stores, 1, replace(CONFIG, **change)) as world, pytest.raises(UserError, match=name):
        world.restored(state)


def test_a_state_of_other_text_is_refused(stores: list[Store], make_store: MakeStore) -> None:
    with World(stores, 1, CONFIG) as world:
        state = world.state()
    with (
        World([stores[0], make_store(57, seed=9)], 1, CONFIG) as world,
        pytest.raises(UserError, match=r"the content of `data\.train\.1` \(store-9\)"),
    ):
        world.restored(state)


def test_close_ends_the_thread(stores: list[Store]) -> None:
    before = threading.active_count()
    with World(stores, 2, CONFIG) as world:
        world.steps(1)
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_static_batches_hold_the_same_pairs_in_one_shape(stores: list[Store]) -> None:
    feeds = [TrainingData(stores, CONFIG, IDS, seed=1, partition=Partition(0, 1), static=s) for s in (False, True)]
    plain, static = ([m for _ in range(5) for m in feed.next_step()] for feed in feeds)
    for feed in feeds:
        feed.close()
    assert [m.pair_ids[1].tolist() for m in static] == [m.pair_ids[1].tolist() for m in plain]
    assert len({(m.batch.source_S.shape, m.batch.target_in_T.shape, m.batch.num_sentences) for m in static}) == 1


@pytest.mark.parametrize(("world_size", "fits"), [(1, True), (2, True), (4, True), (3, False), (8, False), (12, False)])
def test_the_world_size_must_divide(world_size: int, fits: bool) -> None:
    config = replace(CONFIG, num_lanes=8, micro_batches_per_step=12)
    if fits:
        check_world_size(config, world_size)
    else:
        with pytest.raises(UserError, match=rf"{world_size} processes .* so start 1, 2 or 4 or change them"):
            check_world_size(config, world_size)
