"""What one process knows of the others; the collectives themselves are tested on ranks in test_engine_laws.py."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from tests.ranks import run_on_ranks
from trainer.engine.config import EngineConfig
from trainer.engine.device import choose_device
from trainer.engine.process_group import ProcessGroup, rank_and_world_size
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_rank_and_world_size_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_and_world_size() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert rank_and_world_size() == (3, 8)


def test_one_process_needs_no_group_and_agrees_with_itself() -> None:
    alone = ProcessGroup(torch.device("cpu"), EngineConfig(kind="ddp"))
    assert not torch.distributed.is_initialized()
    assert alone.sum([1, 2.5]) == [1.0, 2.5]
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.gather({"a": 1}) == [{"a": 1}]
    alone.leave()


def test_deepspeed_gets_a_group_of_one_process() -> None:
    alone = ProcessGroup(torch.device("cpu"), EngineConfig(kind="zero1"))
    assert torch.distributed.get_world_size() == 1
    alone.leave()
    assert not torch.distributed.is_initialized()


def test_asking_for_a_missing_cuda_device_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"engine\.device.*cuda"):
        choose_device("cuda")


LIMIT_SECONDS = 4.0


def slow_work() -> str:
    time.sleep(1.5 * LIMIT_SECONDS)
    return "done"


def failing_work() -> str:
    raise ValueError("no data")


def prepare_twice(folder: str) -> tuple[str | None, str]:
    """What slow work returned, and how work that failed ended."""
    rank, world_size = rank_and_world_size()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    limit = timedelta(seconds=LIMIT_SECONDS)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=limit)
    group = ProcessGroup(torch.device("cpu"), EngineConfig(timeout_minutes=LIMIT_SECONDS / 60))
    returned = group.while_the_others_wait(slow_work)
    try:
        group.while_the_others_wait(failing_work)
    except BaseException as error:
        return returned, type(error).__name__
    return returned, "no error"


@pytest.mark.slow
def test_work_of_rank_0_may_take_longer_than_the_limit_and_its_failure_ends_the_others(tmp_path: Path) -> None:
    assert run_on_ranks(prepare_twice, 2, str(tmp_path), fresh=True) == [("done", "ValueError"), (None, "SystemExit")]
