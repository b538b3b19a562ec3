"""The one shape in which sentences enter the model: packed, without padding between them.

Shape suffixes: S source tokens of the batch, T target tokens of the batch, N sentences.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Whole sentence pairs, concatenated; sentence n of the source is `source_S[source_cu[n]:source_cu[n + 1]]`.

    Every source sentence and `target_out` end with eos; `target_in` starts with bos. Positions count from 0 in each
    sentence. If a static shape is needed (CUDA), the tail is filled: filler tokens have `target_out == pad_id`, which
    the loss ignores, and are in separate sentences. `num_target_tokens` never counts filler.

    Ids and positions are int64, `*_cu` int32. `max_*_length` bound the sentence lengths; on CUDA they are the same
    for every batch of a run, so that nothing recompiles.
    """

    source_S: Tensor
    source_positions_S: Tensor
    source_cu: Tensor
    target_in_T: Tensor
    target_out_T: Tensor
    target_positions_T: Tensor
    target_cu: Tensor
    max_source_length: int
    max_target_length: int
    num_target_tokens: int

    @property
    def num_sentences(self) -> int:
        return self.source_cu.numel() - 1

    def part(self, first: int, last: int) -> "PackedBatch":
        """Sentences first … last - 1, all of them real, as a batch whose ids are views. For CPU tensors."""
        (source_start, source_end), (target_start, target_end) = (
            cu[[first, last]].tolist() for cu in (self.source_cu, self.target_cu)
        )
        source, target = slice(source_start, source_end), slice(target_start, target_end)
        return PackedBatch(
            source_S=self.source_S[source],
            source_positions_S=self.source_positions_S[source],
            source_cu=self.source_cu[first : last + 1] - source_start,
            target_in_T=self.target_in_T[target],
            target_out_T=self.target_out_T[target],
            target_positions_T=self.target_positions_T[target],
            target_cu=self.target_cu[first : last + 1] - target_start,
            max_source_length=self.max_source_length,
            max_target_length=self.max_target_length,
            num_target_tokens=target_end - target_start,
        )

    def pinned(self) -> "PackedBatch":
        """The same batch in page-locked memory, from which it is copied to a CUDA device without waiting."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type is Tensor}
        return replace(self, **{name: tensor.pin_memory() for name, tensor in tensors.items()})

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on `device`, copied without blocking if the memory is pinned."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type is Tensor}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})
