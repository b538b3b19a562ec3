"""How fast a run trains: tokens per second, shares of time, time to the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.data.feeding.packing import MicroBatch


class StepMeter:
    """Speed of training since the last report, on this rank's clock.

    Time inside `outside_training` (validation, checkpoints) counts for the time to the end, but not for the speed.
    `peak_flops` is the peak of this rank's device in FLOP/s, if known; `clock` returns seconds.
    """

    def __init__(
        self,
        start_step: int,
        max_steps: int,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._start_step = start_step
        self._max_steps = max_steps
        self._peak_flops = peak_flops
        self._clock = clock
        self._start = clock()
        self._begin_interval()

    def add_step(self, num_target_tokens: int, num_real_tokens: int, num_cells: int) -> None:
        """Counts one optimizer step.

        `num_target_tokens` is over all ranks. `num_cells`: positions computed, source plus target; `num_real_tokens`:
        how many of them held a real token. Count both over the same ranks (see `count_cells`).
        """
        self._steps += 1
        self._target_tokens += num_target_tokens
        self._real_tokens += num_real_tokens
        self._cells += num_cells

    def add_flops(self, flops: float) -> None:
        """Counts the floating-point operations of this rank's part of a step."""
        self._flops += flops

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._data_seconds += self._clock() - start

    @contextmanager
    def outside_training(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._outside_seconds += self._clock() - start

    def report(self, step: int) -> dict[str, float]:
        """The numbers since the last report, for a `train` record; `step` steps of the run are done.

        `tokens_per_second` counts real target tokens over all ranks; shares are between 0 and 1. `peak_flops_share` is
        left out if the device's peak is not known.
        """
        assert self._steps > 0, "a report needs a step"
        now = self._clock()
        seconds = max(now - self._interval_start - self._outside_seconds, 1e-9)
        steps_done = step - self._start_step
        numbers = {
            "tokens_per_second": self._target_tokens / seconds,
            "seconds_per_step": seconds / self._steps,
            "padding_share": 1 - self._real_tokens / self._cells,
            "data_wait_share": self._data_seconds / seconds,
            "eta_seconds": (now - self._start) / steps_done * (self._max_steps - step),
        }
        if self._peak_flops:
            numbers["peak_flops_share"] = self._flops / seconds / self._peak_flops
        self._begin_interval()
        return numbers

    def _begin_interval(self) -> None:
        self._interval_start = self._clock()
        self._steps = self._target_tokens = self._real_tokens = self._cells = 0
        self._data_seconds = self._outside_seconds = self._flops = 0.0


def count_cells(micro_batch: MicroBatch) -> tuple[int, int]:
    """Real tokens and all computed positions of a micro-batch, source and target together; filler is not real."""
    batch = micro_batch.batch
    # The real sentences come first, the filler after them.
    num_source_tokens = int(batch.source_cu[micro_batch.num_pairs])
    return num_source_tokens + batch.num_target_tokens, batch.source_S.numel() + batch.target_out_T.numel()
