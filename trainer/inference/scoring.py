"""BLEU and chrF as sacreBLEU computes them, and the line files they are computed from. The only door to sacreBLEU."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.utils import SACREBLEU_DIR

from trainer.data.corpora.lines import line_blocks
from trainer.errors import UserError, error_line

DEFAULT_TOKENIZE = "13a"

# Models that sacreBLEU would fetch from the network: the name of the file in its folder of models.
_MODELS = {"flores101": "sacrebleu_tokenizer_spm.model", "flores200": "flores200sacrebleuspm"}
_PACKAGES = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}
_BY_SPACES = ("13a", "intl", "none")
# Han, kana, Thai, Lao, Tibetan, Myanmar and Khmer: scripts that do not put a space between words.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Scores:
    """Corpus scores from 0 to 100. A signature says how its score was computed, sacreBLEU's version included."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = DEFAULT_TOKENIZE) -> Scores:
    """Scores detokenised text against one or more references, as sacreBLEU does (BLEU: cased, exp smoothing; chrF2).

    `tokenize` names sacreBLEU's tokenizer for BLEU. Raises UserError if the numbers of lines differ, if there is
    nothing to score, or if the tokenizer cannot be used here.
    """
    check_counts(len(hypotheses), references)
    bleu, chrf = _bleu(tokenize), CHRF()
    streams = [list(reference) for reference in references]
    bleu_score, chrf_score = (metric.corpus_score(list(hypotheses), streams).score for metric in (bleu, chrf))
    return Scores(bleu_score, chrf_score, bleu.get_signature().format(), chrf.get_signature().format())


def check_tokenize(tokenize: str) -> None:
    """Raises UserError if a tokenizer needs a package or a model that this machine lacks. Asks no network."""
    _bleu(tokenize)


def _bleu(tokenize: str) -> BLEU:
    model = os.path.join(SACREBLEU_DIR, "models", _MODELS.get(tokenize, ""))
    if tokenize in _MODELS and not os.path.isfile(model):
        raise UserError(
            f"`evaluation.tokenize` {tokenize} needs the file {model}, which does not exist: let "
            f"`sacrebleu --tokenize {tokenize}` fetch it on a machine with a network, or choose char."
        )
    try:
        return BLEU(tokenize=tokenize)
    except (RuntimeError, ImportError, AssertionError, OSError) as error:
        remedy = f"`pip install {_PACKAGES[tokenize]}`, or choose char" if tokenize in _PACKAGES else "choose another"
        raise UserError(
            f"`evaluation.tokenize` {tokenize} cannot be used here ({error_line(error, with_type=False)}): {remedy}."
        ) from None


def tokenize_warning(tokenize: str, references: Iterable[str]) -> str | None:
    """One sentence if a tokenizer that splits at spaces meets text that is mostly of a script without them."""
    text = "".join(references)
    letters = sum(map(str.isalpha, text))
    without_spaces = len(_WITHOUT_SPACES.findall(text))
    if tokenize not in _BY_SPACES or 2 * without_spaces <= letters or not without_spaces:
        return None
    return (
        f"BLEU with the tokenizer {tokenize} is close to 0 for text without spaces between words, which the references "
        "are: set `evaluation.tokenize` (`dragoman evaluate --tokenize`) to zh, ja-mecab, char or flores200."
    )


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """chrF2 of one sentence, from 0 to 100."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def check_counts(num_hypotheses: int, references: Sequence[Sequence[str]]) -> None:
    """Raises UserError if the numbers of lines differ or there is nothing to score."""
    for number, reference in enumerate(references, 1):
        if len(reference) != num_hypotheses:
            raise UserError(
                f"there are {num_hypotheses} hypotheses but {len(reference)} lines in reference {number}: "
                "both need one line per sentence, in the same order."
            )
    if not num_hypotheses:
        raise UserError("there is nothing to score: hypotheses and references have no lines.")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or compressed, as the readers of training data split and decode them.

    Raises UserError, naming file and line, if the file is missing, damaged, an archive or not UTF-8.
    """
    return [line for block in line_blocks(str(path)) for line in block]
