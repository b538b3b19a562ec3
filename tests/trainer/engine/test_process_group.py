"""What one process knows of the others; the collectives themselves are tested on ranks in test_engine_laws.py."""

import pytest
import torch

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
