"""Translates text: lines to token ids, beam search in batches of similar length, and back to lines in order."""

import logging
import math
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from model.search import SearchableModel, SearchConfig, search
from trainer.configuration.sections import EvaluationConfig
from trainer.data.text.tokenizer import TokenizerPair
from trainer.errors import UserError
from trainer.inference.model_directory import load

MAX_BATCH_TOKENS = 2048  # source tokens of a batch, padding counted; `beam_size` times as many rows are decoded
MAX_BATCH_LOGITS = 2**24  # rows times vocabulary of a decoding step: 64 MiB in fp32, a few times that in all
FIRST_CHUNK, LARGEST_CHUNK = 64, 4096  # lines read before the first and before the later translations
PATIENCE_SECONDS = 0.05  # how long a chunk waits for the next line before it goes with what it has

_SENTENCE_END = re.compile(r"""[.!?…;:]["'»”)\]]*\s+|[。！？；]""")
_WORD_END = re.compile(r"\s+")
_ANYWHERE = re.compile(r"(?<=.)(?=.)", re.DOTALL)

_log = logging.getLogger(__name__)


class Translator:
    """Translates lines of text with one model.

    `max_length` is the longest source in tokens, eos included, that the model was trained on; a longer line is
    translated in pieces. `decoding` has the beam size and the length penalty for calls without them.
    """

    def __init__(
        self,
        model: SearchableModel,
        tokenizers: TokenizerPair,
        max_length: int,
        decoding: EvaluationConfig,
        device: torch.device | str = "cpu",
        quiet: bool = False,
    ) -> None:
        """`quiet` suppresses the warning of the first line that is too long."""
        self._model, self._tokenizers, self._device = model, tokenizers, device
        self._max_length, self.decoding = max_length, decoding
        self._warned = quiet

    def translate(
        self,
        lines: Sequence[str],
        beam_size: int | None = None,
        length_penalty: float | None = None,
        after_batch: Callable[[], None] = lambda: None,
        first_line: int = 1,
    ) -> list[str]:
        """Returns one translation per line, in order. The translation of a blank line is empty.

        `after_batch` is called after each batch; an exception that it raises ends the work. `first_line` is the number
        of the first line, for the warning.
        """
        encoded = self._tokenizers.source.encode(lines)
        numbered = enumerate(zip(lines, encoded, strict=True), first_line)
        pieces = [self._encode(number, line, ids) for number, (line, ids) in numbered]
        config = self._search_config(beam_size, length_penalty)
        translated = iter(self._search([ids for group in pieces for ids in group], config, after_batch))
        return [" ".join(next(translated) for _ in group) for group in pieces]

    def translate_stream(
        self, lines: Iterable[str], beam_size: int | None = None, length_penalty: float | None = None
    ) -> Iterator[str]:
        """Like `translate`, for lines that arrive over time: yields what is ready when no more lines are waiting."""
        first_line = 1
        for chunk in ready_chunks(lines):
            texts = [line.removesuffix("\n") for line in chunk]
            yield from self.translate(texts, beam_size, length_penalty, first_line=first_line)
            first_line += len(chunk)

    def _encode(self, number: int, line: str, ids: list[int]) -> list[list[int]]:
        """The sources to translate for a line with the token ids `ids`: none if it is blank, several if it is too long.

        No source is longer than the model's limit, so the memory of a batch does not depend on the lines.
        """
        if not ids:
            return []
        if self._fits(ids):
            return [ids]
        if not self._warned:
            self._warned = True
            _log.warning(
                "line %d has %d tokens, which is longer than the model's limit (data.max_length, %d): it and others "
                "like it are translated in pieces",
                number,
                len(ids) + 1,
                self._max_length,
            )
        pieces = split(line, lambda text: self._fits(self._tokenizers.source.encode([text])[0]))
        return self._tokenizers.source.encode(pieces)

    def _fits(self, ids: list[int]) -> bool:
        return len(ids) < self._max_length

    def _search(self, pieces: list[list[int]], config: SearchConfig, after_batch: Callable[[], None]) -> list[str]:
        """Returns the text of the best hypothesis for each source. The sources come without eos."""
        sources = [[*ids, self._tokenizers.source.eos_id] for ids in pieces]
        best: list[list[int]] = [[] for _ in sources]
        max_sentences = max_batch_sentences(config.beam_size, self._tokenizers.target.vocab_size)
        for batch in batches_by_length([len(source) for source in sources], MAX_BATCH_TOKENS, max_sentences):
            results = search(self._model, [sources[i] for i in batch], config, self._device)
            for i, hypotheses in zip(batch, results, strict=True):
                best[i] = hypotheses[0].ids if hypotheses else []
            after_batch()
        # The byte pieces can spell a line feed, and one line must stay one line.
        return [" ".join(text.splitlines()) for text in self._tokenizers.target.decode(best)]

    def _search_config(self, beam_size: int | None, length_penalty: float | None) -> SearchConfig:
        target = self._tokenizers.target
        if length_penalty is not None and not 0 <= length_penalty < math.inf:
            raise UserError(f"the length penalty must be a number that is at least 0, but is {length_penalty}.")
        return SearchConfig(
            bos_id=target.bos_id,
            eos_id=target.eos_id,
            forbidden_ids=(target.pad_id, target.bos_id, target.unk_id),
            beam_size=self.decoding.beam_size if beam_size is None else beam_size,
            length_penalty=self.decoding.length_penalty if length_penalty is None else length_penalty,
        )


