"""N ranks x k ragged micro-batches = one process, for every engine; and what is saved anywhere resumes anywhere."""

import math

import pytest
import torch
from torch import Tensor

from tests.ranks import run_on_ranks
from tests.trainer.engine import rank_checks as checks
from tests.trainer.engine.rank_checks import LAW_STEPS, MODES, SAVE_AFTER, TRANSFORMER_MODES, Mode, Report, Training
from tests.trainer.engine.toy import MemoryReader, build_model, save
from trainer.engine.base import StepResult

pytestmark = pytest.mark.slow

WORLD_SIZE = 3  # sums of two do not depend on their order, and no parameter's size is a multiple of three
ONE_PROCESS = Mode("ddp", "fp32", "none")
FP32_MODES = [mode for mode in MODES if mode.precision == "fp32"]
BF16_MODES = [mode for mode in MODES if mode.precision == "bf16"]
SPLITTING_MODES = [mode for mode in MODES if mode.may_split]
Reports = list[Report]


@pytest.fixture(autouse=True, scope="module")
def _no_launcher() -> object:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def saved_by_one() -> list[MemoryReader]:
    """Filled by `one_process`: the state after `SAVE_AFTER` of its steps."""
    return []


@pytest.fixture(scope="module")
def one_process(saved_by_one: list[MemoryReader]) -> Training:
    """The other side of the laws: a single process that holds all micro-batches."""
    engine = ONE_PROCESS.create(build_model())
    results = checks.steps(engine, range(SAVE_AFTER))
    saved_by_one.append(save(engine))
    results += checks.steps(engine, range(SAVE_AFTER, LAW_STEPS))
    return Training(results, engine.full_weights())


@pytest.fixture(scope="module")
def reports(
    one_process: Training, saved_by_one: list[MemoryReader], tmp_path_factory: pytest.TempPathFactory
) -> Reports:
    folder = str(tmp_path_factory.mktemp("group"))
    return run_on_ranks(checks.check_all, WORLD_SIZE, saved_by_one[0], folder, fresh=True)


def _assert_same_results(found: list[StepResult], expected: list[StepResult], relative: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.num_target_tokens, one.skipped) == (other.num_target_tokens, other.skipped)
        assert (one.loss, one.nll) == pytest.approx((other.loss, other.nll), rel=relative)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=relative)


