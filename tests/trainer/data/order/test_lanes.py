from collections import Counter

import numpy as np
import pytest

from trainer.data.order.hashing import stable_hash
from trainer.data.order.lanes import Order
from trainer.data.order.seeds import sampling_seeds
from trainer.data.order.shuffling import shuffled
from trainer.data.text.sentences import IntArray


def rows(draws: IntArray, size: int, key: int) -> IntArray:
    """Of one corpus alone."""
    return shuffled(np.zeros_like(draws), draws, [size], [key]).row_N


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000, 4097])
def test_each_pass_holds_every_row_once(size: int) -> None:
    for a_pass in rows(np.arange(3 * size), size, key=11).reshape(3, size):
        assert sorted(a_pass.tolist()) == list(range(size))


def test_a_row_is_a_function_of_its_draw_alone() -> None:
    whole = rows(np.arange(5000), 999, key=5)
    assert rows(np.arange(1234, 4321), 999, key=5).tolist() == whole[1234:4321].tolist()
    assert rows(np.arange(3, 5000, 8), 999, key=5).tolist() == whole[3::8].tolist()
    assert rows(np.array([], dtype=np.int64), 999, key=5).tolist() == []


def test_far_passes_cost_no_more() -> None:
    far = 999 * 10**12
    assert sorted(rows(np.arange(far, far + 999), 999, key=5).tolist()) == list(range(999))


