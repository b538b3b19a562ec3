"""Every filter at its edge, the order they count in, and that nothing but the pair itself decides."""

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.config import FilterConfig
from trainer.data.preparation.filters import REASONS, PairFilter
from trainer.errors import Unavailable, UserError

OFF = FilterConfig(empty=False, max_length_ratio=None, copies=False, min_letters=None)
SENTENCES = (
    "",
    " \t\u3000",
    "\u200b\ufeff",
    "Yes.",
    "Ja, natürlich.",
    "12:30",
    "★" * 30,
    "A sentence that is somewhat longer than the others, and then some more of it.",
    "今天天气很好，我们去公园散步吧。",
    "मैं हिन्दी पढ़ता हूँ।",
    "\ud800 half a pair",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👍👍👍👍👍👍👍👍👍👍",
)


def reason(source: str, target: str, config: FilterConfig = OFF) -> str:
    return REASONS[PairFilter(config).judge([source], [target])[0]]


def test_ordinary_text_is_kept_by_the_defaults() -> None:
    for source, target in [
        ("Yes.", "Ja."),
        ("Yes.", "Ja, aber selbstverständlich."),
        ("It is 10 o'clock.", "Es ist 10 Uhr."),
        ("The weather is very nice today, let us go for a walk in the park.", "今天天气很好，我们去公园散步吧。"),
        ("I can read Hindi.", "मैं हिन्दी पढ़ता हूँ।"),
    ]:
        assert reason(source, target, FilterConfig()) == ""


@pytest.mark.parametrize(
    "nothing",
    [
        "",
        " ",
        "\t\u3000\u2028",
        "\u200b\u00ad\ufeff",
        "\x00",
        *"\u3164\uffa0\u115f\u1160\ufe0f\u034f\u17b4\u180b\u2065\u2800\U000e0100",
    ],
)
def test_a_side_without_visible_text_is_empty(nothing: str) -> None:
    config = FilterConfig()
    assert reason(nothing, "Text.", config) == "empty source"
    assert reason("Text.", nothing, config) == "empty target"
    assert reason(nothing, nothing, config) == "empty source"
    assert reason(nothing, nothing) == ""
    assert reason(nothing + ".", "Text.", FilterConfig(min_letters=None)) == ""


def test_the_length_ratio_counts_ten_characters_more_on_each_side() -> None:
    config = FilterConfig(max_length_ratio=3.0)
    assert reason("a" * 5, "b" * 35, config) == ""
    assert reason("a" * 5, "b" * 36, config) == "length ratio"
    assert reason("a" * 36, "b" * 5, config) == "length ratio"
    assert reason("a" * 5, "b" * 36) == ""


def test_a_copy_is_equal_but_for_the_space_around_it() -> None:
    config = FilterConfig()
    assert reason("Nelson Mandela", "Nelson Mandela", config) == "copy"
    assert reason("Nelson Mandela ", "Nelson Mandela", config) == "copy"
    assert reason("Nelson Mandela.", "Nelson Mandela", config) == ""
    assert reason("Nelson Mandela", "Nelson Mandela") == ""


def test_the_share_of_letters_is_that_among_the_characters_that_can_be_seen() -> None:
    config = FilterConfig(min_letters=0.5)
    assert reason("a b 1 2", "Text.", config) == ""
    assert reason("a b 1 2 3", "Text.", config) == "few letters"
    assert reason("Text.", "a b 1 2 3", config) == "few letters"
    assert reason("a b 1 2 3", "Text.") == ""
    assert reason("a\u200b\u200b\u200b 1", "Text.", config) == ""


def test_marks_and_letters_beyond_the_first_plane_are_letters() -> None:
    config = FilterConfig(min_letters=1.0)
    for letters in ("हिन्दी", "e\u0301", "שָׁלוֹם", "𝔘𝔫", "漢字", "ไทยนี้"):
        assert reason(letters, "Text", config) == "", letters
    for others in ("a1", "a.", "a👍", "a_"):
        assert reason(others, "Text", config) == "few letters", others


def test_the_first_filter_that_rejects_counts() -> None:
    config = FilterConfig(max_length_ratio=1.5)
    assert reason("", "", config) == "empty source"
    assert reason("", "1" * 100, config) == "empty source"
    assert reason("1", "1" * 100, config) == "length ratio"
    assert reason("123", "123", config) == "copy"
    assert reason("123", "124", config) == "few letters"


