"""Text to token ids and back; the one door to `sentencepiece`."""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from trainer.data.config import TokenizerConfig
from trainer.errors import UserError

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
"""The special ids of every model that we train."""

# A constant, because the number of threads decides the order of floating-point sums and with it the model.
_TRAINING_THREADS = 16


class Tokenizer:
    """A SentencePiece model with its special ids.

    An existing model may lack bos or pad; they then get ids of their own after the last piece, so `vocab_size` can be
    larger than the number of pieces. A model without eos is refused: a sentence could never end.
    """

    def __init__(self, model_bytes: bytes, path: str | os.PathLike[str] = "<memory>") -> None:
        self.model_bytes = model_bytes
        self.path = str(path)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model_bytes)
        except RuntimeError:
            raise UserError(f"{self.path} is not a SentencePiece model: give the file that ends in .model.") from None
        self._take_special_ids()

    def _take_special_ids(self) -> None:
        processor = self._processor
        self.vocab_size: int = processor.vocab_size()
        self.unk_id: int = processor.unk_id()
        self.eos_id: int = processor.eos_id()
        if self.eos_id < 0:
            raise UserError(f"{self.path} has no end-of-sentence piece: train it with eos_id set (SentencePiece's 2).")
        self.bos_id = self._id_or_new(processor.bos_id())
        self.pad_id = self._id_or_new(processor.pad_id())

    def _id_or_new(self, piece_id: int) -> int:
        if piece_id >= 0:
            return piece_id
        self.vocab_size += 1
        return self.vocab_size - 1

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a model file; UserError where it is missing, no model, or has no eos."""
        try:
            return cls(Path(path).read_bytes(), path)
        except OSError as error:
            raise UserError(f"the tokenizer {path} cannot be read: {error.strerror}.") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes: equal exactly where every text gets equal ids."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of each line without bos and eos, on all cores; an empty or blank line gives an empty list."""
        return self._processor.encode(list(lines), out_type=int, num_threads=os.cpu_count() or 1) if lines else []

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each sequence; special ids leave no trace in it."""
        num_pieces = self._processor.vocab_size()
        return [self._processor.decode([int(i) for i in sequence if i < num_pieces]) for sequence in ids]


def train_tokenizer(lines: Iterator[str], config: TokenizerConfig) -> Tokenizer:
    """A new model with byte fallback over all `lines` (both sides, so the vocabulary is joint).

    Deterministic on any number of cores. Raises UserError where the data allow no vocabulary of `vocab_size`.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            num_threads=_TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), config) from None
    return Tokenizer(model.getvalue())


def _training_error(message: str, config: TokenizerConfig) -> Exception:
    here = f"`tokenizer.vocab_size` is {config.vocab_size}"
    if found := re.search(r"set it to a value <= (\d+)", message):
        return UserError(f"{here}, but the training data allow at most {found[1]}: set it to {found[1]} or less.")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"{here}, but the characters of the training data alone need {found[1]}: "
            f"set it above {found[1]} or lower `tokenizer.character_coverage` ({config.character_coverage})."
        )
    if "sentences_.empty()" in message:
        return UserError("no tokenizer can be trained: the training data hold no text that SentencePiece can use.")
    return RuntimeError(message)
