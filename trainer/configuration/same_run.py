"""Which settings may be different when a run resumes."""

from trainer.configuration.sections import Config, settings
from trainer.errors import UserError

# All other settings are part of what was learnt, or of the meaning of the stored state, and must stay as they were.
CHANGEABLE = (
    "run.directory",  # a run may be moved
    "run.max_steps",  # or be prolonged
    "model.preset",  # only a record; the sizes themselves are compared
    "data.valid",  # read again at each start
    "data.max_tokens",  # how many pairs make a batch or a step: a lane's position counts pairs
    "data.max_source_tokens",
    "data.micro_batches_per_step",
    "data.cache",  # where and how far ahead text is read, not what
    "data.prefetch",
    "data.workers",
    "optimizer.peak_lr",  # what a step does next; only the betas are built into the moments
    "optimizer.final_lr",
    "optimizer.eps",
    "optimizer.weight_decay",
    "optimizer.clip",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.label_smoothing",
    "engine.",  # fragments load into any engine
    "bad_steps.",  # what a step does next
    "hang.",
    "checkpoint.",  # what is saved, scored and shown
    "evaluation.",
    "tracking.",
)


def differences(a: Config, b: Config) -> list[str]:
    """The dotted paths of the settings that differ, in the order of the configuration."""
    others = dict(settings(b))
    return [path for path, value in settings(a) if others[path] != value]


def require_same_run(old: Config, new: Config) -> None:
    """Raises UserError, which names the settings, if `new` cannot resume a run that `old` began."""
    fixed = [path for path in differences(old, new) if not path.startswith(CHANGEABLE)]
    if fixed:
        raise UserError(
            f"{new.run.directory} holds a run made with another configuration, which differs in "
            f"{', '.join(f'`{path}`' for path in fixed)}; give {'it its' if len(fixed) == 1 else 'them their'} old "
            f"value{'' if len(fixed) == 1 else 's'} or choose another `run.directory`."
        )
