import io
import math
import re
from pathlib import Path

import pytest

from trainer.reporting.console import Console, RunFacts, Sample, duration

FACTS = RunFacts(
    run_directory=Path("runs/small"),
    num_parameters=63_082_496,
    world_size=2,
    engine="zero2",
    precision="bf16",
    corpora=[("phrasebook", 40_000), ("news", 1_234_567)],
    tokens_per_step=16_384,
    start_step=0,
)
TRAIN = {
    "kind": "train",
    "step": 50,
    "loss": 4.25,
    "nll": math.log(20),
    "lr": 7e-4,
    "grad_norm": 1.5,
    "tokens_per_second": 2540.4,
    "padding_share": 0.025,
    "data_wait_share": 0.001,
    "peak_memory": 3 * 2**30,
    "eta_seconds": 3725,
}


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_start_tells_what_runs() -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).start(FACTS)
    text = stream.getvalue()
    for fact in ("runs/small", "63,082,496 parameters", "zero2, bf16, 2 processes", "news: 1,234,567 pairs"):
        assert fact in text
    assert "16,384 target tokens; starting fresh" in text


def test_a_resumed_run_says_from_where() -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).start(RunFacts(**{**FACTS.__dict__, "start_step": 1500, "world_size": 1}))
    assert "resumed from step 1,500" in stream.getvalue()
    assert "1 process\n" in stream.getvalue()


def test_warnings_are_shown_with_the_start() -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).start(RunFacts(**{**FACTS.__dict__, "warnings": ["the rate jumps.", "too short."]}))
    assert [line for line in stream.getvalue().splitlines() if line.startswith("warning ")] == [
        "warning     the rate jumps.",
        "warning     too short.",
    ]


def test_a_report_in_a_log_file_is_one_plain_line() -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).train(TRAIN)
    assert stream.getvalue() == (
        "step 50/3000 (1.7%) | loss 4.2500 | ppl 20.00 | lr 7.00e-04 | grad norm 1.500 | 2,540 tgt tok/s | "
        "padding 2.5% | data wait 0.1% | memory 3.00 GiB | to the end 01:02:05\n"
    )


@pytest.mark.parametrize("nll", [math.nan, math.inf, 1e6])
def test_a_diverged_step_can_be_shown(nll: float) -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).train({"step": 7, "loss": nll, "nll": nll, "grad_norm": math.inf})
    assert re.fullmatch(
        rf"step 7/3000 \(0\.2%\) \| loss \S+ \| ppl {'nan' if math.isnan(nll) else 'inf'} \| grad norm inf\n",
        stream.getvalue(),
    )


def test_validation_shows_scores_and_translations() -> None:
    stream = io.StringIO()
    record = {"kind": "valid", "step": 100, "name": "val", "nll": 1.0, "bleu": 36.123, "chrf": 60.0}
    sample = Sample("Je suis étudiant.", "I am a student.", "I am a student!", 90.0)
    Console(True, 3000, stream).valid(record, [sample], best=True)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "valid val at step 100 | nll 1.0000 | ppl 2.72 | BLEU 36.12 | chrF 60.00 | best so far"
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        ["source", "Je suis étudiant."],
        ["hypothesis", "I am a student."],
        ["reference", "I am a student!"],
    ]


def test_control_characters_of_a_corpus_do_not_reach_the_terminal() -> None:
    """ESC would colour or clear it, a carriage return hide what comes before."""
    stream, kept = io.StringIO(), list[str]()
    console = Console(True, 3000, stream, keep=kept.append)
    sample = Sample("a\x1b[31mb", "c\rd\x9b", "e\u202ef\ng", 0.0)
    console.valid({"step": 5, "name": "v\x07l", "nll": 1.0}, [sample])
    console.message("step 5: failed: \x1b[2J\nsecond line")
    for text in (stream.getvalue(), "\n".join(kept) + "\n"):
        assert text.splitlines() == [
            "valid v\\x07l at step 5 | nll 1.0000 | ppl 2.72",
            "    source      a\\x1b[31mb",
            "    hypothesis  c\\rd\\x9b",
            "    reference   e\\u202ef\\ng",
            "step 5: failed: \\x1b[2J",
            "second line",
        ]


def test_validation_without_translations_shows_the_loss_alone() -> None:
    stream = io.StringIO()
    Console(True, 3000, stream).valid({"step": 5, "name": "val", "nll": 1.0})
    assert stream.getvalue() == "valid val at step 5 | nll 1.0000 | ppl 2.72\n"


def test_the_end_says_what_to_do_next() -> None:
    stream, clock = io.StringIO(), Clock()
    with Console(True, 3000, stream, clock) as console:
        console.start(FACTS)
        clock.now = 3725.0
        console.finish(3000, FACTS, best="step 2500 (BLEU 36.1)")
    text = stream.getvalue()
    assert "finished at step 3000 in 01:02:05" in text
    assert "step 2500 (BLEU 36.1)" in text
    assert "dragoman translate runs/small" in text


def test_other_ranks_are_silent() -> None:
    stream = TerminalStream()
    with Console(False, 3000, stream) as console:
        console.start(FACTS)
        console.step(1)
        console.train(TRAIN)
        console.valid({"step": 1, "name": "val", "nll": 1.0})
        console.message("hello")
        console.finish(3000, FACTS)
    assert stream.getvalue() == ""


def show_and_fail(stream: io.StringIO) -> None:
    with Console(True, 3000, stream) as console:
        console.start(FACTS)
        console.step(49)
        console.train(TRAIN)
        console.message("[a message] with brackets")
        raise RuntimeError("boom")


def test_a_terminal_gets_a_bar_that_is_taken_down_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = TerminalStream()
    with pytest.raises(RuntimeError, match="boom"):
        show_and_fail(stream)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "50/3000" in shown
    assert "2,540 tgt tok/s" in shown
    assert "[a message] with brackets" in shown
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00:00"), (59.6, "00:01:00"), (360_000, "100:00:00")])
def test_durations_count_hours_on(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("stream", [io.StringIO(), TerminalStream()])
def test_a_log_gets_every_line_whatever_shows_it(stream: io.StringIO) -> None:
    kept: list[str] = []
    with Console(True, 100, stream, keep=kept.append) as console:
        console.start(FACTS)
        console.train(TRAIN)
        console.message("said")
        console.finish(50, FACTS)
    assert "63,082,496 parameters" in kept[0]
    assert kept[1].startswith("step 50/100 (50.0%) | loss 4.2500 | ")
    assert kept[2] == "said"
    assert kept[3].startswith("finished at step 50")
    assert len(kept) == 4


def test_ranks_that_show_nothing_keep_nothing() -> None:
    kept: list[str] = []
    console = Console(False, 100, io.StringIO(), keep=kept.append)
    console.start(FACTS)
    console.train(TRAIN)
    assert kept == []
