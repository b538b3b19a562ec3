"""Where a run stands."""

from dataclasses import dataclass, field, fields, replace

from trainer.checkpoints.trainer_document import TrainerDocument


@dataclass
class Progress:
    """What the loop counts, and the scores it compares with; `trainer.json` of a checkpoint holds it.

    `score` is that of the validation at this very step, if there was one; higher is better. `validation_due` means
    that the validation at this step has not been completed. `bad_steps` counts the last steps in a row that could not
    be learnt from, `lr_scale` multiplies the learning rate (a rollback may have lowered it), and `recent_losses` decide
    which loss is a spike.
    """

    step: int = 0
    target_tokens: int = 0
    score: float | None = None
    best_score: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    bad_steps: int = 0
    rollbacks: int = 0
    lr_scale: float = 1.0
    recent_losses: list[float] = field(default_factory=list)
    validation_due: bool = False

    @classmethod
    def from_document(cls, document: TrainerDocument, metric: str) -> "Progress":
        """From a checkpoint. Drops scores of another metric than `metric`. Raises UserError for an unknown key."""
        document.require_progress_keys([field.name for field in fields(cls)])
        progress = cls(**document.progress)
        if document.metric == metric:
            return progress
        return replace(progress, score=None, best_score=None, best_step=None, evaluations_since_best=0)

    def judge(self, score: float) -> bool:
        """Records the score of a validation at this step. Returns whether it is the best so far."""
        best = self.best_score is None or score > self.best_score
        self.score, self.validation_due = score, False
        self.best_score, self.best_step = (score, self.step) if best else (self.best_score, self.best_step)
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        return best
