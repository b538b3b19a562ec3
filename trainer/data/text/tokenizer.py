"""Text to token ids and back; the one door to `sentencepiece`.

Shape suffixes: N sentences, L their tokens.
"""

import hashlib
import io
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2

from trainer.data.config import TokenizerConfig
from trainer.data.text.segmentation import Pieces, Segmenter
from trainer.data.text.sentences import Side
from trainer.errors import UserError

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.source.model", "tokenizer.target.model")
"""The file names of the models in a run or a model directory: the first alone, or the other two."""

_JOINT, _SOURCE, _TARGET = TOKENIZER_FILES

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
"""The special ids of every model that we train."""

# A constant, because the number of threads decides the order of floating-point sums and with it the model.
_TRAINING_THREADS = 16


@dataclass(frozen=True)
class SpecialIds:
    """The special ids that packing needs; `bos_id` is the target's."""

    source_pad_id: int
    target_pad_id: int
    bos_id: int


class Tokenizer:
    """A SentencePiece model with its special ids; can be pickled.

    If an existing model lacks bos or pad, they get ids after the last piece, so `vocab_size` can be larger than the
    number of pieces. A model without eos is refused, because no translation could end. `path` is for messages.
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
        self._last_segmenter: Segmenter | None = None

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
        """Reads a model file. Raises UserError if it cannot be read, is no model, or has no eos."""
        try:
            return cls(Path(path).read_bytes(), path)
        except OSError as error:
            raise UserError(f"the tokenizer {path} cannot be read: {error.strerror}.") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.model_bytes, self.path)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes, as hexadecimal text."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of each line without bos and eos, on all cores. An empty or blank line gives an empty list."""
        return self._processor.encode(list(lines), out_type=int, num_threads=os.cpu_count() or 1) if lines else []

    def encode_side(self, lines: Sequence[str | bytes]) -> Side:
        """Ids (int32) of each line with eos at its end, on one thread. Lines of bytes are UTF-8."""
        texts: Any = list(lines)
        return _side(self._processor.encode(texts, out_type="numpy", add_eos=True, num_threads=1))

    def sample_side(self, lines: Sequence[str | bytes], strength: float, seed_N: NDArray[np.uint64]) -> Side:
        """Like `encode_side`, but each line in a segmentation drawn by its own seed alone; user symbols stay whole.

        `strength` as in `tokenizer.sampling`. Raises UserError if the model knows only one segmentation.
        """
        segmenter = self._segmenter(strength)
        normalized: Any = self._processor.normalize(
            [line if isinstance(line, str) else line.decode(errors="replace") for line in lines]
        )
        draws = zip(normalized, seed_N.tolist(), strict=True)
        return _side([np.array([*segmenter.draw(text, seed), self.eos_id], np.int32) for text, seed in draws])

    def check_sampling(self) -> None:
        """Raises UserError if the model's kind has only one segmentation of a sentence."""
        if self._kind not in ("UNIGRAM", "BPE"):
            raise UserError(
                f"`tokenizer.sampling` must be null with {self.path}, which is a {self._kind} model and knows only one "
                "segmentation of a sentence."
            )

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence; special ids are left out."""
        num_pieces = self._processor.vocab_size()
        return [self._processor.decode([int(i) for i in sequence if i < num_pieces]) for sequence in ids]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces of the ids, as SentencePiece writes them: `▁` for a space, `<0xE2>` for a byte."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    @cached_property
    def _model(self) -> Any:
        return sentencepiece_model_pb2.ModelProto.FromString(self.model_bytes)  # type: ignore[attr-defined]

    @property
    def _kind(self) -> str:
        trainer = self._model.trainer_spec
        return trainer.ModelType.Name(trainer.model_type)

    def _segmenter(self, strength: float) -> Segmenter:
        if self._last_segmenter is None or self._last_segmenter.strength != strength:
            self.check_sampling()
            kind: Any = self._kind.lower()
            self._last_segmenter = Segmenter(kind, self._pieces(), strength)
        return self._last_segmenter

    def _pieces(self) -> Pieces:
        types = sentencepiece_model_pb2.ModelProto.SentencePiece  # type: ignore[attr-defined]
        by_type: dict[int, dict[str, int]] = {types.NORMAL: {}, types.USER_DEFINED: {}, types.BYTE: {}}
        for piece_id, piece in enumerate(self._model.pieces):
            by_type.get(piece.type, {})[piece.piece] = piece_id
        normal = by_type[types.NORMAL]
        return Pieces(
            id_of=normal,
            score_of={piece: self._processor.get_score(piece_id) for piece, piece_id in normal.items()},
            symbol_ids=by_type[types.USER_DEFINED],
            byte_ids=[by_type[types.BYTE][f"<0x{byte:02X}>"] for byte in range(256)] if by_type[types.BYTE] else None,
            unk_id=self.unk_id,
        )


def _side(sentences: list[NDArray[np.int32]]) -> Side:
    token_L = np.concatenate(sentences) if sentences else np.zeros(0, np.int32)
    return Side(token_L, np.fromiter(map(len, sentences), np.int64, len(sentences)))


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of the two languages: the same model for both, or one for each."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def load(cls, directory: Path) -> "TokenizerPair":
        """Reads the pair from its `files` in a directory. Raises UserError as `Tokenizer.load` does."""
        if (directory / _SOURCE).exists():
            return cls(Tokenizer.load(directory / _SOURCE), Tokenizer.load(directory / _TARGET))
        joint = Tokenizer.load(directory / _JOINT)
        return cls(joint, joint)

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether a directory holds a complete pair."""
        joint, source, target = ((directory / name).exists() for name in TOKENIZER_FILES)
        return joint or (source and target)

    @property
    def joint(self) -> bool:
        """Whether both languages have the same model."""
        return self.source.model_bytes == self.target.model_bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the models, as hexadecimal text: over the one model if it serves both languages."""
        models = (self.source,) if self.joint else (self.source, self.target)
        return hashlib.sha256("".join(model.fingerprint for model in models).encode()).hexdigest()

    @property
    def special_ids(self) -> SpecialIds:
        return SpecialIds(self.source.pad_id, self.target.pad_id, self.target.bos_id)

    def files(self) -> dict[str, bytes]:
        """The content of the pair's files by name, as `load` reads them."""
        if self.joint:
            return {_JOINT: self.source.model_bytes}
        return {_SOURCE: self.source.model_bytes, _TARGET: self.target.model_bytes}


