"""An inspection stays readable in a terminal, a pipe and a log file, whatever the text is."""

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from launch.watching import data_report as inspection_text
from trainer.data.inspection.corpus_report import CorpusReport, Distribution, Sentence, SideReport
from trainer.data.inspection.inspect_data import Inspection, MixtureReport
from trainer.data.inspection.round_trip import RoundTrip

PERCENTILES = {"1": 2.0, "50": 12.0, "99": 30.0}
SIDE = SideReport(123_456, Distribution(12.25, PERCENTILES), 5, [0.6, 0.3, 0.1, 0.0])
CORPUS = CorpusReport(
    name="news",
    num_pairs=10_000,
    share=0.75,
    steps_per_pass=12.5,
    source=SIDE,
    target=replace(SIDE, num_tokens=234_567),
    ratio=Distribution(1.1, {"1": 0.5, "50": 1.05, "99": 2.0}),
    num_sampled=10_000,
    is_estimate=False,
    rejected={"copy": 3, "few letters": 1234, "duplicate": 0},
    rejected_examples={"copy": [("Nelson Mandela", "Nelson Mandela")], "few letters": [("12:30", "9" * 1000)]},
    examples=[(Sentence("a b", ["▁a", "▁b", "</s>"], [5, 6, 3]), Sentence("c", ["▁c", "</s>"], [7, 3]))],
)
MIXTURE = MixtureReport(
    num_pairs=10_000,
    max_source_tokens=1800,
    max_target_tokens=2048,
    micro_batches_per_step=4,
    num_measured=32,
    source_fill=0.981,
    target_fill=0.992,
    fill=0.987,
    pairs_per_micro_batch=150.5,
    source_tokens_per_step=7063.0,
    target_tokens_per_step=8126.0,
    steps_per_pass=16.6,
)


def rendered(*corpora: CorpusReport, mode: str = "store", width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    console.print(inspection_text.render(Inspection(mode, list(corpora), MIXTURE), max_steps=166))
    return stream.getvalue()


def test_the_numbers_are_all_there() -> None:
    text = "\n".join(line.rstrip() for line in rendered(CORPUS).splitlines())
    for part in (
        "Mixture (store mode)",
        "news     10,000   75.0%         123,456         234,567           12.5",
        "at most 1,800 source and 2,048 target tokens; 150.5 pairs",
        "98.7% (source 98.1%, target 99.2%), measured on the first 32",
        "4 micro-batches: 602 pairs, 7,063 source and 8,126 target tokens",
        "16.6 steps read as many pairs as there are (10,000)",
        "10.0 passes in `run.max_steps` (166)",
        "left out as copy: 3\n",
        "left out as few letters: 1,234\n",
        "pieces  ▁a ▁b </s>",
        "ids     5 6 3",
    ):
        assert part in text, part
    assert "duplicate" not in text
    assert "~" not in text


def test_a_bar_is_as_long_as_its_share() -> None:
    bars = {line.split("█")[0].strip(): line.count("█") for line in rendered(CORPUS).splitlines() if "█" in line}
    assert bars == {"1 – 5": 48, "6 – 10": 24, "11 – 15": 8}
    assert "over 15" in rendered(CORPUS)


def test_what_a_sample_gave_is_marked_as_an_estimate() -> None:
    corpus = replace(CORPUS, is_estimate=True, num_sampled=500, rejected={"copy": 3, "too long": 20})
    text = rendered(corpus, mode="stream")
    assert "~123,456" in text
    assert "left out as too long: ~20" in text
    assert "left out as copy: 3" in text
    assert "~ is an estimate from at most 500 pairs" in text
    assert "of 500 sampled pairs" in text


def test_a_corpus_of_which_all_was_kept() -> None:
    assert "no pair was left out" in rendered(replace(CORPUS, rejected={}, rejected_examples={}))


@pytest.mark.parametrize("width", [60, 100])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    long = Sentence("今天天气很好，我们去公园散步吧。" * 20 + "x" * 300, ["▁今天"] * 200, list(range(200)))
    corpus = replace(CORPUS, name="a_corpus_with_a_name_that_is_long_" * 3, examples=[(long, long)])
    assert max(cell_len(line) for line in rendered(corpus, width=width).splitlines()) <= width


def test_text_can_neither_move_the_cursor_nor_fail_to_be_written() -> None:
    nasty = Sentence("\x1b[2J[bold]x[/bold] :smile: \ud800\t\u202eend", ["▁x"], [1])
    text = rendered(replace(CORPUS, examples=[(nasty, nasty)]))
    assert "\\x1b[2J[bold]x[/bold] :smile: \\ud800\\t\\u202eend" in text
    text.encode()


def test_a_long_rejected_text_is_cut() -> None:
    assert rendered(CORPUS).count("9") < 400


def test_what_is_piped_has_the_width_of_a_page_and_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    inspection_text.show(Inspection("store", [CORPUS], MIXTURE), max_steps=166)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert 80 < max(map(len, text.splitlines())) <= 100


def test_target_lines_that_do_not_come_back_are_shown_with_what_is_invisible() -> None:
    found = RoundTrip(10_000, 1234, [("10\xa0000 m²", "10 000 m2"), ("می\u200cروم", "می روم")])
    text = rendered(replace(CORPUS, target_round_trip=found))
    assert "1,234 of 10,000 target lines looked at do not come back" in text
    for shown in (r"before  10\xa0000 m²", "after   10 000 m2", r"before  می\u200cروم"):
        assert shown in text
    assert "all 7 target lines" in rendered(replace(CORPUS, target_round_trip=RoundTrip(7, 0, [])))
    assert "their text is gone" in rendered(CORPUS)
