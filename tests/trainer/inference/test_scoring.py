"""Scores are sacreBLEU's published numbers; line files fail with one sentence."""

import csv
import gzip
import os
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.inference.scoring import read_lines, score

HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
FIRST_REFERENCE = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND_REFERENCE = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def test_two_references_score_what_the_sacrebleu_readme_says() -> None:
    scores = score(HYPOTHESES, [FIRST_REFERENCE, SECOND_REFERENCE])
    assert scores.bleu == pytest.approx(48.530827, abs=1e-6)
    assert scores.bleu_signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores.chrf_signature.startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


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


@pytest.mark.parametrize("name", ["text.de", "text.de.gz"])
def test_lines_are_split_at_line_feeds_only(tmp_path: Path, name: str) -> None:
    content = "eins\u2028noch eins\n\nzwei\x0b\x85\rdrei".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_lines(path) == ["eins\u2028noch eins", "", "zwei\x0b\x85\rdrei"]
    path.write_bytes(gzip.compress(content + b"\n") if name.endswith(".gz") else content + b"\n")
    assert len(read_lines(path)) == 3


def test_unreadable_files_are_told_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.txt cannot be read"):
        read_lines(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"line 2 of .*latin.txt is not valid UTF-8"):
        read_lines(tmp_path / "latin.txt")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"a line\n" * 1000)[:-20])
    with pytest.raises(UserError, match=r"torn\.gz is not a complete gzip file"):
        read_lines(tmp_path / "torn.gz")
    (tmp_path / "plain.gz").write_bytes(b"a line\n")
    with pytest.raises(UserError, match=r"plain\.gz cannot be read"):
        read_lines(tmp_path / "plain.gz")


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
        assert (scores.bleu, scores.chrf) == (pytest.approx(float(bleu)), pytest.approx(float(chrf))), system
