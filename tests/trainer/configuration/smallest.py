"""The shortest configuration, and what is said about a wrong one."""

from pathlib import Path

import pytest

from trainer.configuration.reading import load
from trainer.errors import UserError

SMALLEST = """
run: {directory: runs/x}
data:
  train: [{builtin: phrasebook}]
"""


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        load(path, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message
