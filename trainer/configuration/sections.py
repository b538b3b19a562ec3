"""The whole configuration of a run: one frozen dataclass per section of the YAML file.

The text below each field explains the setting; `trainer.configuration.document` makes docs/settings.md from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from model.config import ModelConfig
from trainer.data.config import DataConfig, TokenizerConfig
from trainer.engine.config import EngineConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run is kept and how long it is."""

    directory: str
    """The folder of the run. A run resumes by itself if this folder has a checkpoint."""
    seed: int = 1
    """Decides initial weights, order of the data, dropout and sampling."""
    max_steps: int = 100_000
    """Optimizer steps after which training ends."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a checkpoint is saved and which ones are kept. The last step and every new best score are saved too."""

    every_steps: int = 1000
    """Saves after every this many steps."""
    every_minutes: float | None = None
    """Saves also if the last checkpoint is this old. null: never."""
    keep_last: int = 3
    """Keeps the newest checkpoints, this many."""
    keep_best: int = 1
    """Keeps the checkpoints with the highest `evaluation.metric`, this many."""
    keep_every: int = 0
    """Keeps all whose step is a multiple of this. 0: none."""
    max_failed_saves: int = 3
    """After this many failed saves in a row the run ends."""


@dataclass(frozen=True, kw_only=True)
class BadStepsConfig:
    """Steps that all ranks skip without an update: those whose gradients are not finite, and loss spikes."""

    spike_threshold: float | None = None
    """Skips a step whose loss is more than this many robust standard deviations above the median of the last hundred.
    null: spikes are not looked for."""
    max_in_a_row: int = 20
    """After this many bad steps in a row the run rolls back to its newest checkpoint and passes over the data that it
    has read since."""
    max_rollbacks: int = 2
    """After this many rollbacks the next one ends the run."""
    lr_factor: float = 1.0
    """Each rollback multiplies the learning rate by this."""


@dataclass(frozen=True, kw_only=True)
class HangConfig:
    """When a rank without progress counts as hung. It then ends with status 75, and a launcher can start it again."""

    factor: float = 30.0
    """After this many times the usual duration of a step, but not before `minutes`."""
    minutes: float = 15.0
    """The shortest time without a step, in minutes."""
    phase_minutes: float = 60.0
    """The limit before the second step, in validation and while a save is waited for, in minutes."""


BleuTokenizer = Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "none"]
"""How sacreBLEU splits text into words before it counts them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation during training, and how its sentences are translated."""

    every_steps: int = 1000
    """Validates after every this many steps, and after the last."""
    beam_size: int = 4
    """Hypotheses that beam search keeps. 1 is greedy search."""
    length_penalty: float = 0.6
    """Exponent alpha of the length penalty (Wu et al. 2016). 0 prefers short translations."""
    max_sentences: int = 1000
    """Sentences of each corpus that are translated for BLEU and chrF. 0: none. The loss is always that of all."""
    tokenize: BleuTokenizer = "13a"
    """sacreBLEU's tokenizer for BLEU. Languages without spaces need zh, ja-mecab, char or flores200."""
    metric: Literal["bleu", "chrf", "nll"] = "bleu"
    """The score that decides which checkpoint is best, on the first corpus of `data.valid`."""
    patience: int = 0
    """Ends the run after this many validations without a better score. 0: never."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` follows WANDB_MODE and WANDB_DISABLED; without them it is online if an API key is configured, and
    otherwise offline."""
    project: str | None = None
    """The project there. By default WANDB_PROJECT, or `dragoman`."""
    entity: str | None = None
    """The user or team there. By default WANDB_ENTITY, or W&B's own default."""
    name: str | None = None
    """The name of the run there. By default WANDB_NAME, or the name of the run directory."""
    x_axis: Literal["step", "target_tokens"] = "step"
    """What charts are drawn over at first; both are recorded."""
    alerts: bool = True
    """Sends W&B's alerts (mail, Slack) for rollbacks, failed saves and the end."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the course of a run is reported, besides the console and metrics.jsonl."""

    every_steps: int = 50
    """Reports every this many steps, here and on the console and in metrics.jsonl."""
    tensorboard: bool = False
    """Writes TensorBoard's files into the folder `tensorboard` of the run directory."""
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one run. Read and checked by `trainer.configuration.reading`."""

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


def settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every setting, depth first; a list of corpora is one setting."""
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value
