"""Mirrors a run's metrics to TensorBoard's files in RUN/tensorboard; the only file that knows `tensorboard`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.reporting.charts import X_AXES, chart_values
from trainer.run_directory.layout import TENSORBOARD
from trainer.run_directory.stop_reason import RunOutcome


def require_tensorboard() -> None:
    """Raises UserError if the package is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "`tracking.tensorboard` is true, but the package tensorboard is not installed: "
            "pip install tensorboard, or set tracking.tensorboard=false."
        )


class TensorBoardSink:
    """Removes the steps after `start_step` that an earlier start has drawn: this one repeats them."""

    def __init__(self, run_directory: Path, start_step: int) -> None:
        self._directory, self._start_step = run_directory / TENSORBOARD, start_step
        self._writer: Any = None

    def open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._directory), purge_step=self._start_step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in chart_values(record).items():
            if name not in X_AXES:
                self._writer.add_scalar(name, value, record["step"])
        for sample in record.get("samples", ()):
            text = "  \n".join(f"{key}: {value}" for key, value in sample.items())
            self._writer.add_text(f"valid/{record['name']}/samples", text, record["step"])
        self._writer.flush()  # a kill may come at any time

    def finish(self, outcome: RunOutcome) -> None:
        self._writer.close()

    def confirm(self) -> None:
        pass

    def release(self) -> None:
        pass

    def abandon(self) -> None:
        pass
