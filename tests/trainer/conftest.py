"""A tiny run: tokenizer, configuration, model at random, checkpoints written without training."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig
from model.transformer import Transformer
from tests.engines import FakeEngine
from trainer.checkpoints.saver import Saver
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration import reading as configuration
from trainer.configuration.sections import CheckpointConfig, Config, RunConfig
from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.text.tokenizer import TokenizerPair, train_tokenizer
from trainer.inference.model_directory import build_model
from trainer.run_directory.layout import config_path

WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrst", k=5)) for n in range(60)]


def sentences(count: int, seed: int = 0) -> list[str]:
    """1 to 7 made-up words each."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 7))) for _ in range(count)]


@dataclass(frozen=True)
class TinyRun:
    directory: Path
    config: Config
    tokenizers: TokenizerPair

    def model(self, seed: int) -> Transformer:
        """At random, with embeddings large enough for decided choices and sentences that end."""
        torch.manual_seed(seed)
        model = build_model(self.config, self.tokenizers).eval()
        with torch.no_grad():
            for table in model.tables.parameters():
                table.mul_(4.0)
        return model

    def publish(self, step: int, model: Transformer, score: float | None = None) -> Path:
        document = TrainerDocument(
            num_updates=step, progress={"score": score}, metric="bleu", tokenizer=self.tokenizers.fingerprint
        )
        documents = {"trainer.json": document.to_json(), "lanes.json": {}}
        saver = Saver(self.directory, FakeEngine(model), CheckpointConfig(keep_last=99), "bleu")  # type: ignore[arg-type]
        saver.begin(step, documents)
        return saver.finish().path


@pytest.fixture(scope="session")
def tiny_tokenizers() -> TokenizerPair:
    joint = train_tokenizer(iter(sentences(200)), TokenizerConfig(vocab_size=300))
    return TokenizerPair(joint, joint)


@pytest.fixture(scope="session")
def separate_tokenizers(tiny_tokenizers: TokenizerPair) -> TokenizerPair:
    """The target's pieces are other ones, and more."""
    target = train_tokenizer(iter(sentences(200, seed=1)), TokenizerConfig(kind="bpe", vocab_size=310))
    return TokenizerPair(tiny_tokenizers.source, target)


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_tokenizers: TokenizerPair) -> TinyRun:
    """A run directory with configuration and tokenizer, no checkpoints yet."""
    return _write_run(tmp_path / "run", tiny_tokenizers)


@pytest.fixture
def separate_run(tmp_path: Path, separate_tokenizers: TokenizerPair) -> TinyRun:
    """Like `tiny_run`, each language with a tokenizer of its own."""
    return _write_run(tmp_path / "run", separate_tokenizers)


def _write_run(directory: Path, tokenizers: TokenizerPair) -> TinyRun:
    corpus = CorpusConfig(builtin="phrasebook", name="phrasebook")
    config = Config(
        run=RunConfig(directory=str(directory)),
        model=ModelConfig(
            d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
            tied_embeddings="all" if tokenizers.joint else "decoder",
        ),
        tokenizer=TokenizerConfig(joint=tokenizers.joint),
        data=DataConfig(train=(corpus,), max_length=24, max_tokens=64),
    )  # fmt: skip
    directory.mkdir()
    config_path(directory).write_text(configuration.dump(config))
    for name, content in tokenizers.files().items():
        (directory / name).write_bytes(content)
    return TinyRun(directory, config, tokenizers)
