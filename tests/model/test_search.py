"""Search proved on a toy model whose every hypothesis can be listed."""

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from model.search import Hypothesis, SearchConfig, search

PAD, UNK, BOS, EOS, A, B = range(6)
FORBIDDEN = (PAD, UNK, BOS)


class ToyState:
    """The source's first token and the tokens fed so far, a row each."""

    def __init__(self, source_B: Tensor, tokens_BT: Tensor) -> None:
        self.source_B, self.tokens_BT = source_B, tokens_BT

    def select(self, indices_B: Tensor) -> "ToyState":
        return ToyState(self.source_B[indices_B], self.tokens_BT[indices_B])


class ToyModel:
    """Logits are random numbers fixed by the source's first token and the whole prefix."""

    def __init__(self, vocab_size: int = 6, dtype: torch.dtype = torch.float32, spread: float = 1.5) -> None:
        self.vocab_size, self.dtype, self.spread = vocab_size, dtype, spread
        self.rows_computed = 0

    def encode(self, source_S: Tensor, source_positions_S: Tensor, source_cu: Tensor, max_source_length: int) -> Tensor:
        return source_S

    def start_decoding(self, memory_SD: Tensor, source_cu: Tensor, max_source_length: int) -> ToyState:
        first_B = memory_SD[source_cu[:-1].long()]
        return ToyState(first_B, torch.empty(len(first_B), 0, dtype=torch.long))

    def decode_step(self, tokens_B: Tensor, state: ToyState) -> Tensor:
        state.tokens_BT = torch.cat([state.tokens_BT, tokens_B[:, None]], dim=1)
        self.rows_computed += len(tokens_B)
        rows = zip(state.source_B.tolist(), state.tokens_BT.tolist(), strict=True)
        return torch.stack([self.logits(source, tokens) for source, tokens in rows])

    def logits(self, source: int, tokens: list[int]) -> Tensor:
        numbers = random.Random(f"{source} {tokens}")
        return torch.tensor([numbers.gauss(0, self.spread) for _ in range(self.vocab_size)], dtype=self.dtype)

    def log_probs(self, source: int, tokens: list[int]) -> list[float]:
        return self.logits(source, tokens).double().log_softmax(0).tolist()


def config(beam_size: int, length_penalty: float = 0.6, max_extra_tokens: int = 3) -> SearchConfig:
    return SearchConfig(
        bos_id=BOS,
        eos_id=EOS,
        forbidden_ids=FORBIDDEN,
        beam_size=beam_size,
        length_penalty=length_penalty,
        max_extra_tokens=max_extra_tokens,
    )


def log_prob(model: ToyModel, source: int, ids: list[int]) -> float:
    """Of the whole hypothesis, eos included."""
    prefixes = ([BOS, *ids[:i]] for i in range(len(ids) + 1))
    return sum(model.log_probs(source, prefix)[t] for prefix, t in zip(prefixes, [*ids, EOS], strict=True))


def every_hypothesis(model: ToyModel, source: int, max_length: int, length_penalty: float) -> list[Hypothesis]:
    found = []
    for length in range(1, max_length + 1):
        for ids in itertools.product((A, B), repeat=length - 1):
            score = log_prob(model, source, list(ids)) / ((5 + length) / 6) ** length_penalty
            found.append(Hypothesis(list(ids), score))
    return sorted(found, key=lambda h: -h.score)


def greedy(model: ToyModel, source: int, max_length: int) -> list[int]:
    """Written out: the most probable allowed token, eos forced at the limit."""
    tokens = [BOS]
    while len(tokens) < max_length:
        log_probs = model.log_probs(source, tokens)
        best = max((EOS, A, B), key=lambda token: log_probs[token])
        if best == EOS:
            break
        tokens.append(best)
    return tokens[1:]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(length_penalty: float) -> None:
    model = ToyModel()
    for source in range(10, 30):
        [found] = search(model, [[source, EOS]], config(64, length_penalty))
        best = every_hypothesis(model, source, max_length=2 + 3, length_penalty=length_penalty)[0]
        assert found[0].ids == best.ids
        assert found[0].score == pytest.approx(best.score, rel=1e-5)


