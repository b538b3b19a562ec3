"""N ranks x k ragged micro-batches = one process, for every engine; and what is saved anywhere resumes anywhere."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_on_ranks
from tests.trainer.engine import rank_checks as checks
from tests.trainer.engine.rank_checks import MODES, SPLITTING_MODES, TRANSFORMER_MODES, Mode, Report, Training
from tests.trainer.engine.toy import MemoryReader, batches_of_step, build_model, save, toy_loss
from trainer.engine.base import StepResult

pytestmark = pytest.mark.slow

ONE_PROCESS = Mode("ddp", "fp32", "none")
FP32_MODES = [mode for mode in MODES if mode.precision == "fp32"]
BF16_MODES = [mode for mode in MODES if mode.precision == "bf16"]
Reports = list[Report]


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    """The laws' other side: a single process that holds all micro-batches."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        engine = ONE_PROCESS.create(build_model())
        checks.steps(engine, range(checks.SAVE_AFTER))
        saved = save(engine)
        return {
            "toy": checks.train(ONE_PROCESS, build_model(), batches_of_step, toy_loss),
            "transformer": checks.train(
                ONE_PROCESS, checks.tiny_transformer(), checks.translation_batches, checks.translation_loss
            ),
            "saved": saved,
            "continued": checks.steps(engine, range(checks.SAVE_AFTER, checks.SAVE_AFTER + checks.RESUMED_STEPS)),
        }


@pytest.fixture(scope="module", params=[2, 4])
def reports(request: pytest.FixtureRequest, one_process: dict[str, Any]) -> Reports:
    return run_on_ranks(checks.check_all, request.param, one_process["saved"])


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
def test_ranks_make_the_updates_of_one_process(reports: Reports, one_process: dict[str, Any], mode: Mode) -> None:
    _assert_same_updates(reports[0].toy[mode], one_process["toy"])


@pytest.mark.parametrize("mode", TRANSFORMER_MODES, ids="-".join)
def test_so_they_do_with_the_transformer(reports: Reports, one_process: dict[str, Any], mode: Mode) -> None:
    _assert_same_updates(reports[0].transformer[mode], one_process["transformer"])


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_every_rank_sees_the_same(reports: Reports, mode: Mode) -> None:
    first = reports[0].toy[mode]
    for report in reports[1:]:
        other = report.toy[mode]
        assert other.results == first.results
        assert all(torch.equal(other.weights[name], weight) for name, weight in first.weights.items())


@pytest.mark.parametrize("mode", BF16_MODES, ids="-".join)
def test_bf16_learns_what_fp32_learns(reports: Reports, one_process: dict[str, Any], mode: Mode) -> None:
    """bf16 has 3 significant digits; a wrong scale or a lost master weight would show by far more."""
    found = reports[0].toy[mode].results
    _assert_same_results(found, one_process["toy"].results[: len(found)], relative=5e-3)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_fragments_cover_every_parameter_once(reports: Reports, mode: Mode) -> None:
    untrained = reports[0].resumption[mode].untrained
    sizes = {name: parameter.numel() for name, parameter in build_model().named_parameters()}
    assert {name: counts.numel() for name, counts in untrained.coverage.items()} == sizes
    assert all((counts == 1).all() for counts in untrained.coverage.values())


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_training_starts_from_the_fp32_weights_and_zero_moments(reports: Reports, mode: Mode) -> None:
    untrained = reports[0].resumption[mode].untrained
    for name, parameter in build_model().named_parameters():
        assert torch.equal(untrained.tensors[name, "weight"], parameter.detach().flatten())
        assert not untrained.tensors[name, "exp_avg"].any()
        assert not untrained.tensors[name, "exp_avg_sq"].any()


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_a_nan_on_one_rank_is_skipped_by_all(reports: Reports, mode: Mode) -> None:
    for report in reports:
        found = report.resumption[mode]
        assert found.poisoned.skipped
        assert found.poisoned.grad_norm == math.inf
        assert found.spiked.skipped
        assert math.isfinite(found.spiked.loss)
        assert found.after_poison.equals(found.saved)
        assert found.after_poison.num_updates == found.saved.num_updates == checks.SAVE_AFTER
        assert not any(result.skipped for result in found.continued)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_resumed_equals_uninterrupted_bit_for_bit(reports: Reports, mode: Mode) -> None:
    found = reports[0].resumption[mode]
    assert found.loaded.equals(found.saved)
    assert found.resumed == found.continued
    assert found.resumed_at_the_end.equals(found.at_the_end)


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_a_state_of_one_process_resumes_anywhere(reports: Reports, one_process: dict[str, Any], mode: Mode) -> None:
    found = reports[0].resumption[mode]
    assert found.foreign_loaded.equals(one_process["saved"])
    relative = 1e-5 if mode.precision == "fp32" else 5e-3
    _assert_same_results(found.foreign_resumed, one_process["continued"], relative)


@pytest.mark.parametrize("mode", FP32_MODES, ids="-".join)
def test_a_state_of_many_ranks_resumes_in_one_process(
    reports: Reports, one_process: dict[str, Any], mode: Mode
) -> None:
    saved: MemoryReader = reports[0].resumption[mode].saved
    engine = ONE_PROCESS.create(build_model())
    engine.load_fragments(saved)
    rest = range(checks.SAVE_AFTER, checks.SAVE_AFTER + checks.RESUMED_STEPS)
    _assert_same_results(checks.steps(engine, rest), one_process["continued"])


@pytest.mark.parametrize("mode", SPLITTING_MODES, ids=str)
def test_out_of_memory_on_one_rank_the_step_is_made_in_parts(
    reports: Reports, one_process: dict[str, Any], mode: Mode
) -> None:
    shortages = [report.shortage[mode] for report in reports]
    assert any(result.num_splits for result in shortages[0].results)
    for shortage in shortages:
        assert [r.num_splits for r in shortage.results] == [r.num_splits for r in shortages[0].results]
        _assert_same_results(shortage.results, one_process["toy"].results)
        assert _relative_difference(shortage.weights, one_process["toy"].weights) < 1e-5


@pytest.mark.parametrize("mode", SPLITTING_MODES, ids=str)
def test_a_rehearsal_changes_nothing(reports: Reports, mode: Mode) -> None:
    for report in reports:
        assert report.shortage[mode].after_rehearsal.equals(report.shortage[mode].before_rehearsal)


@pytest.mark.parametrize("mode", [mode for mode in SPLITTING_MODES if mode.kind != "ddp"], ids=str)
def test_where_one_rank_has_nothing_left_to_cut_all_give_up(reports: Reports, mode: Mode) -> None:
    assert {report.shortage[mode].too_short for report in reports} == {"a micro-batch of a single sentence"}


def test_another_engine_than_asked_for_is_noticed() -> None:
    (said,) = run_on_ranks(checks.wrong_engines, 1, fresh=True)
    assert said == {
        "stage": "DeepSpeed runs stage 1",
        "clip": "DeepSpeed clips at 5.0",
        "precision": "DeepSpeed runs in another precision",
    }


def test_zero_needs_no_launcher(one_process: dict[str, Any]) -> None:
    (results,) = run_on_ranks(checks.without_launcher, 1, fresh=True)
    _assert_same_results(results, one_process["toy"].results[:3])


def test_ranks_agree() -> None:
    for total, flags, gathered in run_on_ranks(checks.collectives, 2):
        assert total == [1.0, 0.2]
        assert flags == [True, False]
        assert gathered == [{"rank": 0}, {"rank": 1}]
