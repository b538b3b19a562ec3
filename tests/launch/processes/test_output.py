"""A training's output never ends it: readers that have gone, terminals that were closed, full disks."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from launch.processes.output import LossyStream, outlive_the_readers
from trainer.reporting.console import Console, RunFacts


def pipe_without_reader() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def closed_terminal() -> TextIO:
    ours, theirs = os.openpty()
    os.close(ours)
    return os.fdopen(theirs, "w")


def full_disk() -> TextIO:
    return Path("/dev/full").open("w")


@pytest.fixture(params=[pipe_without_reader, closed_terminal, full_disk])
def broken(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    make: Callable[[], TextIO] = request.param
    stream = make()
    yield stream
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), stream.fileno())  # what is still buffered goes here
        stream.close()


def test_what_cannot_be_written_is_dropped(broken: TextIO) -> None:
    stream = LossyStream(broken)
    for _ in range(3):
        assert stream.write("a line\n") == 7
        stream.flush()


def test_the_console_goes_on_in_the_log_alone(broken: TextIO) -> None:
    kept: list[str] = []
    console = Console(True, 10, cast(TextIO, LossyStream(broken)), keep=kept.append)
    facts = RunFacts(Path("run"), 1, 1, "ddp", "fp32", [], 64, 0)
    console.start(facts)
    for step in (1, 2, 3):
        console.step(step)
        console.train({"step": step, "loss": 2.5})
    console.finish(3, facts)
    assert [line for text in kept for line in text.splitlines() if line.startswith("step ")] == [
        f"step {step}/10 ({step / 10:.1%}) | loss 2.5000" for step in (1, 2, 3)
    ]


def test_a_reader_gone_once_leaves_a_descriptor_that_can_be_written() -> None:
    """Native code and child processes write to the descriptor, not to the stream."""
    broken = pipe_without_reader()
    LossyStream(broken).write("x\n")
    LossyStream(broken).flush()
    assert os.write(broken.fileno(), b"from C++\n") == 9
    broken.close()


def test_both_streams_are_replaced_once_and_a_closed_one_drops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", shown)
    outlive_the_readers()
    once: tuple[Any, Any] = sys.stdout, sys.stderr
    outlive_the_readers()
    assert (sys.stdout, sys.stderr) == once
    print("nowhere", flush=True)
    print("shown", file=sys.stderr, flush=True)
    assert shown.getvalue() == "shown\n"