def test_scores_are_length_normalised_log_probabilities_best_first() -> None:
    model = ToyModel()
    [found] = search(model, [[17, EOS]], config(4, length_penalty=0.9))
    assert len(found) > 1
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for hypothesis in found:
        length = len(hypothesis.ids) + 1
        expected = log_prob(model, 17, hypothesis.ids) / ((5 + length) / 6) ** 0.9
        assert hypothesis.score == pytest.approx(expected, rel=1e-5)


def test_the_length_penalty_prefers_longer_hypotheses() -> None:
    model, sources = ToyModel(), [[source, EOS] for source in range(10, 60)]
    lengths = [
        sum(len(found[0].ids) for found in search(model, sources, config(16, penalty))) for penalty in (0.0, 1.0, 3.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_beam_one_is_greedy_search() -> None:
    model, sources = ToyModel(), [[source, EOS] for source in range(10, 60)]
    found = search(model, sources, config(1))
    assert [h.ids for [h] in found] == [greedy(model, source[0], max_length=5) for source in sources]


def test_a_batch_equals_each_sentence_alone() -> None:
    model = ToyModel()
    sources = [[source, *[A] * (source % 4), EOS] for source in range(10, 40)]
    assert search(model, sources, config(3)) == [search(model, [source], config(3))[0] for source in sources]


def test_forbidden_tokens_never_appear_and_the_limit_ends_every_hypothesis() -> None:
    class Babbler(ToyModel):
        """Loves pad, unk and bos, and all but never ends."""

        def logits(self, source: int, tokens: list[int]) -> Tensor:
            return super().logits(source, tokens) + torch.tensor([9.0, 9.0, 9.0, -30.0, 0.0, 0.0])

    for beam_size in (1, 2):
        found = search(Babbler(), [[10, EOS], [11, A, A, EOS]], config(beam_size, max_extra_tokens=6))
        for hypotheses, limit in zip(found, (8, 10), strict=True):
            assert [len(h.ids) + 1 for h in hypotheses] == [limit] * beam_size
            assert all(set(h.ids) <= {A, B} for h in hypotheses)


def test_equal_scores_are_ranked_by_id() -> None:
    class Undecided(ToyModel):
        """Never tells A and B apart."""

        def logits(self, source: int, tokens: list[int]) -> Tensor:
            return torch.tensor([0.0, 0.0, 0.0, -9.0, 3.0, 3.0], dtype=torch.bfloat16)

    [hypotheses] = search(Undecided(), [[10, EOS]], config(1, max_extra_tokens=2))
    assert [h.ids for h in hypotheses] == [[A, A, A]]


def test_bf16_logits_are_scored_in_fp32() -> None:
    model = ToyModel(dtype=torch.bfloat16)
    [found] = search(model, [[12, EOS]], config(4))
    length = len(found[0].ids) + 1
    expected = log_prob(model, 12, found[0].ids) / ((5 + length) / 6) ** 0.6
    assert found[0].score == pytest.approx(expected, rel=1e-5)


def test_no_work_is_done_for_finished_sentences() -> None:
    class Counter(ToyModel):
        """Ends after as many tokens as the source's first token says, beyond doubt."""

        def logits(self, source: int, tokens: list[int]) -> Tensor:
            logits = torch.full((self.vocab_size,), -math.inf)
            logits[EOS if len(tokens) > source else A] = 0.0
            return logits

    model = Counter()
    found = search(model, [[2, EOS], [9, EOS], [5, EOS]], config(2, max_extra_tokens=20))
    assert [len(hypotheses[0].ids) for hypotheses in found] == [2, 9, 5]
    assert model.rows_computed == 2 * (3 + 10 + 6)
