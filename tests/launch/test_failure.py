"""What is printed about a failure, and with which status."""

import errno

import pytest

from launch.failure import explain
from trainer.errors import OutOfMemory, ProcessDied, UserError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_a_users_mistake_is_its_sentence() -> None:
    assert explain(UserError("`a` is wrong.")).message == "dragoman: `a` is wrong."
    assert explain(UserError("`a` is wrong.")).status == 2


def test_a_worker_that_was_killed_may_do_better_next_time() -> None:
    assert explain(ProcessDied("died")).status == 75


def test_ctrl_c_and_a_reader_that_left_are_silent() -> None:
    assert (explain(KeyboardInterrupt()).status, explain(KeyboardInterrupt()).message) == (130, "")
    assert (explain(BrokenPipeError()).status, explain(BrokenPipeError()).message) == (141, "")


def test_a_full_disk_is_told_wherever_it_hides() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x/weights")
    assert "no space is left on the disk that holds runs/x/weights;" in explain(full).message
    in_words = RuntimeError("I/O error: No space left on device (os error 28)")
    for error in (full, raised(RuntimeError("saving failed"), full), in_words):
        failure = explain(error)
        assert failure.status == 2
        assert "\n" not in failure.message


def test_out_of_memory_is_mended_by_the_same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    failure = explain(OutOfMemory("2 GiB asked for"))
    assert (failure.status, failure.start_again) == (75, True)
    assert "rank 3 ran out of memory (2 GiB asked for)" in failure.message
    assert not explain(UserError("x")).start_again


@pytest.mark.parametrize("how", ["Connection closed by peer", "Read error [127.0.0.1]:1: Connection reset by peer"])
def test_a_rank_that_lost_another_says_so_and_may_be_started_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    failure = explain(RuntimeError(f"[/pytorch/gloo/transport/tcp/pair.cc:553] {how}. Check the logs."))
    assert (failure.status, "\n" in failure.message) == (75, False)
    assert "rank 3 lost another rank" in failure.message
    assert how in failure.message
    assert failure.lost_peer
    assert explain(RuntimeError("wandb: connection reset by peer")).status == 1


def test_a_defect_keeps_its_traceback() -> None:
    failure = explain(raised(RuntimeError("tensor of size 3"), ValueError("first")))
    assert failure.status == 1
    assert "Traceback" in failure.message
    assert "ValueError: first" in failure.message
    assert failure.message.endswith("RuntimeError: tensor of size 3")
