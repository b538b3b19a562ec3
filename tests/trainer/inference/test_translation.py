"""Lines come back in order, one for one, whatever is in them, and as soon as they can."""

import logging
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from model.search import SearchConfig
from tests.trainer.conftest import TinyRun, sentences
from trainer.configuration.sections import EvaluationConfig
from trainer.errors import UserError
from trainer.inference import translation
from trainer.inference.translation import (
    FIRST_CHUNK,
    LARGEST_CHUNK,
    Translator,
    batches_by_length,
    load_translator,
    max_batch_sentences,
    ready_chunks,
    split,
)


@pytest.fixture
def translator(tiny_run: TinyRun) -> Translator:
    tiny_run.publish(1, tiny_run.model(seed=1))
    return load_translator(tiny_run.directory, "cpu")


def test_order_and_empty_lines_are_kept(translator: Translator) -> None:
    lines = sentences(12, seed=3)
    alone = [translator.translate([line])[0] for line in lines]
    assert len(set(alone)) > len(alone) // 2
    mixed = ["", *lines[:5], "  \t ", *lines[5:], ""]
    assert translator.translate(mixed) == ["", *alone[:5], "", *alone[5:], ""]
    assert translator.translate([]) == []


def test_the_sources_tokenizer_encodes_and_the_targets_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SimpleNamespace(encode=lambda lines: [[len(line)] for line in lines], eos_id=77)
    target = SimpleNamespace(
        bos_id=5, eos_id=6, pad_id=7, unk_id=8, vocab_size=9, decode=lambda best: [f"{ids}" for ids in best]
    )
    asked: list[Any] = []

    def found(model: Any, sources: list[list[int]], config: SearchConfig, device: Any) -> list[Any]:
        asked.append((sources, config.bos_id, config.eos_id, config.forbidden_ids))
        return [[SimpleNamespace(ids=[100 + sources[0][0]])]]

    monkeypatch.setattr(translation, "search", found)
    pair: Any = SimpleNamespace(source=source, target=target)
    model: Any = None
    assert Translator(model, pair, 24, EvaluationConfig()).translate(["four"]) == ["[104]"]
    assert asked == [([[4, 77]], 5, 6, (7, 5, 8))]


def test_a_model_of_two_vocabularies_translates(separate_run: TinyRun) -> None:
    separate_run.publish(1, separate_run.model(seed=1))
    translated = load_translator(separate_run.directory, "cpu").translate(sentences(6, seed=3))
    assert len(set(translated)) > 3


def test_the_stream_translates_the_same_lines(translator: Translator) -> None:
    lines = ["", *sentences(FIRST_CHUNK + 6, seed=4)]
    streamed = list(translator.translate_stream((f"{line}\n" for line in lines), beam_size=2))
    assert streamed == translator.translate(lines, beam_size=2)


def test_decoding_settings_come_from_the_configuration_unless_given(tiny_run: TinyRun) -> None:
    model, lines = tiny_run.model(seed=1), sentences(20, seed=5)
    wide = EvaluationConfig(beam_size=5, length_penalty=2.0)
    translator = Translator(model, tiny_run.tokenizers, 24, wide)
    greedy = translator.translate(lines, beam_size=1, length_penalty=0.0)
    assert translator.translate(lines) == translator.translate(lines, 5, 2.0) != greedy
    with pytest.raises(UserError, match="at least 0, but is -1"):
        translator.translate(lines, length_penalty=-1.0)


def test_a_line_beyond_the_limit_is_translated_in_pieces_with_one_warning(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = " ".join(sentences(3, seed=6)) + ".", " ".join(sentences(3, seed=7))
    with caplog.at_level(logging.WARNING):
        together, short = translator.translate([f"{first} {second}", "aei"])
        translator.translate([" ".join(sentences(40, seed=8))])
    assert together == " ".join(translator.translate([first, second]))
    assert short == translator.translate(["aei"])[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "data.max_length, 24" in caplog.text
    assert "line 1 has 116 tokens" in caplog.text


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("short enough", 12, ["short enough"]),
        ("A b. C d! E f? G h.", 10, ["A b. C d!", "E f? G h."]),
        ("No. end of sentence in the middle", 15, ["No.", "end of sentence", "in the middle"]),
        ("无空格。也可以切。", 5, ["无空格。", "也可以切。"]),
        ("abcdefgh", 3, ["ab", "cd", "ef", "gh"]),
        ("1.000.000 is one number", 14, ["1.000.000", "is one number"]),
        ("", 3, [""]),
        ("x", 0, ["x"]),
    ],
)
def test_pieces_fit_and_lose_nothing_but_space(text: str, limit: int, pieces: list[str]) -> None:
    assert split(text, lambda piece: len(piece) <= limit) == pieces


def test_batches_hold_similar_lengths_within_the_budget() -> None:
    lengths = [5, 1, 9, 3, 3, 8, 200, 2, 7]
    batches = list(batches_by_length(lengths, 20, max_sentences=3))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert batches[0] == [6]
    assert max(len(batch) for batch in batches) == 3
    for batch in batches[1:]:
        assert len(batch) * max(lengths[i] for i in batch) <= 20
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(("beam_size", "vocab_size", "most"), [(1, 8000, 2097), (4, 8000, 524), (8, 32000, 65)])
def test_short_lines_are_decoded_in_batches_bounded_by_the_vocabulary(
    beam_size: int, vocab_size: int, most: int
) -> None:
    assert max_batch_sentences(beam_size, vocab_size) == most
    assert max_batch_sentences(10_000, 1_000_000) == 1


def test_a_typed_line_comes_back_before_the_next_is_typed() -> None:
    """Each line is only typed once the chunk with the one before it has come."""
    typed: queue.Queue[str | None] = queue.Queue()
    chunks = ready_chunks(iter(typed.get, None))
    for line in ("one", "two", "three"):
        typed.put(line)
        assert next(chunks) == [line]
    typed.put(None)
    assert list(chunks) == []


def test_a_file_comes_in_growing_chunks() -> None:
    sizes = [len(chunk) for chunk in ready_chunks(["line"] * (2 * LARGEST_CHUNK))]
    assert sum(sizes) == 2 * LARGEST_CHUNK
    assert sizes[:3] == [FIRST_CHUNK, 2 * FIRST_CHUNK, 4 * FIRST_CHUNK]
    assert max(sizes) <= LARGEST_CHUNK


def test_what_the_input_raises_comes_after_the_lines_before_it() -> None:
    def broken() -> Iterator[str]:
        yield "first"
        raise ValueError("line 2 is not UTF-8")

    chunks = ready_chunks(broken())
    assert next(chunks) == ["first"]
    with pytest.raises(ValueError, match="line 2"):
        next(chunks)


def test_the_reader_runs_ahead_by_a_bounded_number_of_lines() -> None:
    taken = 0
    blocked = threading.Event()

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            if taken == LARGEST_CHUNK:
                blocked.set()
            yield "line"

    next(ready_chunks(endless()))
    assert blocked.wait(10)
    assert taken <= LARGEST_CHUNK + FIRST_CHUNK + 2