def _relative_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all weights as one vector: single ones with a true gradient of 0 (biases of keys) are noise over eps."""
    assert found.keys() == expected.keys()
    difference, size = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in ([found[name] - expected[name] for name in found], list(expected.values()))
    )
    return (difference.norm() / size.norm()).item()


def _assert_same_updates(found: Training, expected: Training) -> None:
    assert min(result.grad_norm for result in expected.results) > checks.OPTIMIZER.clip, "clipping is not seen"
    _assert_same_results(found.results, expected.results)
    assert _relative_difference(found.weights, expected.weights) < 1e-5


@pytest.mark.parametrize("mode", FP32_MODES, ids="-".join)
def test_ranks_make_the_updates_of_one_process(reports: Reports, one_process: Training, mode: Mode) -> None:
    _assert_same_updates(reports[0].interrupted[mode].training, one_process)


@pytest.fixture(scope="module")
def transformer_of_one_process() -> Training:
    return checks.train_transformer(ONE_PROCESS)


@pytest.mark.parametrize("mode", TRANSFORMER_MODES, ids="-".join)
def test_so_they_do_with_the_transformer(reports: Reports, transformer_of_one_process: Training, mode: Mode) -> None:
    _assert_same_updates(reports[0].transformer[mode], transformer_of_one_process)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_every_rank_sees_the_same(reports: Reports, mode: Mode) -> None:
    first = reports[0].interrupted[mode].training
    for report in reports[1:]:
        other = report.interrupted[mode].training
        assert other.results == first.results
        assert all(torch.equal(other.weights[name], weight) for name, weight in first.weights.items())


@pytest.mark.parametrize("mode", BF16_MODES, ids="-".join)
def test_bf16_learns_what_fp32_learns(reports: Reports, one_process: Training, mode: Mode) -> None:
    """bf16 has 3 significant digits; a wrong scale or a lost master weight would show by far more."""
    _assert_same_results(reports[0].interrupted[mode].training.results, one_process.results, relative=5e-3)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_fragments_cover_every_parameter_once(reports: Reports, mode: Mode) -> None:
    created = reports[0].interrupted[mode].created
    sizes = {name: parameter.numel() for name, parameter in build_model().named_parameters()}
    assert {name: counts.numel() for name, counts in created.coverage.items()} == sizes
    assert all((counts == 1).all() for counts in created.coverage.values())


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_training_starts_from_the_fp32_weights_and_zero_moments(reports: Reports, mode: Mode) -> None:
    created = reports[0].interrupted[mode].created
    for name, parameter in build_model().named_parameters():
        assert torch.equal(created.tensors[name, "weight"], parameter.detach().flatten())
        assert not created.tensors[name, "exp_avg"].any()
        assert not created.tensors[name, "exp_avg_sq"].any()


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_a_rehearsal_changes_nothing(reports: Reports, mode: Mode) -> None:
    for report in reports:
        assert report.interrupted[mode].rehearsed.equals(report.interrupted[mode].created)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_a_nan_on_one_rank_and_a_loss_above_its_bound_are_skipped_by_all(reports: Reports, mode: Mode) -> None:
    for report in reports:
        found = report.interrupted[mode]
        assert found.poisoned.skipped
        assert found.poisoned.grad_norm == math.inf
        assert found.spiked.skipped
        assert math.isfinite(found.spiked.loss)
        assert found.after_poison.equals(found.saved)
        assert found.after_poison.num_updates == found.saved.num_updates == SAVE_AFTER
        assert not any(result.skipped for result in found.training.results)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_resumed_equals_uninterrupted_bit_for_bit(reports: Reports, mode: Mode) -> None:
    before, after = reports[0].interrupted[mode], reports[0].resumed[mode]
    assert after.loaded.equals(before.saved)
    assert after.results == before.training.results[SAVE_AFTER:]
    assert after.at_the_end.equals(before.at_the_end)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_a_state_of_one_process_resumes_anywhere(
    reports: Reports, one_process: Training, saved_by_one: list[MemoryReader], mode: Mode
) -> None:
    found = reports[0].resumed[mode]
    assert found.foreign_loaded.equals(saved_by_one[0])
    relative = 1e-5 if mode.precision == "fp32" else 5e-3
    _assert_same_results(found.foreign_results, one_process.results[SAVE_AFTER:], relative)


@pytest.mark.parametrize("mode", FP32_MODES, ids="-".join)
def test_a_state_of_many_ranks_resumes_in_one_process(reports: Reports, one_process: Training, mode: Mode) -> None:
    engine = ONE_PROCESS.create(build_model())
    engine.load_fragments(reports[0].interrupted[mode].saved)
    _assert_same_results(checks.steps(engine, range(SAVE_AFTER, LAW_STEPS)), one_process.results[SAVE_AFTER:])


@pytest.mark.parametrize("mode", SPLITTING_MODES, ids="-".join)
def test_out_of_memory_on_one_rank_the_step_is_made_in_parts(
    reports: Reports, one_process: Training, mode: Mode
) -> None:
    shortages = [shortage for report in reports if (shortage := report.resumed[mode].shortage)]
    assert len(shortages) == WORLD_SIZE
    for shortage in shortages:
        assert any(result.num_splits for result in shortage.results)
        assert shortage.results == shortages[0].results
        _assert_same_updates(shortage, one_process)


@pytest.mark.parametrize("mode", [mode for mode in SPLITTING_MODES if mode.kind != "ddp"], ids="-".join)
def test_all_give_up_if_one_rank_has_a_single_sentence_left(reports: Reports, mode: Mode) -> None:
    assert {report.resumed[mode].single_sentence for report in reports} == {"a micro-batch of a single sentence"}


def test_ranks_agree(reports: Reports) -> None:
    for report in reports:
        total, flags, gathered = report.collectives
        assert total == pytest.approx([3.0, 0.3])
        assert flags == [True, False]
        assert gathered == [{"rank": 0}, {"rank": 1}, {"rank": 2}]


def test_work_of_rank_0_may_take_longer_than_the_limit_and_its_failure_ends_the_others(reports: Reports) -> None:
    assert reports[0].waiting == ("done", "ValueError")
    assert [report.waiting for report in reports[1:]] == [(None, "SystemExit")] * 2


def test_another_engine_than_asked_for_is_noticed_and_zero_needs_no_launcher(one_process: Training) -> None:
    ((said, results),) = run_on_ranks(checks.check_alone, 1, fresh=True)
    assert said == {
        "stage": "DeepSpeed runs stage 1",
        "clip": "DeepSpeed clips at 5.0",
        "precision": "DeepSpeed runs in another precision",
    }
    _assert_same_results(results, one_process.results)
