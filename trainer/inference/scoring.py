"""BLEU and chrF as sacreBLEU computes them, and the line files they are computed from. The only door to sacreBLEU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF

from trainer.data.corpora.lines import line_blocks
from trainer.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Corpus scores from 0 to 100; a signature says how its score was computed, version included."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Scores with sacreBLEU's defaults (BLEU: 13a, cased, exp smoothing; chrF2), detokenised text against as many
    references as there are. Raises UserError where the numbers of lines differ or there is nothing to score."""
    check_counts(len(hypotheses), references)
    bleu, chrf = BLEU(), CHRF()
    streams = [list(reference) for reference in references]
    bleu_score, chrf_score = (metric.corpus_score(list(hypotheses), streams).score for metric in (bleu, chrf))
    return Scores(bleu_score, chrf_score, bleu.get_signature().format(), chrf.get_signature().format())


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """chrF2 of one sentence, from 0 to 100."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def check_counts(num_hypotheses: int, references: Sequence[Sequence[str]]) -> None:
    """Raises UserError where the numbers of lines differ or there is nothing to score."""
    for number, reference in enumerate(references, 1):
        if len(reference) != num_hypotheses:
            raise UserError(
                f"there are {num_hypotheses} hypotheses but {len(reference)} lines in reference {number}: "
                "both need one line a sentence, in the same order"
            )
    if not num_hypotheses:
        raise UserError("there is nothing to score: hypotheses and references have no lines")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or compressed, as the readers of training data split and decode them.

    Raises UserError, naming file and line, if the file is missing, damaged, an archive or not UTF-8.
    """
    return [line for block in line_blocks(str(path)) for line in block]
