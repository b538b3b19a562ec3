"""Shows the state of runs: one run in full, several as a table, once or repeatedly."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.watching.run_history import Moment, Restart
from launch.watching.status import RunReader, RunStatus, Score, find_runs, read_all
from trainer.data.printable import printable
from trainer.reporting.console import duration, perplexity

_WIDE = 200  # columns of a table that goes into a file
_NUM_RESTARTS = 5
_COLUMNS = ("run", "state", "step", "loss", "BLEU", "tok/s", "to end", "saved", "starts", "SLURM")


def show(folder: Path, as_json: bool, watch: float | None) -> None:
    """Prints where a run stands, or all runs in a folder; with `watch` repeatedly, every `watch` seconds.

    Raises UserError if there is no run.
    """
    readers: dict[Path, RunReader] = {}
    console = Console(width=None if sys.stdout.isatty() else _WIDE)

    def look() -> RenderableType:
        runs = find_runs(folder)
        statuses = read_all([readers.setdefault(run, RunReader(run)) for run in runs])
        if as_json:
            documents = [asdict(status) for status in statuses]
            return Text(json.dumps(documents[0] if runs == [folder] else documents))
        return status_text(statuses[0]) if runs == [folder] else status_table(statuses)

    def put(seen: RenderableType) -> None:
        print(seen.plain) if isinstance(seen, Text) else console.print(seen)

    if watch is None:
        put(look())
    elif as_json or not sys.stdout.isatty():
        while True:
            put(look())
            sys.stdout.flush()
            time.sleep(watch)
    else:
        with Live(look(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(watch)
                live.update(look(), refresh=True)


def status_text(status: RunStatus) -> Text:
    """One run, one line per fact."""
    lines = [f"{label:<12} {printable(text)}".rstrip() for label, text in _facts(status, time.time())]
    return Text("\n".join([status.run, *(f"  {line}" for line in lines)]))


def _facts(status: RunStatus, now: float) -> Iterator[tuple[str, str]]:
    yield "state", f"{status.state}: {status.detail}" if status.detail else status.state
    if status.state in ("training", "died") and status.last_alive is not None:
        yield "last alive", _ago(status.last_alive, now)
    if status.world_size:
        yield "processes", f"{status.world_size}, {status.engine or '?'}, rank 0 on {status.host}"
    if status.job:
        job = status.job
        more = [job.reason, job.nodes]
        if not job.has_ended:
            more += [job.time_left and f"{job.time_left} left", job.start and f"start {job.start}"]
        yield "SLURM", f"job {job.id} {job.state}{''.join(f', {part}' for part in more if part)}"
    yield "step", _step(status) + (f", {duration(status.eta_seconds)} to the end" if status.eta_seconds else "")
    if status.loss is not None and status.nll is not None:
        yield "loss", f"{status.loss:.4f}, ppl {perplexity(status.nll):.2f}"
    if status.tokens_per_second is not None:
        yield "speed", f"{status.tokens_per_second:,.0f} target tokens per second"
    for score in status.scores:
        yield "valid", _score(score)
    yield "checkpoint", _moment(status.checkpoint, now) if status.checkpoint else "none yet"
    if status.failed_save:
        yield "save failed", f"{_moment(status.failed_save, now)}: {status.failed_save.text}"
    yield from _restarts(status.restarts, now)
    yield from (("rank", trouble) for trouble in status.troubled_ranks)
    yield from (("failure", f"{_moment(failure, now)}: {failure.text}") for failure in status.failures)
    yield from (("last lines" if number == 0 else "", line) for number, line in enumerate(status.last_lines))


def _restarts(restarts: Sequence[Restart], now: float) -> Iterator[tuple[str, str]]:
    yield "restarts", str(len(restarts))
    for restart in restarts[-_NUM_RESTARTS:]:
        when = f", {_ago(restart.time, now)}" if restart.time else ""
        yield "", f"from step {restart.step:,}{when}, after: {restart.reason}"


def status_table(statuses: Sequence[RunStatus]) -> RenderableType:
    """One line per run: best BLEU, real target tokens per second, age of the newest checkpoint, and so on."""
    table, now = Table(box=None, pad_edge=False), time.time()
    for column in _COLUMNS:
        is_text = column in ("run", "state", "SLURM")
        table.add_column(column, overflow="fold", no_wrap=column != "run", justify="left" if is_text else "right")
    for status in statuses:
        table.add_row(*(Text(cell) for cell in _cells(status, now)))
    problems = [f"{s.run}: {printable(text)}" for s in statuses for text in _problems(s)]
    return Group(table, *(Text(problem) for problem in problems))


def _cells(status: RunStatus, now: float) -> Iterator[str]:
    yield status.run
    yield status.state
    yield f"{status.step}/{status.max_steps or '?'}"
    yield "" if status.loss is None else f"{status.loss:.4f}"
    best = status.scores[0].best_bleu if status.scores else None
    yield "" if best is None else f"{best:.2f}"
    yield "" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}"
    yield "" if status.eta_seconds is None else duration(status.eta_seconds)
    saved = status.checkpoint.time if status.checkpoint else None
    yield "" if saved is None else duration(max(0.0, now - saved))
    yield str(1 + len(status.restarts))
    yield "" if status.job is None else f"{status.job.id} {status.job.state}"


def _problems(status: RunStatus) -> Iterator[str]:
    """Sentences about what must not be overlooked."""
    if status.state in ("failed", "failed to start", "died"):
        yield f"{status.state}: {status.detail}"
    if status.failed_save:
        yield f"save failed at step {status.failed_save.step:,}: {status.failed_save.text}"
    yield from status.troubled_ranks


def _step(status: RunStatus) -> str:
    if not status.max_steps:
        return f"{status.step:,}"
    return f"{status.step:,} of {status.max_steps:,} ({status.step / status.max_steps:.1%})"


def _score(score: Score) -> str:
    text = f"{score.name}: nll {score.nll:.4f}" if score.nll is not None else f"{score.name}:"
    if score.bleu is not None:
        text += f", BLEU {score.bleu:.2f}"
    text += f" at step {score.step:,}"
    if score.best_bleu is not None:
        text += f"; best BLEU {score.best_bleu:.2f} at step {score.best_step:,}"
    return text


def _moment(moment: Moment, now: float) -> str:
    return f"step {moment.step:,}" + (f", {_ago(moment.time, now)}" if moment.time else "")


def _ago(then: float, now: float) -> str:
    return f"{duration(max(0.0, now - then))} ago"
