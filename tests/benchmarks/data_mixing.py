"""How well the order of the training pairs mixes a corpus, against a shuffle buffer and a perfect shuffle.

    python tests/benchmarks/data_mixing.py [--pairs N] [--lanes N]

reads no text: it computes at which place of the first pass each pair comes, and prints one JSON object. Of neighbours
in the corpus it prints how far apart they come (as a share of the pass), how many come within a hundredth of the pass
of each other, and how many within a window's worth of pairs; then how the places in corpus and pass correlate.
"""

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from trainer.data.order.lanes import Order

WINDOW = 8192

IntArray = NDArray[np.int64]


def places_of_run(num_pairs: int, num_lanes: int) -> IntArray:
    """place_N: when each pair of the corpus is read in the first pass, its lanes being read in turn."""
    order = Order(1, (num_pairs,), (1.0,), 1.0, WINDOW, num_lanes)
    place_N = np.full(num_pairs, -1)
    for lane in range(num_lanes):
        state = order.start()
        while lane + num_lanes * state.positions[0] < num_pairs:
            draws = order.draw(lane, state)
            first = np.flatnonzero(draws.pass_N == 0)
            place_N[draws.row_N[first]] = (state.window * WINDOW + first) * num_lanes + lane
            state = order.next_window(lane, state)
    assert (place_N >= 0).all(), "each pair once per pass"
    return place_N


def places_of_buffer(num_pairs: int) -> IntArray:
    """The like for a buffer of `WINDOW` pairs, as in `datasets`: one at random goes out, the next one comes in."""
    draw_N = np.random.default_rng(1).integers(0, WINDOW, num_pairs).tolist()
    buffer, place_N = list(range(WINDOW)), np.empty(num_pairs, np.int64)
    for place, (row, slot) in enumerate(zip(range(WINDOW, num_pairs), draw_N, strict=False)):
        place_N[buffer[slot]], buffer[slot] = place, row
    place_N[np.random.default_rng(2).permutation(buffer)] = np.arange(num_pairs - WINDOW, num_pairs)
    return place_N


def measure(place_N: IntArray) -> dict[str, float]:
    num_pairs = len(place_N)
    apart_N = np.abs(np.diff(place_N))
    return {
        "neighbours_apart": round(float(apart_N.mean()) / num_pairs, 4),
        "neighbours_within_a_hundredth": round(float((apart_N < num_pairs / 100).mean()), 5),
        "neighbours_within_a_window": round(float((apart_N < WINDOW).mean()), 5),
        "correlation": round(float(np.corrcoef(np.arange(num_pairs), place_N)[0, 1]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4_500_000)
    parser.add_argument("--lanes", type=int, default=64)
    arguments = parser.parse_args()
    orders = {
        "dragoman": places_of_run(arguments.pairs, arguments.lanes),
        "buffer": places_of_buffer(arguments.pairs),
        "perfect": np.random.default_rng(3).permutation(arguments.pairs),
    }
    print(json.dumps({name: measure(place_N) for name, place_N in orders.items()}, indent=1))


if __name__ == "__main__":
    main()
