"""Cached decoding equals full decoding, for every row, in whatever order the rows are."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from model.batch import PackedBatch
from model.config import ModelConfig
from model.decoding import CAPACITY_STEP, DecoderState
from model.transformer import Transformer

SMALL: dict[str, Any] = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 2}


def build(**variant: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(**(SMALL | variant)), 40, pad_id=0).eval()


def start(model: Transformer, batch: PackedBatch) -> DecoderState:
    memory = model.encode(batch.source_S, batch.source_positions_S, batch.source_cu, batch.max_source_length)
    return model.start_decoding(memory, batch.source_cu, batch.max_source_length)


def prefixes(batch: PackedBatch, length: int) -> Tensor:
    """One target prefix of `length` tokens for each sentence: its own tokens, its last repeated."""
    cu = batch.target_cu.tolist()
    rows = [[min(begin + i, end - 1) for i in range(length)] for begin, end in pairwise(cu)]
    return batch.target_in_T[torch.tensor(rows)]


def full_logits(model: Transformer, batch: PackedBatch, tokens_NL: Tensor) -> Tensor:
    """(N, L, V) by teacher forcing on `tokens_NL`."""
    num_sentences, length = tokens_NL.shape
    forced = PackedBatch(
        source_S=batch.source_S,
        source_positions_S=batch.source_positions_S,
        source_cu=batch.source_cu,
        target_in_T=tokens_NL.flatten(),
        target_out_T=tokens_NL.flatten(),
        target_positions_T=torch.arange(length).repeat(num_sentences),
        target_cu=torch.arange(0, tokens_NL.numel() + 1, length, dtype=torch.int32),
        max_source_length=batch.max_source_length,
        max_target_length=length,
        num_target_tokens=tokens_NL.numel(),
    )
    return model.logits(model.decode(forced)).unflatten(0, (num_sentences, length))


VARIANTS = [
    {},
    {"norm": "pre", "activation": "swiglu", "tied_embeddings": "none"},
    {"activation": "gelu", "tied_embeddings": "decoder", "attention_dropout": 0.1, "num_encoder_layers": 2},
]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_step_by_step_equals_all_at_once(batch: PackedBatch, variant: dict[str, Any]) -> None:
    model = build(**variant)
    tokens_NL = prefixes(batch, CAPACITY_STEP + 3)
    expected_NLV = full_logits(model, batch, tokens_NL)
    state = start(model, batch)
    for t in range(tokens_NL.size(1)):
        logits_NV = model.decode_step(tokens_NL[:, t], state)
        torch.testing.assert_close(logits_NV, expected_NLV[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", [None, [0, 0, 0], [5, 5, 5], [0, 0, 1, 2, 2, 2]], ids=str)
@torch.no_grad()
def test_rows_go_on_from_the_rows_they_were_selected_from(batch: PackedBatch, first: list[int] | None) -> None:
    """Beams: rows copied before the first step, then reordered, dropped with their sentence, and made ragged."""
    model = build()
    tokens_NL = prefixes(batch, 6)
    expected_NLV = full_logits(model, batch, tokens_NL)
    state = start(model, batch)
    sentences = torch.arange(len(tokens_NL))
    beams = sentences.repeat_interleave(3) if first is None else torch.tensor(first)
    selections = [
        beams,
        None,
        torch.tensor([1, 0, 2]),
        torch.tensor([0, 0, 1]),
        torch.tensor([2, 1]),
        torch.tensor([0]),
    ]
    for t, rows in enumerate(selections):
        if rows is not None:
            state.select(rows)
            sentences = sentences[rows]
        assert torch.equal(state.sentence_B, sentences)
        logits_BV = model.decode_step(tokens_NL[sentences, t], state)
        torch.testing.assert_close(logits_BV, expected_NLV[sentences, t], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_decodes_near_fp32(batch: PackedBatch) -> None:
    exact = build()
    rough = Transformer(exact.config, 40, pad_id=0, compute_dtype=torch.bfloat16).eval()
    rough.load_state_dict(exact.state_dict())
    tokens_N = prefixes(batch, 1)[:, 0]
    logits_NV = rough.bfloat16().decode_step(tokens_N, start(rough, batch))
    assert logits_NV.dtype == torch.float32
    torch.testing.assert_close(logits_NV, exact.decode_step(tokens_N, start(exact, batch)), rtol=0.1, atol=0.1)
