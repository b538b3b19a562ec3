from pathlib import Path

import pytest

from tests.trainer.configuration.smallest import SMALLEST


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(SMALLEST)
    return path
