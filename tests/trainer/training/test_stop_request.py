"""Stop signals set a flag; a second Ctrl-C stops at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from trainer.run_directory.stop_reason import STOP_SIGNALS, RunOutcome, StopReason, stop_signals
from trainer.training.stop_request import StopRequest


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_by_name(number: signal.Signals) -> None:
    stop = StopRequest().install()
    os.kill(os.getpid(), number)
    assert stop.reason == number.name
    assert stop.reason.outcome is RunOutcome.INTERRUPTED


def test_those_that_end_a_terminal_or_a_job_are_among_them() -> None:
    assert {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} == {n.name for n in STOP_SIGNALS}
    assert StopReason.FINISHED.outcome is StopReason.STOPPED_EARLY.outcome is RunOutcome.FINISHED


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest().install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.reason is None
    assert set(STOP_SIGNALS) - set(stop_signals()) == {signal.SIGHUP}
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason is StopReason.SIGTERM


def test_the_first_reason_stays() -> None:
    stop = StopRequest().install()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.reason == "SIGTERM"


def test_a_second_interrupt_stops_at_once() -> None:
    StopRequest().install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
