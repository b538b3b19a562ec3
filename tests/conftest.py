"""The order of the tests."""

import pytest

from tests.ranks import end_ranks

# Minutes each, on one worker. Begun last, one of them would still run while the other worker has nothing left to do.
LONGEST = (
    "test_training.py", "test_on_slurm.py", "test_wandb_sink.py", "test_engine_laws.py", "test_chaos.py",
    "test_other_launchers.py", "test_mixture_training.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_sessionfinish() -> None:
    end_ranks()
