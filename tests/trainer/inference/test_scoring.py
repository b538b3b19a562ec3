"""Scores are sacreBLEU's published numbers; line files fail with one sentence."""

import bz2
import csv
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from trainer.errors import UserError
from trainer.inference import scoring
from trainer.inference.scoring import check_tokenize, read_lines, score, tokenize_warning

HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
FIRST_REFERENCE = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND_REFERENCE = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def test_two_references_score_what_the_sacrebleu_readme_says() -> None:
    scores = score(HYPOTHESES, [FIRST_REFERENCE, SECOND_REFERENCE])
    assert scores.bleu == pytest.approx(48.530827, abs=1e-6)
    assert scores.bleu_signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores.chrf_signature.startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


CHINESE = ["今天天气很好，我们去公园散步吧。", "他昨天在图书馆借了三本关于历史的书。"]
WORSE_CHINESE = ["今天天气很坏，我们去公园散步吧。", "他昨天在图书馆借了两本关于历史的书。"]


def test_languages_without_spaces_are_scored_by_their_own_tokenizer() -> None:
    assert score(WORSE_CHINESE, [CHINESE]).bleu < 1
    scores = score(WORSE_CHINESE, [CHINESE], "zh")
    assert 60 < scores.bleu < 95
    assert "|tok:zh|" in scores.bleu_signature
    assert "|tok:char|" in score(WORSE_CHINESE, [CHINESE], "char").bleu_signature


@pytest.mark.parametrize(
    ("texts", "tokenize", "warns"),
    [
        (CHINESE, "13a", True),
        (CHINESE, "intl", True),
        (CHINESE, "zh", False),
        (CHINESE, "char", False),
        (["これは本です。", "猫が好きです。"], "13a", True),
        (["วันนี้อากาศดีมาก"], "13a", True),
        (["ຂ້ອຍຮັກເຈົ້າ"], "13a", True),
        (["ខ្ញុំស្រឡាញ់អ្នក"], "13a", True),
        (["ငါမင်းကိုချစ်တယ်"], "13a", True),
        (["나는 학교에 갑니다."], "13a", False),
        (["The word 漢字 means Chinese characters."], "13a", False),
        (["12:30", ""], "13a", False),
    ],
)
def test_text_without_spaces_is_warned_of(texts: list[str], tokenize: str, warns: bool) -> None:
    assert (tokenize_warning(tokenize, texts) is not None) == warns


def test_a_tokenizer_that_lacks_its_model_or_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SACREBLEU_DIR", "/nowhere")
    with pytest.raises(UserError, match=r"flores200 needs the file /nowhere/models/flores200sacrebleuspm"):
        check_tokenize("flores200")
    monkeypatch.setattr(scoring, "BLEU", raising)
    with pytest.raises(UserError, match=r"ja-mecab cannot be used here \(it needs more\): `pip install sacrebleu\[ja"):
        check_tokenize("ja-mecab")


def raising(tokenize: str) -> None:
    raise RuntimeError(f"\n\nit needs more\n{tokenize}")


def test_a_perfect_hypothesis_scores_100() -> None:
    scores = score(FIRST_REFERENCE, [FIRST_REFERENCE])
    assert scores.bleu == pytest.approx(100.0)
    assert scores.chrf == pytest.approx(100.0)


def test_different_numbers_of_lines_are_told_with_both_counts() -> None:
    with pytest.raises(UserError, match="3 hypotheses but 2 lines in reference 2"):
        score(HYPOTHESES, [FIRST_REFERENCE, SECOND_REFERENCE[:2]])


def test_no_lines_are_nothing_to_score() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score([], [[]])


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.compress),
    ],
)
def test_lines_are_those_of_training_whatever_compressed_them(
    ending: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"text.de{ending}"
    for content in (
        "\ufeffeins\u2028noch eins\r\n\nzwei\x0b\x85\rdrei",
        "\ufeffeins\u2028noch eins\n\nzwei\x0b\x85\rdrei\n",
    ):
        path.write_bytes(compress(content.encode()))
        assert read_lines(path) == ["eins\u2028noch eins", "", "zwei\x0b\x85\rdrei"]
    path.write_bytes(compress(b""))
    assert read_lines(path) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "gut\nsch\xf6n\n".encode("latin-1"), r"latin\.txt, line 2: byte 0xf6 is not valid UTF-8"),
        ("torn.gz", gzip.compress(b"a line\n" * 1000)[:-20], r"torn\.gz is cut off after line"),
        ("plain.gz", b"a line\n", r"plain\.gz cannot be read"),
    ],
    ids=["no UTF-8", "cut off", "no gzip"],  # a gzip file holds the time of day
)
def test_unreadable_files_are_told_with_their_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / name)
    with pytest.raises(UserError, match=r"missing\.txt does not exist"):
        read_lines(tmp_path / "missing.txt")


@pytest.mark.slow
def test_published_wmt21_scores_are_reproduced() -> None:
    data = os.environ.get("DRAGOMAN_DATA")
    if data is None:
        pytest.skip("DRAGOMAN_DATA is not set: the published WMT21 English-German scores were not reproduced")
    folder = Path(data) / "reference" / "wmt21-en-de"
    references = {name: read_lines(folder / f"newstest2021.en-de.ref.{name}.de.gz") for name in "ACD"}
    with (folder / "scores.tsv").open() as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not row[0].startswith("#")]
    for _, system, reference, bleu, _, chrf, *_ in rows:
        hypotheses = read_lines(folder / f"newstest2021.en-de.hyp.{system}.de.gz")
        chosen = list(references.values()) if reference == "all" else [references[reference]]
        scores = score(hypotheses, chosen)
        assert [scores.bleu, scores.chrf] == pytest.approx([float(bleu), float(chrf)]), system