def load_translator(path: Path, device: str = "auto") -> Translator:
    """Loads a translator from a model directory, a run directory or a checkpoint. Raises UserError as `load` does."""
    loaded = load(path, device)
    config = loaded.config
    return Translator(loaded.model, loaded.tokenizers, config.data.max_length, config.evaluation, loaded.device)


def max_batch_sentences(beam_size: int, vocab_size: int) -> int:
    """Returns how many sentences to decode at once: a step has at most `MAX_BATCH_LOGITS` logits; at least one."""
    return max(1, MAX_BATCH_LOGITS // (beam_size * vocab_size))


def batches_by_length(lengths: Sequence[int], max_tokens: int, max_sentences: int) -> Iterator[list[int]]:
    """Yields indices in batches of similar length: at most `max_tokens` with padding (or one longer sentence) each.

    No batch has more than `max_sentences`. The longest come first: if memory runs out, it does so at once.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == max_sentences or (len(batch) + 1) * lengths[batch[0]] > max_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Returns pieces of a text that all fit, without the space between them.

    Cuts as near the middle as possible at the end of a sentence or clause, otherwise between words, otherwise anywhere.
    """
    text = text.strip()
    if len(text) < 2 or fits(text):
        return [text]
    for boundary in (_SENTENCE_END, _WORD_END, _ANYWHERE):
        cuts = [match.end() for match in boundary.finditer(text) if match.end() < len(text)]
        if cuts:
            break
    cut = min(cuts, key=lambda position: abs(2 * position - len(text)))
    return split(text[:cut], fits) + split(text[cut:], fits)


def ready_chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yields lines in chunks without waiting long for more.

    A line typed at a terminal is a chunk of its own; a file comes in chunks that double from `FIRST_CHUNK` to
    `LARGEST_CHUNK`. A thread reads ahead by one chunk; its exceptions are raised here, after the lines before them.
    """
    waiting: queue.Queue[str | BaseException | None] = queue.Queue(LARGEST_CHUNK)
    threading.Thread(target=_read_into, args=(lines, waiting), daemon=True).start()
    size = FIRST_CHUNK
    while True:
        chunk, end = _next_chunk(waiting, size)
        if chunk:
            yield chunk
        if isinstance(end, BaseException):
            raise end
        if end:
            return
        size = min(2 * size, LARGEST_CHUNK)


def _read_into(lines: Iterable[str], waiting: "queue.Queue[str | BaseException | None]") -> None:
    end: BaseException | None = None
    try:
        for line in lines:
            waiting.put(line)
    except BaseException as error:
        end = error
    waiting.put(end)


def _next_chunk(
    waiting: "queue.Queue[str | BaseException | None]", size: int
) -> tuple[list[str], BaseException | bool]:
    """Returns up to `size` lines, and whether the input has ended (or the exception that ended it)."""
    item = waiting.get()
    chunk: list[str] = []
    while isinstance(item, str):
        chunk.append(item)
        if len(chunk) == size:
            return chunk, False
        try:
            item = waiting.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            return chunk, False
    return chunk, True if item is None else item
