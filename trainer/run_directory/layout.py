"""Every name in a run directory. Standard library only, so that launchers and job scripts can use it.

RUN/
  config.yaml                   the resolved configuration
  tokenizer.model               or tokenizer.source.model and tokenizer.target.model (trainer.data.text.tokenizer)
  tokenizer.sha256              the checksums of the tokenizers that the run was prepared with
  data/                         prepared corpora, unless `data.cache` names another folder (trainer.data)
  metrics.jsonl                 one object per line: training steps, validations, events
  checkpoints/
    step-00010000/              a complete checkpoint; .tmp-, .old-, .replaced- and damaged- ones are not
      state/                    rank-00003-of-00008.safetensors: fragments of weights and moments
      trainer.json              progress of the training
      lanes.json                position in the data
      manifest.json             size and checksum of every file above
  owner                         locked by the process that trains or prepares, and names it
  state.json                    what rank 0 reported last: training, or why training ended
  failures.jsonl                one object per failure of a rank
  heartbeats/                   rank-00003.json: rewritten every few seconds; rank-00003.stacks: of a rank that hung
  logs/                         rank-00003.log: the output of each rank
  memory.json                   in how many parts micro-batches are computed, after running out of memory
  wandb/  wandb_id  wandb_complete    W&B's own files, the id of the run there, and whether it has everything
  tensorboard/                  TensorBoard's files
  restarts.jsonl                one object per decision to start a SLURM job again
  slurm/
    config.yaml  code/  job.sh  what was submitted
    job-123.log                 the output of a job
    begun.json                  how the run stood when the job began
    outcomes/123.0/             rank-00003.json: why a worker failed, per job and restart

MODEL/                          a model directory: config.yaml, tokenizer files, model.safetensors
"""

import re
from pathlib import Path

CONFIG = "config.yaml"
DATA = "data"
METRICS = "metrics.jsonl"

CHECKPOINTS = "checkpoints"
CHECKPOINT_STATE = "state"
TRAINER_DOCUMENT = "trainer.json"
LANES_DOCUMENT = "lanes.json"
MANIFEST = "manifest.json"

OWNER = "owner"
STATE = "state.json"
FAILURES = "failures.jsonl"
HEARTBEATS = "heartbeats"
LOGS = "logs"
MEMORY = "memory.json"

WANDB = "wandb"
WANDB_ID = "wandb_id"
WANDB_COMPLETE = "wandb_complete"
TENSORBOARD = "tensorboard"

RESTARTS = "restarts.jsonl"
JOBS = "slurm"
JOB_CODE = "code"
JOB_SCRIPT = "job.sh"
JOB_BEGUN = "begun.json"
JOB_OUTCOMES = "outcomes"

WEIGHTS = "model.safetensors"

_CHECKPOINT = re.compile(r"step-(\d{8,})")
_RANK = re.compile(r"rank-(\d+)")


def config_path(run_directory: str | Path) -> Path:
    """The resolved configuration of a run, or of a model directory."""
    return Path(run_directory) / CONFIG


def metrics_path(run_directory: str | Path) -> Path:
    """The record of a run, see `trainer.reporting.metrics_file`."""
    return Path(run_directory) / METRICS


def log_path(run_directory: str | Path, rank: int) -> Path:
    """The log of a rank."""
    return Path(run_directory) / LOGS / f"{rank_name(rank)}.log"


def heartbeat_path(run_directory: str | Path, rank: int) -> Path:
    """The heartbeat of a rank; its stacks have the suffix `.stacks` instead."""
    return Path(run_directory) / HEARTBEATS / f"{rank_name(rank)}.json"


def rank_name(rank: int) -> str:
    """How the files of a rank begin."""
    return f"rank-{rank:05d}"


def files_by_rank(folder: Path, suffix: str) -> dict[int, Path]:
    """The files `rank-….suffix` of a folder by rank, in order; other names are ignored."""
    found = {path: _RANK.fullmatch(path.name.removesuffix(suffix)) for path in folder.glob(f"*{suffix}")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint after `step`."""
    return f"step-{step:08d}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step after which a published checkpoint was taken."""
    found = _CHECKPOINT.fullmatch(checkpoint.name)
    assert found, f"{checkpoint} is no published checkpoint"
    return int(found[1])


def list_checkpoints(run_directory: str | Path) -> list[Path]:
    """Published checkpoints, oldest first; anything else in that folder is ignored."""
    found = (Path(run_directory) / CHECKPOINTS).glob("step-*")
    return sorted((path for path in found if _CHECKPOINT.fullmatch(path.name)), key=checkpoint_step)
