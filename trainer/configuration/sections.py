"""The whole configuration of a run: one frozen dataclass per section of the YAML file."""

from dataclasses import dataclass, field
from typing import Literal

from model.config import ModelConfig
from trainer.data.config import DataConfig, TokenizerConfig
from trainer.engine.config import EngineConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run lives and how long it is."""

    directory: str
    seed: int = 1
    max_steps: int = 100_000


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are published and which are kept.

    One is due after every `every_steps` steps and, where given, when the last is `every_minutes` old. Kept are the
    last `keep_last`, the `keep_best` with the highest `evaluation.metric`, and for ever those whose step is a multiple
    of `keep_every` (0: none). After `max_failed_saves` saves in a row that failed, the run ends.
    """

    every_steps: int = 1000
    every_minutes: float | None = None
    keep_last: int = 3
    keep_best: int = 1
    keep_every: int = 0
    max_failed_saves: int = 3


@dataclass(frozen=True, kw_only=True)
class BadStepsConfig:
    """What happens to steps that must not be learnt from. They are skipped on all ranks: weights and moments stay.

    A step is bad where gradients are not finite and, with `spike_threshold`, where its loss lies more than so many
    robust standard deviations above the median of the last hundred. After `max_in_a_row` bad steps the run goes back to
    its newest checkpoint, passes over the data that it had read since and multiplies the learning rate by `lr_factor`,
    at most `max_rollbacks` times; then it ends.
    """

    spike_threshold: float | None = None
    max_in_a_row: int = 20
    max_rollbacks: int = 2
    lr_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class HangConfig:
    """When a rank without progress counts as hung: after `factor` times the usual step, but at least `minutes`.

    Before the second step, in validation and while a save is waited for: after `phase_minutes`.
    """

    factor: float = 30.0
    minutes: float = 15.0
    phase_minutes: float = 60.0


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation during training and the decoder's settings.

    `metric` decides which checkpoint is best and feeds early stopping: training ends when it has not improved for
    `patience` evaluations (0: never). `max_sentences` bounds how many sentences of each set are translated for
    BLEU and chrF (0: none, only the loss); the loss is always taken over the whole set.
    """

    every_steps: int = 1000
    beam_size: int = 4
    length_penalty: float = 0.6
    max_sentences: int = 1000
    metric: Literal["bleu", "chrf", "nll"] = "bleu"
    patience: int = 0


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """`mode: auto` is online where an API key is configured and offline otherwise.

    `x_axis` is what the charts are drawn over at first; both are logged, so each chart can be switched. `alerts` of
    W&B (mail, Slack) tell of rollbacks, failed saves and the end.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "dragoman"
    entity: str | None = None
    name: str | None = None
    x_axis: Literal["step", "target_tokens"] = "step"
    alerts: bool = True


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How often a step is reported (console, metrics.jsonl, W&B), and whether RUN/tensorboard is written too."""

    every_steps: int = 50
    tensorboard: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole. Read and validated by `trainer.configuration.reading`."""

    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    bad_steps: BadStepsConfig = field(default_factory=BadStepsConfig)
    hang: HangConfig = field(default_factory=HangConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
