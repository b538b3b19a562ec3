"""What a run records in `metrics.jsonl`: one JSON object per line, of one of three kinds. Standard library only."""

from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict


class Event(StrEnum):
    """The name of every event; `detail` explains it to a person."""

    STARTED = "started"
    RESUMED = "resumed"
    SAVED = "saved"
    BEST = "best"
    SAVE_FAILED = "save failed"
    OLD_CHECKPOINT_NOT_REMOVED = "old checkpoint not removed"
    SKIPPED = "skipped"
    ROLLED_BACK = "rolled back"
    OUT_OF_MEMORY = "out of memory"
    VALIDATION_PAIR_CUT = "validation pair cut"
    SCORE_WARNING = "score warning"
    VALIDATION_CUT_SHORT = "validation cut short"
    FAILED = "failed"
    ENDED = "ended"


STARTS = (Event.STARTED, Event.RESUMED)
"""The events with which a start of the run begins."""


class EventRecord(TypedDict):
    """Something that happened to the run after `step`, at `time` in seconds since 1970.

    `started` and `resumed` also hold what `trainer.reporting.start_facts` found out. `saved` names the checkpoint by
    its `path` (older files: by `detail` alone) and says whether it is the `best` so far; a checkpoint that was saved
    before its validation and turns out to be the best has an event `best`. The `detail` of `ended` is a `StopReason`.
    """

    kind: Literal["event"]
    step: int
    event: str
    time: float
    detail: NotRequired[str]
    path: NotRequired[str]
    best: NotRequired[bool]


class TrainRecord(TypedDict):
    """One optimizer step. `loss`, `nll` (nats per target token), `grad_norm` and `num_target_tokens` are of this step.

    Speeds and shares are means since the record before. `tokens_per_second` counts real target tokens over all ranks.
    `data` says, per corpus, what has been consumed. Numbers that are not finite are null.
    """

    kind: Literal["train"]
    step: int
    target_tokens: int
    loss: float | None
    nll: float | None
    ppl: float | None
    lr: float
    grad_norm: float | None
    skipped: bool
    num_splits: int
    num_target_tokens: int
    tokens_per_second: float
    seconds_per_step: float
    padding_share: float
    data_wait_share: float
    eta_seconds: float
    peak_flops_share: NotRequired[float]
    peak_memory: int
    peak_host_memory: int
    data: dict[str, Any]


class SampleRecord(TypedDict):
    """A translated sentence of a validation set; `chrf` is that of the sentence, from 0 to 100."""

    source: str
    hypothesis: str
    reference: str
    chrf: float


class ValidRecord(TypedDict):
    """One validation set at one step; `bleu` and `chrf` are null if nothing was translated.

    `best` marks the best score so far, on the set that decides it.
    """

    kind: Literal["valid"]
    step: int
    target_tokens: int
    name: str
    nll: float | None
    num_target_tokens: int
    bleu: float | None
    chrf: float | None
    samples: list[SampleRecord]
    best: bool
