"""What only a GPU can show; run by tests/benchmarks/gpu.sh."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.transformer import Transformer
from trainer.checkpoints.state_files import FragmentFiles, HostCopy
from trainer.configuration.sections import Config, EvaluationConfig, RunConfig, TrackingConfig, WandbConfig
from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.feeding.budget import Budget
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.engine import create_engine
from trainer.engine.base import FRAGMENT_KINDS, Engine
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.device import choose_device
from trainer.engine.process_group import ProcessGroup
from trainer.reporting.metrics_file import read_metrics
from trainer.training.loop import training_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing of the GPU path was run"),
]

SIZES = ModelConfig(d_model=128, d_ff=256, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_the_variable_length_kernel_agrees_with_padded_attention() -> None:
    """bf16 on the GPU against fp32 on the CPU, forward and backward."""
    torch.manual_seed(1)
    model = Transformer(SIZES, 100, pad_id=0, compute_dtype=torch.float32)
    lengths = np.random.default_rng(1).integers(3, 43, 8)
    tokens = torch.randint(4, 100, (int(lengths.sum()),)).numpy()
    batch = pack(Side(tokens, lengths), Side(tokens, lengths), SpecialIds(0, 0, 2))
    expected, _ = model(batch, 0.1)
    expected.backward()
    gradients = {name: gradient_of(parameter).clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.compute_dtype = torch.bfloat16
    model.cuda()
    # As the data come on CUDA: filler sentences, and sentence slots without any token.
    filled = pack(Side(tokens, lengths), Side(tokens, lengths), SpecialIds(0, 0, 2), Budget(512, 512, 24, 64))
    for shape in (batch, filled):
        model.zero_grad()
        found, _ = model(shape.to("cuda"), 0.1)
        found.backward()
        assert found.item() == pytest.approx(expected.item(), rel=2e-2)
        for name, parameter in model.named_parameters():
            assert torch.isfinite(gradient_of(parameter)).all(), name
            if not name.endswith("bias"):
                flat = gradient_of(parameter).cpu().flatten()
                assert torch.nn.functional.cosine_similarity(flat, gradients[name].flatten(), dim=0) > 0.99, name


def _engine_and_batches() -> tuple[Engine, list[MicroBatch]]:
    torch.manual_seed(1)
    config = EngineConfig(kind="ddp")
    processes = ProcessGroup(choose_device("auto"), config)
    engine = create_engine(Transformer(SIZES, 100, pad_id=0), processes, config, OptimizerConfig())
    length_N = np.full(400, 40)
    side, places = Side(np.full(length_N.sum(), 5), length_N), np.zeros(400, int)
    return engine, [MicroBatch(pack(side, side, SpecialIds(0, 0, 2)), 0, 0, 1, (places, places))]


def test_out_of_memory_on_the_device_the_micro_batch_is_made_in_parts() -> None:
    engine, whole = _engine_and_batches()
    loss_fn = training_loss(0.1, engine.device)
    peaks = []
    for batches in (whole[0].parts(2), whole):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        engine.rehearse(batches, loss_fn)
        peaks.append(torch.cuda.max_memory_reserved())
    assert peaks[0] < peaks[1]
    total = torch.cuda.get_device_properties(engine.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(sum(peaks) / 2 / total)
    try:
        result = engine.step(whole, loss_fn, lr=0.0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.num_splits >= 1
    assert result.loss == pytest.approx(engine.step(whole, loss_fn, lr=0.0).loss, rel=1e-3)


def test_a_checkpoint_is_copied_into_pinned_memory(tmp_path: Path) -> None:
    engine, whole = _engine_and_batches()
    engine.step(whole, training_loss(0.1, engine.device), lr=1e-3)
    copy = HostCopy()
    copy.take(engine.fragments())
    assert all(flat.is_pinned() for flat in copy._flat.values())
    (tmp_path / "state").mkdir()
    files = FragmentFiles([copy.write(tmp_path, 0, 1)], num_updates=1)
    for fragment in engine.fragments():
        for kind in FRAGMENT_KINDS:
            stored = files.read(fragment.name, kind, fragment.offset, fragment.length)
            assert torch.equal(stored, getattr(fragment, kind).cpu())


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
def test_a_run_trains_and_validates(kind: Literal["ddp", "zero2", "zero3"], tmp_path: Path) -> None:
    from trainer.run import train

    config = Config(
        run=RunConfig(directory=str(tmp_path / "run"), max_steps=60),
        model=SIZES,
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=600),
        data=DataConfig(
            train=(CorpusConfig(builtin="phrasebook", limit=5000),),
            valid=(CorpusConfig(builtin="phrasebook", split="valid", limit=50, name="held"),),
            max_length=64,
            max_tokens=2048,
        ),
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=20),
        engine=EngineConfig(kind=kind),
        evaluation=EvaluationConfig(every_steps=30),
        tracking=TrackingConfig(every_steps=1, wandb=WandbConfig(mode="disabled")),
    )
    train(config)
    steps = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