def test_passes_and_keys_differ() -> None:
    size = 10_000
    first, second = rows(np.arange(2 * size), size, key=1).reshape(2, size)
    other = rows(np.arange(size), size, key=2)
    for a, b in ((first, second), (first, other), (first, np.arange(size))):
        # Independent orders agree in one place on average (Poisson).
        assert (a == b).sum() < 10
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_a_pass_is_well_mixed() -> None:
    size = 100_000
    shuffled_rows = rows(np.arange(size), size, key=3)
    # Any stretch of a pass holds each tenth of the corpus in equal parts: the bound is 4.5 standard deviations.
    for stretch in np.split(shuffled_rows, 20):
        counts = np.bincount(stretch * 10 // size, minlength=10)
        assert np.abs(counts - 500).max() < 4.5 * np.sqrt(500 * 0.9)
    # Neighbours in the order are no neighbours in the corpus.
    assert abs(np.corrcoef(shuffled_rows[:-1], shuffled_rows[1:])[0, 1]) < 0.02
    assert np.bincount((np.diff(shuffled_rows) + size) * 10 // (2 * size), minlength=10).max() < 0.2 * size


@pytest.mark.parametrize("lane", [0, 5])
def test_a_window_is_spread_over_the_whole_corpus(lane: int) -> None:
    """Chi-square over a hundred stretches of the corpus: of 99 degrees of freedom, 161 is passed once in 10,000."""
    order = Order(1, (1_000_003,), (1.0,), 1.0, 8192, 8)
    state = order.start()
    for _ in range(4):
        row_N = order.draw(lane, state).row_N
        for half in np.split(row_N, 2):  # and evenly over the window too
            expected = len(half) / 100
            found = np.bincount(half * 100 // order.sizes[0], minlength=100)
            assert ((found - expected) ** 2 / expected).sum() < 161
        assert len(set(row_N.tolist())) == len(row_N)
        state = order.next_window(lane, state)


def test_corpora_are_mixed_within_a_window() -> None:
    order = Order(1, (30_000, 10_000), (1.0, 1.0), 1.0, 8192, 8)
    corpus_N = order.draw(3, order.start()).corpus_N
    share_of_second = [part.mean() for part in np.split(corpus_N, 16)]
    assert np.abs(np.array(share_of_second) - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 512)


def test_a_temperature_flattens_the_mixture() -> None:
    order = Order(1, (900, 100), (1.0, 1.0), 2.0, 100, 2)
    counts = Counter(corpus for corpus, _ in draws(order, 0, 8))
    assert counts == {0: 600, 1: 200}, "shares 0.75 and 0.25: the square roots of 9 to 1"


def test_passes_and_sampling_seeds() -> None:
    """Every reading of a pair has a seed of its own, the same in whatever lane and window it comes."""
    found: dict[tuple[int, int, int], int] = {}
    for num_lanes in (2, 4):
        order = Order(1, (64, 64), (1.0, 1.0), 1.0, 16, num_lanes)
        for lane in range(num_lanes):
            state = order.start()
            for _ in range(48 // num_lanes):
                window = order.draw(lane, state)
                keys = zip(*(x.tolist() for x in (window.corpus_N, window.pass_N, window.row_N)), strict=True)
                for key, seed in zip(keys, sampling_seeds(order.seed, len(order.sizes), window).tolist(), strict=True):
                    assert found.setdefault(key, seed) == seed
                state = order.next_window(lane, state)
    assert set(found) == {(corpus, number, row) for corpus in range(2) for number in range(6) for row in range(64)}
    assert len(set(found.values())) == len(found)


def test_the_order_is_fixed_for_ever() -> None:
    """A change here would make every saved run read other data after an upgrade."""
    assert stable_hash(1, 2, 3) == 3034334815109854690
    assert rows(np.arange(5), 1000, key=7).tolist() == [668, 646, 781, 924, 832]
    assert stable_hash(1, 23) != stable_hash(12, 3)


def draws(order: Order, lane: int, num_windows: int) -> list[tuple[int, int]]:
    state, pairs = order.start(), []
    for _ in range(num_windows):
        window = order.draw(lane, state)
        assert len(window) == order.window
        pairs += list(zip(window.corpus_N.tolist(), window.row_N.tolist(), strict=True))
        state = order.next_window(lane, state)
    return pairs


@pytest.mark.parametrize(("sizes", "num_lanes", "window"), [((240,), 4, 20), ((6,), 3, 1), ((120, 240, 480), 8, 7)])
def test_every_pair_once_per_pass_over_all_lanes(sizes: tuple[int, ...], num_lanes: int, window: int) -> None:
    order = Order(1, sizes, (1.0,) * len(sizes), 1.0, window, num_lanes)
    num_windows, rest = divmod(sum(sizes), num_lanes * window)
    assert rest == 0, "the test wants a pass that ends with a window"
    for passes in (1, 2, 3):
        seen = Counter(pair for lane in range(num_lanes) for pair in draws(order, lane, passes * num_windows))
        assert seen == {(c, row): passes for c, size in enumerate(sizes) for row in range(size)}


def test_a_corpus_smaller_than_the_lanes_still_feeds_all() -> None:
    order = Order(1, (3,), (1.0,), 1.0, 5, 8)
    seen = Counter(pair for lane in range(8) for pair in draws(order, lane, 3))
    assert seen == {(0, row): 40 for row in range(3)}


def test_weights_set_how_often_a_pair_is_seen() -> None:
    order = Order(1, (100, 100, 50), (1.0, 2.0, 0.5), 1.0, 13, 2)
    seen = Counter(corpus for lane in range(2) for corpus, _ in draws(order, lane, 250))
    total = sum(seen.values())
    for corpus, amount in enumerate((100, 200, 25)):
        assert abs(seen[corpus] - total * amount / 325) <= 2, "each lane is within one pair of its exact share"


def test_shares_stay_exact_with_many_small_corpora() -> None:
    sizes = (10_000, *range(1, 30))
    order = Order(1, sizes, (1.0,) * len(sizes), 1.0, 3, 2)
    state = order.start()
    for window in range(400):
        missing = order.shares * 3 * window - np.array(state.positions)
        assert np.abs(missing[1:]).max() < 2
        assert abs(missing[0]) < 15, "the largest makes up for the rounding of the others"
        assert sum(state.positions) == 3 * window
        state = order.next_window(0, state)


def test_lanes_meet_a_small_corpus_one_after_the_other() -> None:
    """Not all in the same window, which would be many passes of it at once and none for long before."""
    order = Order(1, (1_000_000, 40, 25), (1.0, 1.0, 1.0), 1.0, 100, 32)
    states = [order.start() for _ in range(order.num_lanes)]
    for window in range(1, 1500):
        states = [order.next_window(lane, state) for lane, state in enumerate(states)]
        found = np.sum([state.positions for state in states], axis=0)
        assert np.abs(found - order.shares * 100 * 32 * window).max() < 3, window


@pytest.mark.parametrize("temperature", [0.001, 1000.0])
def test_no_temperature_leads_out_of_the_numbers(temperature: float) -> None:
    order = Order(1, (200, 100), (1.0, 1e300), temperature, 50, 2)
    assert order.shares.sum() == pytest.approx(1)
    assert {corpus for corpus, _ in draws(order, 0, 3)} <= {0, 1}


def test_lanes_windows_and_seeds_differ() -> None:
    def first(seed: int, lane: int) -> list[tuple[int, int]]:
        return draws(Order(seed, (1000,), (1.0,), 1.0, 50, 4), lane, 1)

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(2, 0)
    assert not set(first(1, 0)) & set(first(1, 1))