def train_tokenizer(lines: Iterator[str], config: TokenizerConfig, text: str = "the training data") -> Tokenizer:
    """Trains a model on `lines`: those of both sides if the vocabulary is joint.

    The result does not depend on the number of cores. Raises UserError if the lines, which it calls `text`, do not
    allow a vocabulary of `vocab_size`.
    """
    model = io.BytesIO()
    try:
        with _ended_by_ctrl_c():
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=model,
                model_type=config.kind,
                vocab_size=config.vocab_size,
                character_coverage=config.character_coverage,
                normalization_rule_name=config.normalization,
                byte_fallback=config.byte_fallback,
                user_defined_symbols=list(config.user_symbols),
                pad_id=PAD_ID,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                num_threads=_TRAINING_THREADS,
                minloglevel=2,
            )
    except RuntimeError as error:
        raise _training_error(str(error), config, text) from None
    return Tokenizer(model.getvalue())


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Lets Ctrl-C end the process at once: Python's handlers would run only when the library returns, after minutes.

    The process has nothing to clean up meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _training_error(message: str, config: TokenizerConfig, text: str) -> Exception:
    here = f"`tokenizer.vocab_size` is {config.vocab_size}"
    if found := re.search(r"set it to a value <= (\d+)", message):
        return UserError(f"{here}, but {text} allow at most {found[1]}: set it to {found[1]} or less.")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"{here}, but the characters, bytes and symbols of {text} alone need {found[1]}: "
            f"set it above {found[1]} or lower `tokenizer.character_coverage` ({config.character_coverage})."
        )
    if "sentences_.empty()" in message:
        return UserError(f"no tokenizer can be trained: {text} hold no text that SentencePiece can use.")
    return RuntimeError(message)
