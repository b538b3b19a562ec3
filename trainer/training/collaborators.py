"""What `trainer.run` makes for the loop."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.data.feeding.feed import TrainingData
from trainer.engine.base import Engine
from trainer.reporting.reporter import Reporter
from trainer.run_directory.watchdog import Watchdog
from trainer.training.progress import Progress
from trainer.training.stop_request import StopRequest
from trainer.training.validation import Validator


@dataclass(frozen=True)
class Collaborators:
    """The objects that the loop works with.

    `go_back` restores the engine, but not the data, from the newest checkpoint and returns its progress, or None if
    there is no checkpoint; it is a collective. Each micro-batch is computed in `num_parts` parts. `vocab_size` is that
    of the target, `tokenizer` the fingerprint of both tokenizers.
    """

    engine: Engine
    data: TrainingData
    validator: Validator | None
    reporter: Reporter
    stop: StopRequest
    watchdog: Watchdog
    go_back: Callable[[], Progress | None]
    num_parts: int = 1
    vocab_size: int = 0
    tokenizer: str | None = None
