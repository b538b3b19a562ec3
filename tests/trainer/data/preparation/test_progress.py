from types import SimpleNamespace

import pytest

from trainer.data.preparation import progress
from trainer.data.preparation.progress import show_progress


def test_a_log_file_gets_a_line_now_and_then_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 11.0, 11.0, 11.0, 12.0, 20.0, 20.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with show_progress("reading x", 4000) as advance:
        advance(1000)
        advance(1200)
        advance(800)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading x  2,200 of 4,000 pairs so far, 200 pairs/s",
        "reading x  3,000 pairs in 20.0 s, 150 pairs/s",
    ]


@pytest.mark.parametrize("total", [None, 4000])
def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with show_progress("reading [x]", total) as advance:
        advance(3000)
    shown = capsys.readouterr().err
    assert "reading [x]" in shown
    assert "3,000 pairs" in shown
