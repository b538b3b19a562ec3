import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.feeding.budget import Budget
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.errors import UserError
from trainer.reporting.metrics_file import MetricsFile, read_metrics
from trainer.reporting.step_meter import StepMeter, count_cells


def write(path: Path, *records: dict[str, Any], resume_step: int = 0) -> None:
    file = MetricsFile.open(path, resume_step)
    for record in records:
        file.write(record)
    file.close()


def train(step: int) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": 1.0 / (step + 1)}


def valid(step: int) -> dict[str, Any]:
    return {"kind": "valid", "step": step, "name": "val", "bleu": 30.5}


def test_records_come_back_as_written(tmp_path: Path) -> None:
    records = [train(1), valid(1), {"kind": "event", "step": 1, "event": "Äpfel\u2028"}]
    write(tmp_path / "run" / "metrics.jsonl", *records)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == records


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, {"kind": "train", "step": 1, "loss": math.nan, "more": [math.inf, {"x": -math.inf}, 2.0]})
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"kind": "train", "step": 1, "loss": None, "more": [None, {"x": None}, 2.0]}


def test_resuming_leaves_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    resumed = {"kind": "event", "step": 4, "event": "resumed"}
    write(path, *(record(step) for step in range(1, 8) for record in (train, valid)), resumed)
    write(path, *(record(step) for step in range(4, 10) for record in (train, valid)), resume_step=3)
    steps: dict[str, list[int]] = {"train": [], "valid": [], "event": []}
    for record in read_metrics(path):
        steps[record["kind"]].append(record["step"])
    assert steps == {"train": [*range(1, 10)], "valid": [*range(1, 10)], "event": [4]}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_starting_over_drops_the_old_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, train(1), train(2))
    write(path, train(1), resume_step=0)
    assert read_metrics(path) == [train(1)]


@pytest.mark.parametrize("torn", [b'{"kind": "train", "st', b'{"kind": "train", "step": 3}', b"\0\0\0", b"12\n"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, train(1), train(2))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_metrics(path) == [train(1), train(2)]
    write(path, resume_step=5)
    assert path.read_bytes() == whole


def test_a_killed_writer_loses_no_finished_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    program = (
        "import os, signal; from pathlib import Path; from trainer.reporting.metrics_file import MetricsFile\n"
        f"file = MetricsFile.open(Path({str(path)!r}), 0)\n"
        "for step in range(100): file.write({'kind': 'train', 'step': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert [record["step"] for record in read_metrics(path)] == [*range(100)]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes: the kernel takes the part that fits, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_told_and_leaves_no_torn_line(tmp_path: Path) -> None:
    file = MetricsFile.open(tmp_path / "metrics.jsonl", 0)
    file.write(train(1))
    for _ in range(2):
        with pytest.raises(UserError, match=r"metrics\.jsonl: the metrics cannot be written"):
            file.write({"kind": "train", "step": 2, "note": "x" * 100})
    file.write({"kind": "train", "step": 2})
    file.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [train(1), {"kind": "train", "step": 2}]


def micro_batch(static: Budget | None = None) -> MicroBatch:
    """Two pairs with 3 + 4 source and 2 + 3 target tokens."""
    source = Side(np.arange(4, 11), np.array([3, 4]))
    target = Side(np.arange(4, 9), np.array([2, 3]))
    pair_ids = (np.zeros(2, np.int64), np.arange(2))
    return MicroBatch(pack(source, target, SpecialIds(0, 0, 2), static), index=0, lane=0, seed=1, pair_ids=pair_ids)


def test_packed_batches_have_no_padding() -> None:
    assert count_cells(micro_batch()) == (12, 12)


def test_filler_is_padding() -> None:
    filled = micro_batch(Budget(max_source_tokens=20, max_target_tokens=20, max_sentences=4, max_length=8))
    real, cells = count_cells(filled)
    batch = filled.batch
    assert real == int((batch.source_S != 0).sum() + (batch.target_out_T != 0).sum()) == 12
    assert cells == len(batch.source_S) + len(batch.target_in_T) > 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_meter_counts_since_the_last_report() -> None:
    clock = Clock()
    meter = StepMeter(start_step=10, max_steps=20, clock=clock)
    for _ in range(2):
        with meter.waiting_for_data():
            clock.now += 0.5
        clock.now += 1.5
        meter.add_step(num_target_tokens=1000, num_real_tokens=900, num_cells=1000)
    assert meter.report(12) == pytest.approx(
        {
            "tokens_per_second": 500,
            "seconds_per_step": 2,
            "padding_share": 0.1,
            "data_wait_share": 0.25,
            "eta_seconds": 16,
        }
    )
    clock.now += 4
    meter.add_step(num_target_tokens=1000, num_real_tokens=1000, num_cells=1000)
    second = meter.report(13)
    assert (second["tokens_per_second"], second["data_wait_share"], second["padding_share"]) == (250, 0, 0)


def test_validation_slows_the_end_but_not_the_speed() -> None:
    clock = Clock()
    meter = StepMeter(start_step=0, max_steps=4, clock=clock)
    for _ in range(2):
        clock.now += 1
        meter.add_step(num_target_tokens=100, num_real_tokens=1, num_cells=1)
    with meter.outside_training():
        clock.now += 8
    numbers = meter.report(2)
    assert (numbers["tokens_per_second"], numbers["eta_seconds"]) == (100, 10)
