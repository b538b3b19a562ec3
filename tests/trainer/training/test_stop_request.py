"""Stop signals set a flag; a second Ctrl-C stops at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from trainer.training.stop_request import STOP_SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_by_name(number: signal.Signals) -> None:
    stop = StopRequest().install()
    os.kill(os.getpid(), number)
    assert stop.reason == number.name


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
