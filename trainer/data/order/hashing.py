"""Hashes that are the same on every machine and after every upgrade; everything random is derived from them."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words that looks random.

    Not a library's generator, because a resumed run must find the same order after an upgrade of that library.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stable_hash(*values: int) -> int:
    """A 64-bit word from integers, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(",".join(map(str, values)).encode(), digest_size=8).digest(), "little")
