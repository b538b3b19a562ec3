"""Greedy and beam search over cached decoder states.

Shape suffixes: N sentences still searched, K beam_size, B = N * K decoder rows (sentence-major), V vocabulary,
C = 2 * K candidates, H num_hypotheses, T target tokens so far, S source tokens of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class SearchableModel(Protocol):
    """What the search asks of a model; `model.transformer.Transformer` is one."""

    def encode(
        self, source_S: Tensor, source_positions_S: Tensor, source_cu: Tensor, max_source_length: int
    ) -> Tensor: ...

    def start_decoding(self, memory_SD: Tensor, source_cu: Tensor, max_source_length: int) -> Any: ...

    def decode_step(self, tokens_B: Tensor, state: Any) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    `beam_size` 1 is greedy search. A hypothesis scores log P / ((5 + length) / 6) ** length_penalty with eos in its
    length (Wu et al. 2016, equation 14; Vaswani et al. 2017, section 6.1, use 4 and 0.6); `length_penalty` >= 0.
    `num_hypotheses`, from 1 to `beam_size`, is how many of the best hypotheses to return for each sentence.
    A target is at most `max_extra_tokens` longer than its source, eos included on both sides (same section).
    `forbidden_ids` are never generated: pad, bos and unk, which mean nothing to a reader.
    """

    bos_id: int
    eos_id: int
    forbidden_ids: tuple[int, ...] = ()
    beam_size: int = 4
    length_penalty: float = 0.6
    num_hypotheses: int = 1
    max_extra_tokens: int = 50


@dataclass(frozen=True)
class Hypothesis:
    """One finished translation: token ids without bos and eos, and the length-normalised log-probability (nats)."""

    ids: list[int]
    score: float


class _Beams(NamedTuple):
    """The live hypotheses of the sentences that are still searched; all have the same length T.

    `sentence_N` are places in the caller's batch, `max_length_N` the longest target allowed, eos included.
    `num_finished_N` counts the hypotheses already finished and `best_finished_NH` holds the scores of the best of them,
    in descending order. A dead or empty slot scores -inf.
    """

    sentence_N: Tensor
    max_length_N: Tensor
    scores_NK: Tensor
    tokens_NKT: Tensor
    num_finished_N: Tensor
    best_finished_NH: Tensor


class _Candidates(NamedTuple):
    """The 2K best continuations of each sentence, best first: summed log P, the beam continued, the token added."""

    scores_NC: Tensor
    parents_NC: Tensor
    tokens_NC: Tensor


@torch.inference_mode()
def search(
    model: SearchableModel, sources: Sequence[Sequence[int]], config: SearchConfig, device: torch.device | str = "cpu"
) -> list[list[Hypothesis]]:
    """Translates one batch of source sentences (token ids that end with eos).

    Returns for each sentence between 1 and `num_hypotheses` hypotheses, best first (none if logits are not finite).
    A sentence whose search has ended (see `_unfinished`) gives up its decoder rows. `beam_size` 1 runs the same code
    and is greedy search. Equal scores are ordered by beam, then by token id.
    """
    state = _start(model, sources, device)
    state.select(torch.arange(len(sources), device=device).repeat_interleave(config.beam_size))
    beams = _first_beams(sources, config, device)
    finished: list[list[Hypothesis]] = [[] for _ in sources]
    while beams.sentence_N.numel():
        logits_BV = model.decode_step(beams.tokens_NKT[:, :, -1].flatten(), state)
        beams, parents_B = _advance(beams, logits_BV, config, finished)
        moved = config.beam_size > 1 or len(parents_B) < len(logits_BV)
        if moved and len(parents_B):
            state.select(parents_B)
    return [sorted(hypotheses, key=lambda h: -h.score)[: config.num_hypotheses] for hypotheses in finished]


def length_normaliser(length: Tensor | int, length_penalty: float) -> Any:
    """((5 + length) / 6) ** length_penalty, by which a log-probability is divided."""
    return ((5 + length) / 6) ** length_penalty


def _start(model: SearchableModel, sources: Sequence[Sequence[int]], device: torch.device | str) -> Any:
    """Encodes the packed sources and starts a decoder state with one row per sentence."""
    lengths = [len(source) for source in sources]
    source_S = torch.tensor([token for source in sources for token in source], device=device)
    positions_S = torch.tensor([position for length in lengths for position in range(length)], device=device)
    source_cu = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    memory_SD = model.encode(source_S, positions_S, source_cu, max(lengths))
    return model.start_decoding(memory_SD, source_cu, max(lengths))


def _first_beams(sources: Sequence[Sequence[int]], config: SearchConfig, device: torch.device | str) -> _Beams:
    """One live hypothesis per sentence, bos alone; the other slots are dead until the first step fills them."""
    num_sentences = len(sources)
    scores_NK = torch.full((num_sentences, config.beam_size), -torch.inf, device=device)
    scores_NK[:, 0] = 0.0
    return _Beams(
        sentence_N=torch.arange(num_sentences, device=device),
        max_length_N=torch.tensor([len(source) + config.max_extra_tokens for source in sources], device=device),
        scores_NK=scores_NK,
        tokens_NKT=torch.full((num_sentences, config.beam_size, 1), config.bos_id, device=device),
        num_finished_N=torch.zeros(num_sentences, dtype=torch.long, device=device),
        best_finished_NH=torch.full((num_sentences, config.num_hypotheses), -torch.inf, device=device),
    )


