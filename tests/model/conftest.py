"""Small packed batches of random sentence pairs."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor

from model.batch import PackedBatch

PAD_ID, BOS_ID, EOS_ID, VOCAB_SIZE = 0, 2, 3, 40
Pair = tuple[list[int], list[int]]


def pack_side(sentences: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, int]:
    lengths = [len(s) for s in sentences]
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    positions = torch.cat([torch.arange(n) for n in lengths])
    return torch.tensor(list(chain(*sentences))), positions, cu, max(lengths)


def pack_pairs(pairs: list[Pair]) -> PackedBatch:
    source_S, source_positions_S, source_cu, max_source = pack_side([[*source, EOS_ID] for source, _ in pairs])
    target_in_T, target_positions_T, target_cu, max_target = pack_side([[BOS_ID, *target] for _, target in pairs])
    target_out_T = torch.tensor(list(chain(*([*target, EOS_ID] for _, target in pairs))))
    return PackedBatch(
        source_S=source_S,
        source_positions_S=source_positions_S,
        source_cu=source_cu,
        target_in_T=target_in_T,
        target_out_T=target_out_T,
        target_positions_T=target_positions_T,
        target_cu=target_cu,
        max_source_length=max_source,
        max_target_length=max_target,
        num_target_tokens=target_out_T.numel(),
    )


@pytest.fixture
def pack() -> Callable[[list[Pair]], PackedBatch]:
    return pack_pairs


@pytest.fixture
def pairs() -> list[Pair]:
    """More pairs than one padded group holds, of ragged lengths."""
    generator = torch.Generator().manual_seed(5)

    def sentence() -> list[int]:
        length = int(torch.randint(1, 9, (1,), generator=generator))
        return torch.randint(4, VOCAB_SIZE, (length,), generator=generator).tolist()

    return [(sentence(), sentence()) for _ in range(40)]


@pytest.fixture
def batch(pairs: list[Pair]) -> PackedBatch:
    return pack_pairs(pairs)
