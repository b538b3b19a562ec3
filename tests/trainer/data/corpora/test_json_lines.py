"""JSON lines give the two texts of every object, or the line that has none."""

from pathlib import Path
from typing import Any

import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import read_pairs
from trainer.errors import UserError

GOOD = '{"en": "one", "de": "eins", "score": 0.5}'


def read(path: Path, *rows: str, **settings: Any) -> list[tuple[str, str]]:
    path.write_text("\n".join(rows))
    corpus = CorpusConfig(jsonl=str(path), **(settings or {"columns": ("en", "de")}))
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def test_the_texts_of_two_keys(tmp_path: Path) -> None:
    rows = [GOOD, r'{"de": "Gr\u00fc\u00dfe\n\ud83d\ude00", "en": null}']
    assert read(tmp_path / "a.jsonl", *rows) == [("one", "eins"), ("", "Grüße\n😀")]


def test_the_texts_of_two_languages(tmp_path: Path) -> None:
    rows = ['{"translation": {"de": "eins", "en": "one"}}', GOOD]
    assert read(tmp_path / "a.jsonl", *rows, languages=("en", "de")) == [("one", "eins"), ("one", "eins")]


@pytest.mark.parametrize("settings", [{"columns": ("en", "de")}, {"languages": ("en", "de")}])
def test_blank_lines_are_left_out_and_counted(settings: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    rows = ["", GOOD, " \t", "", GOOD, "", ""]
    assert read(tmp_path / "a.jsonl", *rows, **settings) == [("one", "eins")] * 2
    with pytest.raises(UserError, match=r"a\.jsonl, line 8 is not valid JSON"):
        read(tmp_path / "a.jsonl", *rows, "{", **settings)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"en": "one", ', "is not valid JSON"),
        ('{"en": "one", "fr": "un"}', "has no key 'de', but 'en', 'fr'"),
        ('{"en": "one", "de": 1}', "'de' must be a text, but is 1"),
        ('{"en": "one", "de": ["eins"]}', r"'de' must be a text, but is \[\"eins\"\]"),
        ('["one", "eins"]', r"holds \[\"one\", \"eins\"\], which is no JSON object"),
        ("3", "holds 3, which is no JSON object"),
        ("[" * 100_000 + "]" * 100_000, "nests lists or objects too deeply"),
        ('{"en": "one", "de": ' + "[" * 100_000 + "]" * 100_000 + "}", "nests lists or objects too deeply"),
        ('{"en": "one", "de": ' + '{"a": ' * 100_000, "nests lists or objects too deeply"),
        ('{"en": "one", "de": ' + "9" * 5_000 + "}", "'de' must be a text, but is Infinity"),
        ('{"en": "one", "de": NaN}', "'de' must be a text, but is NaN"),
        ('{"en": "one", "x\\ud83d' + "y" * 500 + '": 1}', r"has no key 'de', but 'en', 'x\\ud83dy{150,200}\.\.\."),
        (r'{"en": "one", "de": "\ud83d"}', "'de' has half a surrogate pair"),
    ],
)
@pytest.mark.parametrize("setting", ["columns", "languages"])
def test_a_line_without_two_texts_is_located(row: str, message: str, setting: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl, line 3.? {message}"):
        read(tmp_path / "a.jsonl", GOOD, GOOD, row, GOOD, **{setting: ("en", "de")})


def test_a_large_number_next_to_the_texts_is_no_concern(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"en": "one", "de": "eins", "id": ' + "9" * 5_000 + "}") == [("one", "eins")]


@pytest.mark.parametrize(
    ("row", "message"),
    [('{"translation": {"en": "one"}}', " has no key 'de', but 'en'"), ('{"translation": null}', " holds null")],
)
def test_a_translation_without_the_languages_is_located(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2{message}"):
        read(tmp_path / "a.jsonl", GOOD, row, languages=("en", "de"))
