"""Search proved on a toy model whose every hypothesis can be listed."""

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from model.batch import PackedBatch
from model.config import ModelConfig
from model.search import Hypothesis, SearchConfig, search
from model.transformer import Transformer

PAD, UNK, BOS, EOS, A, B = range(6)
FORBIDDEN = (PAD, UNK, BOS)


class ToyState:
    """The source's first token and the tokens fed so far, a row each."""

    def __init__(self, source_B: Tensor, tokens_BT: Tensor) -> None:
        self.source_B, self.tokens_BT = source_B, tokens_BT

    def select(self, rows_B: Tensor) -> None:
        self.source_B, self.tokens_BT = self.source_B[rows_B], self.tokens_BT[rows_B]


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


def config(
    beam_size: int, length_penalty: float = 0.6, max_extra_tokens: int = 3, num_hypotheses: int = 1
) -> SearchConfig:
    return SearchConfig(
        bos_id=BOS,
        eos_id=EOS,
        forbidden_ids=FORBIDDEN,
        beam_size=beam_size,
        length_penalty=length_penalty,
        num_hypotheses=num_hypotheses,
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
    [found] = search(model, [[17, EOS]], config(4, length_penalty=0.9, num_hypotheses=4))
    assert len(found) == 4
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


class Sure(ToyModel):
    """Six times A with P = .9 where eos has .09, then eos with .99; after B hardly anything but eos."""

    def logits(self, source: int, tokens: list[int]) -> Tensor:
        a, b, eos = (0.9, 0.01, 0.09) if len(tokens) <= 6 else (0.005, 0.005, 0.99)
        return torch.tensor([0.0, 0.0, 0.0, eos, a, b]).log()


@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 8])
def test_poor_hypotheses_that_end_early_do_not_end_the_search(beam_size: int) -> None:
    [[best]] = search(Sure(), [[10, EOS]], config(beam_size, max_extra_tokens=20))
    assert best.ids == [A] * 6
    assert best.score == pytest.approx((6 * math.log(0.9) + math.log(0.99)) / (12 / 6) ** 0.6, rel=1e-5)


@pytest.mark.parametrize("num_hypotheses", [1, 2, 4])
def test_the_best_of_n_are_found_as_exhaustive_search_finds_them(num_hypotheses: int) -> None:
    """The beam is as wide as there are prefixes, so that only the rule for stopping can lose a hypothesis."""
    model = ToyModel(spread=4.0)
    for source in range(10, 60):
        [found] = search(model, [[source, EOS]], config(16, max_extra_tokens=3, num_hypotheses=num_hypotheses))
        expected = every_hypothesis(model, source, max_length=5, length_penalty=0.6)[:num_hypotheses]
        assert [h.ids for h in found] == [h.ids for h in expected]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
def test_a_beam_scores_no_lower_than_greedy_search(length_penalty: float) -> None:
    """Of confident models: a beam may drop the greedy prefix where four others are more probable by then."""
    model, sources = ToyModel(spread=4.0), [[source, EOS] for source in range(10, 110)]
    greedy_scores = [h.score for [h] in search(model, sources, config(1, length_penalty, max_extra_tokens=9))]
    for beam_size in (2, 4):
        found = search(model, sources, config(beam_size, length_penalty, max_extra_tokens=9))
        assert all(h.score > score - 1e-5 for [h], score in zip(found, greedy_scores, strict=True))


def test_a_batch_equals_each_sentence_alone() -> None:
    model = ToyModel()
    sources = [[source, *[A] * (source % 4), EOS] for source in range(10, 40)]
    n_best = config(3, num_hypotheses=2)
    assert search(model, sources, n_best) == [search(model, [source], n_best)[0] for source in sources]


def test_forbidden_tokens_never_appear_and_the_limit_ends_every_hypothesis() -> None:
    class Babbler(ToyModel):
        """Loves pad, unk and bos, and all but never ends."""

        def logits(self, source: int, tokens: list[int]) -> Tensor:
            return super().logits(source, tokens) + torch.tensor([9.0, 9.0, 9.0, -30.0, 0.0, 0.0])

    for beam_size in (1, 2):
        found = search(
            Babbler(), [[10, EOS], [11, A, A, EOS]], config(beam_size, max_extra_tokens=6, num_hypotheses=beam_size)
        )
        for hypotheses, limit in zip(found, (8, 10), strict=True):
            assert [len(h.ids) + 1 for h in hypotheses] == [limit] * beam_size
            assert all(set(h.ids) <= {A, B} for h in hypotheses)


def test_equal_scores_are_ranked_by_id() -> None:
    class Undecided(ToyModel):
        """Gives A and B equal scores at every step."""

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


def real_model(dtype: torch.dtype = torch.float32) -> Transformer:
    """Small, at random, with embeddings large enough for decided choices."""
    torch.manual_seed(1)
    sizes = ModelConfig(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2)
    model = Transformer(sizes, vocab_size=20, pad_id=PAD, compute_dtype=dtype).eval()
    with torch.no_grad():
        for table in model.tables.parameters():
            table.mul_(4.0)
    return model.to(dtype)


def teacher_forced_log_prob(model: Transformer, source: list[int], ids: list[int]) -> float:
    """log P of the whole hypothesis from one full forward pass over it."""
    target_in, target_out = torch.tensor([BOS, *ids]), torch.tensor([*ids, EOS])
    batch = PackedBatch(
        source_S=torch.tensor(source),
        source_positions_S=torch.arange(len(source)),
        source_cu=torch.tensor([0, len(source)], dtype=torch.int32),
        target_in_T=target_in,
        target_out_T=target_out,
        target_positions_T=torch.arange(len(target_in)),
        target_cu=torch.tensor([0, len(target_in)], dtype=torch.int32),
        max_source_length=len(source),
        max_target_length=len(target_in),
        num_target_tokens=len(target_in),
    )
    with torch.no_grad():
        return -model(batch)[1].item()


SOURCES = [[7, 8, 9, EOS], [10, EOS], [11, 12, 13, 14, 15, 16, EOS], [7, 8, EOS]]


def test_cached_search_through_the_transformer_scores_as_full_decoding_does() -> None:
    model = real_model()
    found = search(model, SOURCES, config(4, max_extra_tokens=9, num_hypotheses=4))
    assert len({len(h.ids) for hypotheses in found for h in hypotheses}) > 2
    for source, hypotheses in zip(SOURCES, found, strict=True):
        for hypothesis in hypotheses:
            length = len(hypothesis.ids) + 1
            expected = teacher_forced_log_prob(model, source, hypothesis.ids) / ((5 + length) / 6) ** 0.6
            assert hypothesis.score == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_batch_through_the_transformer_equals_each_sentence_alone(beam_size: int) -> None:
    model = real_model()
    n_best = config(beam_size, max_extra_tokens=9, num_hypotheses=beam_size)
    together = search(model, SOURCES, n_best)
    for source, found in zip(SOURCES, together, strict=True):
        [alone] = search(model, [source], n_best)
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], rel=1e-4)


def test_search_runs_in_bf16() -> None:
    for hypotheses in search(real_model(torch.bfloat16), SOURCES, config(4, max_extra_tokens=9)):
        assert hypotheses
        assert all(math.isfinite(h.score) for h in hypotheses)
