import numpy as np
import pytest
import torch

from trainer.data.feeding.budget import Budget
from trainer.data.feeding.largest_micro_batch import largest_micro_batch
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds

PAD, BOS, EOS = 0, 2, 3
IDS = SpecialIds(source_pad_id=PAD, target_pad_id=PAD, bos_id=BOS)


def side(sentences: list[list[int]]) -> Side:
    tokens = np.array([t for s in sentences for t in s], dtype=np.uint16)
    return Side(tokens, np.array([len(s) for s in sentences], dtype=np.int64))


SOURCE = [[7, 8, EOS], [9, EOS]]
TARGET = [[11, EOS], [12, 13, 14, EOS]]


def test_sentences_lie_one_after_the_other() -> None:
    batch = pack(side(SOURCE), side(TARGET), IDS)
    assert batch.source_S.tolist() == [7, 8, EOS, 9, EOS]
    assert batch.source_positions_S.tolist() == [0, 1, 2, 0, 1]
    assert batch.source_cu.tolist() == [0, 3, 5]
    assert batch.target_in_T.tolist() == [BOS, 11, BOS, 12, 13, 14]
    assert batch.target_out_T.tolist() == [11, EOS, 12, 13, 14, EOS]
    assert batch.target_positions_T.tolist() == [0, 1, 0, 1, 2, 3]
    assert batch.target_cu.tolist() == [0, 2, 6]
    assert (batch.max_source_length, batch.max_target_length) == (3, 4)
    assert (batch.num_target_tokens, batch.num_sentences) == (6, 2)
    assert {batch.source_cu.dtype, batch.target_cu.dtype} == {torch.int32}
    ids = (batch.source_S, batch.source_positions_S, batch.target_in_T, batch.target_out_T, batch.target_positions_T)
    assert {x.dtype for x in ids} == {torch.int64}


BUDGETS = [Budget(64, 40, 10, 8), Budget(8, 8, 3, 8), Budget(3960, 4096, 552, 256), Budget(4096, 900, 50, 256)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_filling_gives_one_shape_and_changes_nothing_real(budget: Budget) -> None:
    longest = [[5] * (budget.max_length - 1) + [EOS]]
    full = [[5, EOS]] * min(budget.max_sentences, budget.max_target_tokens // 2, budget.max_source_tokens // 2)
    shapes = set()
    for source, target in (([[EOS]], [[EOS]]), (longest, longest), (full, full), (longest, [[EOS]])):
        plain, batch = pack(side(source), side(target), IDS), pack(side(source), side(target), IDS, budget)
        shapes.add(tuple(x.shape for x in (batch.source_S, batch.target_out_T, batch.source_cu, batch.target_cu)))
        assert (batch.max_source_length, batch.max_target_length) == (budget.max_length, budget.max_length)
        assert batch.num_target_tokens == plain.num_target_tokens == (batch.target_out_T != PAD).sum()
        for name in ("source_S", "source_positions_S", "target_in_T", "target_out_T", "target_positions_T"):
            expected = getattr(plain, name)
            assert torch.equal(getattr(batch, name)[: len(expected)], expected)
        for name in ("source_cu", "target_cu"):
            assert torch.equal(getattr(batch, name)[: len(source) + 1], getattr(plain, name))
        check_filler(batch.source_cu, batch.target_cu, len(source), budget)
        assert set(batch.target_in_T[plain.num_target_tokens :].tolist()) == {PAD}
        assert batch.source_S.numel() == int(batch.source_cu[-1])
        assert batch.target_out_T.numel() == int(batch.target_cu[-1])
    assert len(shapes) == 1


def check_filler(source_cu: torch.Tensor, target_cu: torch.Tensor, num_real: int, budget: Budget) -> None:
    """Filler sentences are within the length limit, and one that is empty on one side is so on the other."""
    source, target = source_cu.diff()[num_real:], target_cu.diff()[num_real:]
    assert source.max() <= budget.max_length
    assert target.max() <= budget.max_length
    assert torch.equal(source > 0, target > 0)


def test_filling_costs_little() -> None:
    for budget in BUDGETS[2:]:
        for tokens in (budget.max_source_tokens, budget.max_target_tokens):
            assert budget.static_tokens(tokens) <= tokens + budget.num_filler_sentences + 63
    assert Budget(4096, 4096, 552, 256).static_tokens(4096) <= 1.02 * 4096


def micro_batch(lengths: list[int], static: Budget | None = None) -> MicroBatch:
    """Pairs with these numbers of target tokens, and one source token more each."""
    source, target = ([[n + 4] * (length + extra) for n, length in enumerate(lengths)] for extra in (1, 0))
    places = np.arange(len(lengths))
    return MicroBatch(pack(side(source), side(target), IDS, static), 7, 3, 99, (np.zeros_like(places), places))


@pytest.mark.parametrize("static", [None, Budget(64, 40, 10, 8)], ids=["packed", "static"])
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_parts_hold_the_same_sentences_without_filler(static: Budget | None, number: int) -> None:
    whole = micro_batch([7, 1, 1, 2, 3], static)
    parts = whole.parts(number)
    assert len(parts) == number
    assert [row for part in parts for row in part.pair_ids[1].tolist()] == list(range(5))
    assert sum(part.num_target_tokens for part in parts) == whole.num_target_tokens
    assert {(part.index, part.lane) for part in parts} == {(7, 3)}
    assert len({part.seed for part in parts}) == number
    if number > 1:
        for part in parts:
            rows = part.pair_ids[1].tolist()
            expected = micro_batch([[7, 1, 1, 2, 3][row] for row in rows]).batch
            assert part.batch.source_cu.tolist() == expected.source_cu.tolist()
            assert part.batch.target_positions_T.tolist() == expected.target_positions_T.tolist()
            assert part.batch.target_in_T.tolist()[0] == BOS
            assert set(part.batch.target_out_T.tolist()) == {row + 4 for row in rows}


def test_parts_are_about_as_large_and_a_pair_is_never_cut() -> None:
    sizes = [part.num_target_tokens for part in micro_batch([3] * 40).parts(4)]
    assert sizes == [30] * 4
    assert [part.num_pairs for part in micro_batch([7, 1]).parts(2)] == [1, 1]
    with pytest.raises(ValueError, match="2 pairs cannot be cut into 3 parts"):
        micro_batch([7, 1]).parts(3)


@pytest.mark.parametrize("budget", [Budget(64, 40, 10, 8), Budget(900, 1000, 50, 256), Budget(4096, 900, 50, 256)])
def test_the_largest_micro_batch_fills_both_sides_with_long_sentences(budget: Budget) -> None:
    found = largest_micro_batch(budget, IDS, static=False)
    batch = found.batch
    assert (batch.source_S.numel(), batch.num_target_tokens) == (budget.max_source_tokens, budget.max_target_tokens)
    lengths = torch.cat([batch.source_cu.diff(), batch.target_cu.diff()])
    assert lengths.max() <= budget.max_length
    assert (batch.target_out_T != PAD).all()
    assert found.num_pairs == batch.num_sentences
    filled, full = largest_micro_batch(budget, IDS, static=True).batch, pack(side(SOURCE), side(TARGET), IDS, budget)
    assert [x.shape for x in (filled.source_S, filled.target_cu)] == [x.shape for x in (full.source_S, full.target_cu)]


def test_a_share_of_a_budget_holds_a_longest_sentence_or_is_none() -> None:
    budget = Budget(900, 1000, 50, 256)
    assert budget.scaled(0.5) == Budget(450, 500, 25, 256)
    assert budget.scaled(0.25) is None
    assert budget.scaled(1) == budget