def _advance(
    beams: _Beams, logits_BV: Tensor, config: SearchConfig, finished: list[list[Hypothesis]]
) -> tuple[_Beams, Tensor]:
    """Extends the beams by one token. Appends hypotheses that end to `finished`, by sentence.

    Returns the live beams of the sentences still searched and, for each of their B rows in that order, the row of
    `logits_BV` (in the order before) that it continues.
    """
    beam_size, length = config.beam_size, beams.tokens_NKT.size(2)
    candidates = _candidates(beams, logits_BV, config)
    scores_NK = candidates.scores_NC[:, :beam_size]
    ends_NK = (candidates.tokens_NC[:, :beam_size] == config.eos_id) & (scores_NK > -torch.inf)
    final_NK = scores_NK / length_normaliser(length, config.length_penalty)
    _collect(beams, candidates, final_NK, ends_NK, finished)

    beams, parents_NK = _continue(beams, candidates, config)
    final_NK = final_NK.masked_fill(~ends_NK, -torch.inf)
    beams = beams._replace(
        num_finished_N=beams.num_finished_N + ends_NK.sum(1),
        best_finished_NH=torch.cat([beams.best_finished_NH, final_NK], dim=1).topk(config.num_hypotheses).values,
    )
    keep_M = _unfinished(beams, config).nonzero().flatten()
    parent_rows_NK = parents_NK + beam_size * torch.arange(len(parents_NK), device=parents_NK.device)[:, None]
    return _Beams(*(value[keep_M] for value in beams)), parent_rows_NK[keep_M].flatten()


def _candidates(beams: _Beams, logits_BV: Tensor, config: SearchConfig) -> _Candidates:
    """The 2K best continuations of each sentence, from the fp32 log-probabilities of all of them."""
    num_sentences, beam_size = beams.scores_NK.shape
    log_probs_BV = logits_BV.log_softmax(dim=1, dtype=torch.float32)
    log_probs_BV[:, list(config.forbidden_ids)] = -torch.inf
    _force_eos_at_the_limit(log_probs_BV, beams, config.eos_id)
    # In place: at a large vocabulary this is the largest tensor of the search.
    # B V -> N K V
    scores_NKV = log_probs_BV.view(num_sentences, beam_size, -1).add_(beams.scores_NK[:, :, None])
    scores_NC, indices_NC = scores_NKV.flatten(1).topk(2 * beam_size, dim=1)
    # topk leaves the order of equal scores open, and scores from bf16 logits are often equal.
    indices_NC, order_NC = indices_NC.sort(dim=1)
    scores_NC, order_NC = scores_NC.gather(1, order_NC).sort(dim=1, descending=True, stable=True)
    indices_NC = indices_NC.gather(1, order_NC)
    return _Candidates(scores_NC, indices_NC // logits_BV.size(1), indices_NC % logits_BV.size(1))


def _force_eos_at_the_limit(log_probs_BV: Tensor, beams: _Beams, eos_id: int) -> None:
    """Forbids, in place, every token but eos in sentences whose next token is the last that they may have."""
    at_limit_N = beams.max_length_N == beams.tokens_NKT.size(2)
    at_limit_B = at_limit_N.repeat_interleave(beams.scores_NK.size(1))
    eos_B = log_probs_BV[:, eos_id].clone()
    log_probs_BV.masked_fill_(at_limit_B[:, None], -torch.inf)
    log_probs_BV[:, eos_id] = eos_B


def _collect(
    beams: _Beams, candidates: _Candidates, final_NK: Tensor, ends_NK: Tensor, finished: list[list[Hypothesis]]
) -> None:
    """Appends the hypotheses that have just ended to the lists of their sentences, in `finished`."""
    n, k = ends_NK.nonzero(as_tuple=True)
    ids = beams.tokens_NKT[n, candidates.parents_NC[n, k], 1:].tolist()
    for sentence, tokens, score in zip(beams.sentence_N[n].tolist(), ids, final_NK[n, k].tolist(), strict=True):
        finished[sentence].append(Hypothesis(tokens, score))


def _continue(beams: _Beams, candidates: _Candidates, config: SearchConfig) -> tuple[_Beams, Tensor]:
    """Returns the beams, one token longer, of the K best candidates that are not eos, and the beam that each continues.

    Of 2K candidates at most K are eos, one for each beam, so K always remain.
    """
    live_NC = candidates.scores_NC.masked_fill(candidates.tokens_NC == config.eos_id, -torch.inf)
    scores_NC, order_NC = live_NC.sort(dim=1, descending=True, stable=True)
    chosen_NK = order_NC[:, : config.beam_size]
    parents_NK = candidates.parents_NC.gather(1, chosen_NK)
    history_NKT = beams.tokens_NKT.gather(1, parents_NK[:, :, None].expand_as(beams.tokens_NKT))
    tokens_NKT = torch.cat([history_NKT, candidates.tokens_NC.gather(1, chosen_NK)[:, :, None]], dim=2)
    return beams._replace(scores_NK=scores_NC[:, : config.beam_size], tokens_NKT=tokens_NKT), parents_NK


def _unfinished(beams: _Beams, config: SearchConfig) -> Tensor:
    """Which sentences to search further: those whose best live hypothesis may still enter the `num_hypotheses` best.

    A log-probability only falls as a hypothesis grows and its divisor only rises, so a live hypothesis scores at most
    its present log-probability divided by the normaliser of the longest length. No live one is left at that length.
    Once `beam_size` hypotheses have finished, its score at its present length is compared instead: a tighter bound
    that changes next to no translation and saves up to half of the work. To stop at that number whatever the scores
    would be wrong: where the model is sure of a translation, all other beams are poor and end at once, long before
    the good one does (https://github.com/neulab/xnmt/issues/572).
    """
    length_N = torch.where(beams.num_finished_N < config.beam_size, beams.max_length_N, beams.tokens_NKT.size(2) - 1)
    bound_N = beams.scores_NK.amax(1) / length_normaliser(length_N, config.length_penalty)
    return bound_N > beams.best_finished_NH[:, -1]
