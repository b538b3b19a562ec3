"""Engines for tests of what surrounds the engine: one whole stand-in, and a real model's fragments.

A test that needs another behaviour derives from `FakeEngine` and overrides that method alone.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.base import Fragment, StepResult


class FakeEngine:
    """One process. A step changes nothing, costs nothing and has loss 1; its weights are those of `model`."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, model: nn.Module | None = None, skipped: Collection[int] = ()) -> None:
        """`skipped`: the calls of `step`, counted from 1, that skip the update."""
        self.model = model or nn.Linear(2, 1, bias=False)
        self.skipped = skipped
        self.num_updates, self.calls = 0, 0
        self.rates: list[float] = []
        self.rehearsed: list[list[int]] = []

    def step(self, micro_batches: Any, loss_fn: Any, lr: float, max_loss: float | None = None) -> StepResult:
        self.calls += 1
        self.rates.append(lr)
        skipped = self.calls in self.skipped
        self.num_updates += not skipped
        return StepResult(1.0, 1.0, 5, 0.5, skipped)

    def rehearse(self, micro_batches: Any, loss_fn: Any) -> None:
        self.rehearsed.append([m.num_target_tokens for m in micro_batches])

    def sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def peak_memory(self) -> int:
        return 1

    def fragments(self) -> Iterator[Fragment]:
        """Each parameter whole, its moments zero."""
        for name, parameter in self.model.named_parameters():
            flat = parameter.detach().flatten()
            yield Fragment(name, 0, flat, torch.zeros_like(flat), torch.zeros_like(flat))

    def full_weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def close(self) -> None:
        pass