def test_a_side_without_text_has_no_share_of_letters() -> None:
    assert reason("", "Text", FilterConfig(empty=False)) == ""


def test_a_block_is_judged_as_its_single_pairs() -> None:
    draw = random.Random(3)
    sources, targets = draw.choices(SENTENCES, k=400), draw.choices(SENTENCES, k=400)
    config = FilterConfig(max_length_ratio=2.0)
    codes = PairFilter(config).judge(sources, targets)
    assert [REASONS[code] for code in codes] == [reason(*pair, config) for pair in zip(sources, targets, strict=True)]
    assert {REASONS[code] for code in codes} == set(REASONS[:6])


@pytest.mark.parametrize("config", [FilterConfig(), OFF])
def test_a_block_without_pairs_or_without_text(config: FilterConfig) -> None:
    assert PairFilter(config).judge([], []).tolist() == []
    assert len(PairFilter(config).judge(["", ""], ["", ""])) == 2


@pytest.fixture
def identifier(tmp_path: Path) -> str:
    """Recognises German by its umlauts; refuses text of digits only, and answers too little where a text says so."""
    path = tmp_path / "my_identifier.py"
    path.write_text(
        "def identify(texts):\n"
        "    if any(text.isdigit() for text in texts):\n"
        "        raise ValueError('no language at all')\n"
        "    codes = ['de' if set(text) & set('äöüß') else 'en' for text in texts]\n"
        "    return codes[:-1] if 'lose one' in texts else codes\n"
        "number = 3\n"
    )
    return f"{path}:identify"


def test_pairs_in_other_languages_are_left_out(identifier: str) -> None:
    config = FilterConfig(language_id=identifier, languages=("en", "de"))
    sources = ["a fine day", "schöner Tag", "a fine day", "12", "a day"]
    targets = ["schöner Tag", "schöner Abend", "a fine evening", "schöner Tag", "Öl für Häuser"]
    codes = PairFilter(config).judge(sources, targets)
    # The digits never reach the identifier.
    assert [REASONS[code] for code in codes] == ["", "wrong language", "wrong language", "few letters", ""]


def test_the_identifier_is_not_asked_about_nothing(identifier: str) -> None:
    config = FilterConfig(language_id=identifier, languages=("en", "de"))
    assert reason("", "", config) == "empty source"


def test_the_identifier_may_be_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "language_of_module.py").write_text("def identify(texts): return ['xx'] * len(texts)")
    monkeypatch.syspath_prepend(tmp_path)
    config = FilterConfig(language_id="language_of_module:identify", languages=("xx", "xx"))
    assert reason("a word", "ein Wort", config) == ""


def test_the_identifier_goes_along_to_another_process(identifier: str, tmp_path: Path) -> None:
    pair_filter = PairFilter(FilterConfig(language_id=identifier, languages=("de", "de")))
    (tmp_path / "filter.pickle").write_bytes(pickle.dumps(pair_filter))
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'filter.pickle')!r}, 'rb')).judge(['a'], ['bc']))"
    root = Path(__file__).parents[4]
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(root)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"[{REASONS.index('wrong language')}]"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((":identify", ":guess"), ["has no function 'guess'"]),
        ((":identify", ":number"), ["has no function 'number'"]),
        (("my_identifier", "other"), ["other.py cannot be imported", "FileNotFoundError"]),
    ],
)
def test_an_identifier_that_is_not_there(identifier: str, change: tuple[str, str], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        PairFilter(FilterConfig(language_id=identifier.replace(*change), languages=("en", "de")))
    assert all(word in str(refused.value) for word in ["`data.filters.language_id`", *words])


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no_such_module cannot be imported \(ModuleNotFoundError"):
        PairFilter(FilterConfig(language_id="no_such_module:identify", languages=("en", "de")))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["12", "a"], "failed on 2 texts with ValueError: no language at all"),
        (["a", "lose one"], "must return one language code for each text, but returned 1 for 2"),
    ],
)
def test_an_identifier_that_fails(identifier: str, texts: list[str], words: str) -> None:
    config = FilterConfig(min_letters=None, language_id=identifier, languages=("en", "de"))
    with pytest.raises(UserError) as refused:
        PairFilter(config).judge(texts, ["schön", "schön und gut"])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    # What fails may go well at the next start, so that the parts that are finished are worth keeping.
    assert isinstance(refused.value, Unavailable) == ("failed" in words)


def test_filtering_needs_no_torch() -> None:
    code = "import sys; import trainer.data.preparation.filters; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], check=True)
