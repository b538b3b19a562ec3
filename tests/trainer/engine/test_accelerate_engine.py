"""One process: the engine makes the update that the formulas ask for."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.trainer.engine.toy import MemoryReader, ToyBatch, batches_of_step, build_model, toy_loss
from trainer.engine import create_engine
from trainer.engine.accelerate_engine import AccelerateEngine
from trainer.engine.base import Engine, LossSums
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.optimizer import build_optimizer
from trainer.engine.process_group import ProcessGroup
from trainer.errors import OutOfMemory

OPTIMIZER = OptimizerConfig(eps=1e-6, weight_decay=0.1, clip=0.3)
LONG = [ToyBatch(torch.arange(30))]


def _create(optimizer: OptimizerConfig = OPTIMIZER) -> Engine:
    config = EngineConfig(kind="ddp", precision="fp32", device="cpu")
    return create_engine(build_model(), ProcessGroup(torch.device("cpu"), config), config, optimizer)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    engine = _create()
    yield engine
    engine.close()


def _poisoned(model: nn.Module, batch: ToyBatch) -> LossSums:
    sums = toy_loss(model, batch)
    return sums._replace(loss=sums.loss * math.nan)


def test_micro_batches_make_the_update_of_their_concatenated_loss(engine: Engine) -> None:
    model = build_model()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, foreach=False)
    for step in range(5):
        batches = batches_of_step(step)
        num_target_tokens = sum(batch.num_target_tokens for batch in batches)
        sums = [toy_loss(model, batch) for batch in batches]
        mean = torch.stack([s.loss for s in sums]).sum() / num_target_tokens
        mean.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
        assert norm > OPTIMIZER.clip, "the test would not see clipping"
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad *= OPTIMIZER.clip / norm
        adamw.step()
        adamw.zero_grad()
        result = engine.step(batches, toy_loss, lr=1e-2)
        assert (result.loss, result.grad_norm) == pytest.approx((mean.item(), norm.item()), rel=1e-5)
        assert result.nll == pytest.approx(sum(s.nll.item() for s in sums) / num_target_tokens, rel=1e-5)
        assert (result.num_target_tokens, result.skipped) == (num_target_tokens, False)
    assert engine.num_updates == 5
    for name, weight in engine.full_weights().items():
        torch.testing.assert_close(weight, model.get_parameter(name).detach(), rtol=1e-4, atol=1e-5)


def test_a_poisoned_step_changes_nothing(engine: Engine) -> None:
    engine.step(batches_of_step(0), toy_loss, lr=1e-2)
    before = [(f.name, f.weight.clone(), f.exp_avg.clone(), f.exp_avg_sq.clone()) for f in engine.fragments()]
    result = engine.step(batches_of_step(1), _poisoned, lr=1e-2)
    assert result.skipped
    assert result.grad_norm == math.inf
    assert engine.num_updates == 1
    for (name, *tensors), fragment in zip(before, engine.fragments(), strict=True):
        assert name == fragment.name
        assert all(map(torch.equal, tensors, (fragment.weight, fragment.exp_avg, fragment.exp_avg_sq)))
    assert not engine.step(batches_of_step(2), toy_loss, lr=1e-2).skipped


def test_without_clipping_only_the_norm_is_reported() -> None:
    clipped, unclipped = _create(OptimizerConfig(clip=0.3)), _create(OptimizerConfig(clip=0.0))
    norms = [e.step(batches_of_step(0), toy_loss, lr=1e-3).grad_norm for e in (clipped, unclipped)]
    assert norms[0] == norms[1] > 0.3
    moments = [next(iter(e.fragments())).exp_avg.norm() for e in (clipped, unclipped)]
    assert moments[0] * norms[0] / 0.3 == pytest.approx(moments[1].item(), rel=1e-4)


def test_fragments_of_an_untrained_model_have_zero_moments(engine: Engine) -> None:
    for fragment in engine.fragments():
        assert not fragment.exp_avg.any()
        assert not fragment.exp_avg_sq.any()


def test_a_loaded_engine_goes_on_bit_for_bit(engine: Engine) -> None:
    for step in range(2):
        engine.step(batches_of_step(step), toy_loss, lr=1e-2)
    reader = MemoryReader(list(engine.fragments()), engine.num_updates)
    resumed = _create()
    resumed.step(batches_of_step(9), toy_loss, lr=1e-2)
    resumed.load_fragments(reader)
    assert resumed.num_updates == 2
    for step in range(2, 4):
        assert engine.step(batches_of_step(step), toy_loss, 1e-2) == resumed.step(batches_of_step(step), toy_loss, 1e-2)
    for name, weight in engine.full_weights().items():
        assert torch.equal(weight, resumed.full_weights()[name])


def test_full_weights_are_copies(engine: Engine) -> None:
    engine.full_weights()["embedding.weight"].zero_()
    assert engine.full_weights()["embedding.weight"].any()


class _Short:
    """A loss that finds no memory, in forward or backward, for micro-batches of more than 20 target tokens."""

    def __init__(self, error: Exception, in_backward: bool = False) -> None:
        self._error, self._in_backward = error, in_backward

    def __call__(self, model: nn.Module, batch: ToyBatch) -> LossSums:
        short = batch.num_target_tokens > 20
        if short and not self._in_backward:
            raise self._error
        sums = toy_loss(model, batch)
        if short:
            sums.loss.register_hook(self._fail)
        return sums

    def _fail(self, gradient: torch.Tensor) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_in_forward_the_micro_batch_is_made_in_parts(engine: Engine, error: Exception) -> None:
    whole = _create()
    for step in range(3):
        expected = whole.step(batches_of_step(step), toy_loss, lr=1e-2)
        found = engine.step(batches_of_step(step), _Short(error), lr=1e-2)
        assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-5)
        assert (expected.num_splits, found.num_splits) == (
            0,
            sum(batch.num_target_tokens > 20 for batch in batches_of_step(step)),
        )


def test_out_of_memory_elsewhere_is_told_as_such(engine: Engine) -> None:
    shortage = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    with pytest.raises(OutOfMemory, match=r"Tried to allocate 2 GiB$"):
        engine.step(LONG, _Short(shortage, in_backward=True), lr=1e-2)
    with pytest.raises(OutOfMemory):
        _create().rehearse(LONG, _Short(shortage))
    with pytest.raises(RuntimeError, match="something else"):
        _create().step(LONG, _Short(RuntimeError("something else")), lr=1e-2)


def test_a_rehearsal_takes_the_memory_of_moments_and_changes_nothing(engine: Engine) -> None:
    untouched = _create()
    engine.rehearse(batches_of_step(5), toy_loss)
    assert isinstance(engine, AccelerateEngine)
    assert len(engine._optimizer.state) == len(list(build_model().parameters()))
    for step in range(2):
        results = [e.step(batches_of_step(step), toy_loss, lr=1e-2) for e in (engine, untouched)]
        assert results[0] == results[1]
    for name, weight in engine.full_weights().items():
        assert torch.equal(weight, untouched.full_weights()[name])


def test_only_matrices_decay() -> None:
    model = build_model()
    decayed, kept = build_optimizer(model, OPTIMIZER).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_accelerate_running_as_someone_else_is_noticed(engine: Engine) -> None:
    assert isinstance(engine, AccelerateEngine)
    engine.world_size = 2
    with pytest.raises(AssertionError, match="rank 0 of 1"):
        engine._check_accelerator()


def test_peak_memory_is_at_least_the_weights(engine: Engine) -> None:
    assert engine.peak_memory() > sum(p.numel() * 4 for p in build_model().parameters())
