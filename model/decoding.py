"""Incremental decoding: the keys and values kept of a target prefix, so that its next token costs one token's work.

Shape suffixes: P decoder layers, B rows (hypotheses), R rows of one sentence, N sentences, H heads, K size of a head,
L target tokens so far (up to the buffer's capacity), M source tokens of the longest sentence, D d_model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import CrossAttention, SelfAttention

CAPACITY_STEP = 16  # target positions by which the buffer grows


class DecoderState:
    """Keys and values of every decoder layer: of the target tokens for each row, of the memory for each sentence.

    The rows of one sentence are consecutive. At first every sentence has one row; `select` copies and drops rows.
    """

    def __init__(self, memory_P2NHMK: Tensor, is_source_NM: Tensor) -> None:
        self.length = 0
        self.sentence_B = torch.arange(is_source_NM.size(0), device=is_source_NM.device)
        self._memory_P2NHMK = memory_P2NHMK
        self._is_source_NM = is_source_NM
        self._prefix_P2BHLK = memory_P2NHMK[..., :0, :]

    @property
    def num_rows(self) -> int:
        return self.sentence_B.numel()

    def select(self, rows_B: Tensor) -> None:
        """Copies, reorders or drops hypotheses: row b continues what was row `rows_B[b]`.

        The rows of a sentence must stay consecutive. `sentence_B` is the source sentence that each row translates.
        """
        self._prefix_P2BHLK = self._prefix_P2BHLK.index_select(2, rows_B)
        sentence_B = self.sentence_B[rows_B]
        if not torch.equal(sentence_B, self.sentence_B):
            self._select_memory(rows_B)
        self.sentence_B = sentence_B

    def _select_memory(self, rows_B: Tensor) -> None:
        """Keeps one copy of the memory per remaining sentence, or per row if sentences differ in number of rows."""
        num_rows_of_sentence = self.num_rows // self._is_source_NM.size(0)
        entry_B = rows_B // num_rows_of_sentence
        entry_N, num_rows_N = entry_B.unique_consecutive(return_counts=True)
        if (num_rows_N != num_rows_N[0]).any():
            entry_N = entry_B
        self._memory_P2NHMK = self._memory_P2NHMK.index_select(2, entry_N)
        self._is_source_NM = self._is_source_NM[entry_N]

    def grow(self) -> None:
        """Makes room for one more target token if the buffer is full."""
        if self.length == self._prefix_P2BHLK.size(4):
            p, two, _, h, _, k = self._memory_P2NHMK.shape
            room = self._memory_P2NHMK.new_empty(p, two, self.num_rows, h, CAPACITY_STEP, k)
            self._prefix_P2BHLK = torch.cat((self._prefix_P2BHLK, room), dim=4)

    def skip_to(self, length: int) -> None:
        """Takes the memory of `length` target tokens at once, as if they had been decoded: their keys are zeros.

        For finding out whether a search of that length fits into memory.
        """
        p, two, _, h, _, k = self._memory_P2NHMK.shape
        self._prefix_P2BHLK = self._memory_P2NHMK.new_zeros(p, two, self.num_rows, h, length, k)
        self.length = length

    def layer(self, index: int) -> "LayerCache":
        return LayerCache(self._prefix_P2BHLK[index], self.length, self._memory_P2NHMK[index], self._is_source_NM)


class LayerCache:
    """One decoder layer's part of a `DecoderState`."""

    def __init__(self, prefix_2BHLK: Tensor, length: int, memory_2NHMK: Tensor, is_source_NM: Tensor) -> None:
        self.prefix_2BHLK = prefix_2BHLK
        self.length = length
        self.memory_2NHMK = memory_2NHMK
        self.is_source_NM = is_source_NM

    def attend_self(self, attention: SelfAttention, x_BD: Tensor) -> Tensor:
        """Adds the keys and values of the newest tokens and attends to all so far: (B, D) to (B, D)."""
        query_BHK, key_BHK, value_BHK = attention.project(x_BD)
        key_BHLK, value_BHLK = self.prefix_2BHLK[..., : self.length + 1, :]
        key_BHLK[:, :, -1] = key_BHK
        value_BHLK[:, :, -1] = value_BHK
        query_BH1K = query_BHK.unsqueeze(2)  # B H K -> B H 1 K
        output_BHK = F.scaled_dot_product_attention(query_BH1K, key_BHLK, value_BHLK).squeeze(2)  # B H 1 K -> B H K
        return attention.output(output_BHK.flatten(1))  # B H K -> B D

    def attend_memory(self, attention: CrossAttention, x_BD: Tensor) -> Tensor:
        """All rows of a sentence attend together to the one copy of its memory: (B, D) to (B, D)."""
        key_NHMK, value_NHMK = self.memory_2NHMK
        query_NRHK = attention.project_query(x_BD).unflatten(0, (key_NHMK.size(0), -1))  # B H K -> N R H K
        query_NHRK = query_NRHK.transpose(1, 2)  # N R H K -> N H R K
        mask_N11M = self.is_source_NM[:, None, None, :]
        output_NHRK = F.scaled_dot_product_attention(query_NHRK, key_NHMK, value_NHMK, mask_N11M)
        return attention.output(output_NHRK.transpose(1, 2).flatten(2).flatten(0, 1))  # N H R K -> N R D -> B D


def start_state(
    layers: list[CrossAttention], memory_SD: Tensor, source_cu: Tensor, max_source_length: int
) -> DecoderState:
    """The state before the first token: one row per sentence of the packed memory (S, D), to which `layers` attend."""
    positions_M = torch.arange(max_source_length, device=memory_SD.device)
    rows_NM = source_cu[:-1].unsqueeze(1) + positions_M
    is_source_NM = rows_NM < source_cu[1:].unsqueeze(1)
    padded_NMD = memory_SD[rows_NM.clamp(max=memory_SD.size(0) - 1)]  # S D -> N M D
    num_sentences = rows_NM.size(0)
    # For each layer: (N M) D -> keys and values (N M) H K -> N H M K.
    keys_values = [
        torch.stack([x.unflatten(0, (num_sentences, -1)).transpose(1, 2) for x in projected])
        for projected in (layer.project_memory(padded_NMD.flatten(0, 1)) for layer in layers)
    ]
    return DecoderState(torch.stack(keys_values), is_source_NM)
