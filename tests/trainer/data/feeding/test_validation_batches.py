"""Validation is shared out by rank, every pair once."""

import pytest

from trainer.data.feeding.validation_batches import validation_batches
from trainer.data.order.partition import Partition
from trainer.data.text.sentences import IdPair
from trainer.data.text.tokenizer import SpecialIds

IDS = SpecialIds(source_pad_id=0, target_pad_id=0, bos_id=2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_ranks_together_hold_every_pair_once(world_size: int) -> None:
    pairs: list[IdPair] = [([n, *[5] * (n % 7), 3], [n, *[6] * (n % 5), 3]) for n in range(10, 30)]
    pairs[4] = ([14, *[5] * 50, 3], [14, 3])
    seen = []
    for rank in range(world_size):
        for batch in validation_batches(pairs, IDS, 24, 24, Partition(rank, world_size)):
            firsts = batch.source_S[batch.source_cu[:-1].long()].tolist()
            assert firsts == batch.target_out_T[batch.target_cu[:-1].long()].tolist()
            assert firsts == [14] or max(batch.source_S.numel(), batch.target_out_T.numel()) <= 24
            seen += firsts
    assert sorted(seen) == list(range(10, 30))


def test_a_rank_without_pairs_has_no_batches() -> None:
    assert validation_batches([([5, 3], [5, 3])], IDS, 24, 24, Partition(1, 2)) == []


def test_a_long_pair_is_alone() -> None:
    """Attention may pad all sentences of a batch to the length of the longest."""
    pairs: list[IdPair] = [([5] * length, [6]) for length in (2, 9, 2, 2)]
    batches = validation_batches(pairs, IDS, 64, 8, Partition(0, 1))
    assert [batch.source_cu.diff().tolist() for batch in batches] == [[2], [9], [2, 2]]
