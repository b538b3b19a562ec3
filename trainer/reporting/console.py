"""What a person sees of a run, on stderr: a progress bar in a terminal, one plain line a report in a log file."""

import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from trainer.data.printable import printable

_SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class RunFacts:
    """What is shown when a run starts. `corpora` are names and numbers of pairs, `warnings` sentences. A run that
    begins has `start_step` 0.

    `tokens_per_step` bounds the target tokens of one optimizer step over all ranks.
    """

    run_directory: Path
    num_parameters: int
    world_size: int
    engine: str
    precision: str
    corpora: Sequence[tuple[str, int]]
    tokens_per_step: int
    start_step: int
    warnings: Sequence[str] = ()


class Sample(NamedTuple):
    """`chrf` is that of the sentence, from 0 to 100."""

    source: str
    hypothesis: str
    reference: str
    chrf: float


class Console:
    """Disabled (every rank but 0) it prints nothing. A context manager, so that the bar is always taken down.

    `keep` takes the same lines for a log file, a report in plain text also where a bar shows it.
    """

    def __init__(
        self,
        enabled: bool,
        max_steps: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._enabled = enabled
        self._max_steps = max_steps
        self._stream = stream or sys.stderr
        self._clock = clock
        self._keep = keep
        self._start = clock()
        self._bar: _Bar | None = None

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def start(self, facts: RunFacts) -> None:
        self.message("\n".join(start_lines(facts, self._max_steps)))
        self._start = self._clock()
        if self._enabled and self._stream.isatty():
            self._bar = _Bar(self._stream, facts.start_step, self._max_steps)
            self._bar.start()

    def step(self, step: int) -> None:
        """Moves the bar; cheap enough for every step."""
        if self._bar:
            self._bar.move_to(step)

    def train(self, record: Mapping[str, Any]) -> None:
        """Shows a `train` record of `metrics.jsonl`; numbers that it lacks are left out."""
        share, numbers = record["step"] / self._max_steps, train_numbers(record)
        line = f"step {record['step']}/{self._max_steps} ({share:.1%}) | {numbers}"
        if self._bar:
            self._bar.numbers = numbers
            self._bar.move_to(record["step"])
            self._keep(line)
        else:
            self.message(line)

    def valid(self, record: Mapping[str, Any], samples: Sequence[Sample] = (), best: bool = False) -> None:
        """Shows a `valid` record, marked where it is the best so far, and a few translations."""
        self.message("\n".join([valid_line(record, best), *_sample_lines(samples[:_SHOWN_SAMPLES])]))

    def message(self, text: str) -> None:
        """Prints above the bar. Control characters are escaped: names and errors may hold some. For any thread."""
        if not self._enabled:
            return
        text = "\n".join(map(printable, text.split("\n")))
        self._keep(text)
        if self._bar:
            self._bar.console.print(Text(text), soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def finish(self, step: int, facts: RunFacts, best: str | None = None, outcome: str = "finished") -> None:
        """The end of the command: `outcome`, how long it took, what to do next. `best` names the best checkpoint."""
        self._stop_bar()
        lines = [f"{outcome} at step {step} in {duration(self._clock() - self._start)}"]
        if best:
            lines.append(f"  best checkpoint  {best}")
        lines.append(f"  model            {facts.run_directory}")
        lines.append(f"  next             dragoman translate {shlex.quote(str(facts.run_directory))} < text")
        self.message("\n".join(lines))

    def _stop_bar(self) -> None:
        bar, self._bar = self._bar, None
        if bar:
            bar.stop()


class _Bar(Progress):
    """The bar, and below it the current numbers, which would not fit on the same line."""

    numbers = ""

    def __init__(self, stream: TextIO, start_step: int, max_steps: int) -> None:
        super().__init__(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Terminal(file=stream),
            refresh_per_second=2,
            expand=True,
        )
        self._steps = self.add_task("", total=max_steps, completed=start_step)

    def move_to(self, step: int) -> None:
        self.update(self._steps, completed=step)

    def get_renderables(self) -> list[RenderableType]:  # type: ignore[override]
        return [self.make_tasks_table(self.tasks), Text(self.numbers, style="dim")]


def start_lines(facts: RunFacts, max_steps: int) -> list[str]:
    fresh = "starting fresh" if facts.start_step == 0 else f"resumed from step {facts.start_step:,}"
    processes = f"{facts.world_size} process" + ("es" if facts.world_size > 1 else "")
    return [
        f"run         {facts.run_directory}",
        f"model       {facts.num_parameters:,} parameters",
        f"engine      {facts.engine}, {facts.precision}, {processes}",
        *(f"corpus      {name}: {num_pairs:,} pairs" for name, num_pairs in facts.corpora),
        f"steps       {max_steps:,}, each up to {facts.tokens_per_step:,} target tokens; {fresh}",
        *(f"warning     {warning}" for warning in facts.warnings),
    ]


_TRAIN_NUMBERS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("loss", lambda value: f"loss {value:.4f}"),
    ("nll", lambda value: f"ppl {perplexity(value):.2f}"),
    ("lr", lambda value: f"lr {value:.2e}"),
    ("grad_norm", lambda value: f"grad norm {value:.3f}"),
    ("tokens_per_second", lambda value: f"{value:,.0f} tgt tok/s"),
    ("padding_share", lambda value: f"padding {value:.1%}"),
    ("data_wait_share", lambda value: f"data wait {value:.1%}"),
    ("peak_memory", lambda value: f"memory {value / 2**30:.2f} GiB"),
    ("eta_seconds", lambda value: f"to the end {duration(value)}"),
)


def train_numbers(record: Mapping[str, Any]) -> str:
    return " | ".join(show(record[key]) for key, show in _TRAIN_NUMBERS if record.get(key) is not None)


def valid_line(record: Mapping[str, Any], best: bool) -> str:
    numbers = [f"nll {record['nll']:.4f}", f"ppl {perplexity(record['nll']):.2f}"]
    numbers += [
        f"{label} {record[key]:.2f}"
        for key, label in (("bleu", "BLEU"), ("chrf", "chrF"))
        if record.get(key) is not None
    ]
    return (
        f"valid {record['name']} at step {record['step']} | " + " | ".join(numbers) + (" | best so far" if best else "")
    )


def _sample_lines(samples: Sequence[Sample]) -> list[str]:
    lines = []
    for sample in samples:
        source, hypothesis, reference = map(printable, (sample.source, sample.hypothesis, sample.reference))
        lines += [f"    source      {source}", f"    hypothesis  {hypothesis}", f"    reference   {reference}", ""]
    return lines[:-1]


def perplexity(nll: float) -> float:
    """e to the nll in nats per target token; infinity where that is beyond a float."""
    return math.inf if nll > 700 else math.exp(nll)


def duration(seconds: float) -> str:
    """HH:MM:SS, with more than 24 hours if it is longer than a day."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"
