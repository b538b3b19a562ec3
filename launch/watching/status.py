"""Where a run stands, from its files and from SLURM. Needs no torch and does not wait."""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm.job_log import last_log_lines
from launch.slurm.job_queue import Job, find_jobs
from launch.slurm.restarts import read_decisions
from launch.watching.job_state import state_before_training
from launch.watching.run_history import (
    Moment,
    Record,
    Restart,
    causes,
    failure_moments,
    last_saves,
    restarts,
)
from trainer.errors import UserError
from trainer.reporting.digest import MetricsDigest
from trainer.run_directory.layout import OWNER, WEIGHTS, config_path, metrics_path
from trainer.run_directory.ownership import find_owner, process_name
from trainer.run_directory.rank_log import last_lines
from trainer.run_directory.state import read_failures, read_state
from trainer.run_directory.watchdog import read_heartbeats

# Heartbeats come every 10 s. If the last one is older than this, the process or its file system is gone.
_SECONDS_TO_BE_SILENT = 60.0
# Report a rank once it has used this fraction of its hang limit.
_NOTEWORTHY = 0.25
_NUM_FAILURES, _NUM_LINES = 3, 8


@dataclass(frozen=True)
class Score:
    """The last and the best validation on one set; BLEU is None if nothing was translated."""

    name: str
    step: int
    nll: float | None
    bleu: float | None
    best_step: int | None
    best_bleu: float | None


@dataclass(frozen=True)
class RunStatus:
    """`state` is one of new, submitted, starting, failed to start, training, stopped, failed, died, finished.

    A run has died if no process of it is left and none reported why. `slurm/README.md` explains the others.

    Times are seconds since 1970. `loss`, `nll` and `tokens_per_second` (real target tokens) are the last report's;
    `last_lines` are the end of the log of a run that failed or died.
    """

    run: str
    state: str
    detail: str
    started: float | None
    last_alive: float | None
    host: str | None
    world_size: int | None
    engine: str | None
    step: int
    max_steps: int | None
    loss: float | None
    nll: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    scores: list[Score]
    restarts: list[Restart]
    checkpoint: Moment | None
    failed_save: Moment | None
    troubled_ranks: list[str]
    failures: list[Moment]
    last_lines: list[str]
    job: Job | None


def find_runs(folder: Path) -> list[Path]:
    """The run directory itself, or those in a folder and its subfolders. Raises UserError if there is none."""
    if _is_run(folder):
        return [folder]
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name a run directory, or a folder that holds some.")
    children = sorted(folder.iterdir())
    found = [path for child in children for path in ([child] if _is_run(child) else sorted(child.glob("*")))]
    found = [path for path in found if _is_run(path)]
    if not found:
        raise UserError(f"no run has been started in {folder}: name a run directory, or a folder that holds some.")
    return found


def _is_run(path: Path) -> bool:
    """Whether a run was started there, or submitted. A model directory has a configuration as well."""
    return (path / OWNER).exists() or (config_path(path).exists() and not (path / WEIGHTS).exists())


class RunReader:
    """Reads one run repeatedly; of its metrics only what is new."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._metrics = MetricsDigest(metrics_path(directory))

    @property
    def job_ids(self) -> list[str]:
        """The ids of the run's SLURM jobs, newest last."""
        ids = [record.get("job") for record in read_decisions(self._directory)]
        ids.append((read_state(self._directory) or {}).get("slurm_job"))
        return [str(job) for job in ids if job]

    def read(self, jobs: Mapping[str, Job]) -> RunStatus:
        """The run as it stands now; `jobs` is what SLURM reports."""
        self._metrics.update()
        now, reported = time.time(), read_state(self._directory) or {}
        beats = _heartbeats(self._directory, reported)
        train, events = self._metrics.train or {}, self._metrics.events
        failures = causes(read_failures(self._directory), events)
        decisions = read_decisions(self._directory)
        state, detail = _state(self._directory, reported, beats, now)
        if state not in ("training", "starting"):
            state, detail = state_before_training(decisions, reported.get("started", 0.0), jobs) or (state, detail)
        cause = next((failure for failure in failures if failure["time"] >= reported.get("started", 0.0)), None)
        if state == "failed" and cause and cause["rank"] != 0:
            detail = f"rank {cause['rank']}: {cause['error']}"
        checkpoint, failed_save = last_saves(self._directory, events)
        ids = [number for number in self.job_ids if number in jobs]
        steps = [train.get("step", 0), reported.get("step", 0), *(beat["step"] for beat in beats.values())]
        return RunStatus(
            run=str(self._directory),
            state=state,
            detail=detail,
            started=reported.get("started"),
            last_alive=max([reported.get("time", 0.0), *(beat["time"] for beat in beats.values())]) or None,
            host=reported.get("host"),
            world_size=reported.get("world_size"),
            engine=next((event["engine"] for event in reversed(events) if "engine" in event), None),
            step=max(*steps, checkpoint.step if checkpoint else 0),
            max_steps=reported.get("max_steps"),
            loss=train.get("loss"),
            nll=train.get("nll"),
            tokens_per_second=train.get("tokens_per_second"),
            eta_seconds=self._eta(train, now) if state == "training" else None,
            scores=[_score(name, records) for name, records in self._metrics.valid.items()],
            restarts=restarts(events, failures, decisions),
            checkpoint=checkpoint,
            failed_save=failed_save,
            troubled_ranks=list(_troubles(reported, beats, now)) if state == "training" else [],
            failures=failure_moments(failures[-_NUM_FAILURES:]),
            last_lines=_last_lines(self._directory, state, cause, beats, decisions),
            job=jobs[ids[-1]] if ids else None,
        )

    def _eta(self, train: Record, now: float) -> float | None:
        """The estimate of the last report, minus the time since then."""
        if train.get("eta_seconds") is None:
            return None
        return max(0.0, float(train["eta_seconds"]) - (now - metrics_path(self._directory).stat().st_mtime))


def read_all(readers: Sequence[RunReader]) -> list[RunStatus]:
    """Reads all runs and asks SLURM once."""
    jobs = find_jobs(number for reader in readers for number in reader.job_ids)
    return [reader.read(jobs) for reader in readers]


def _heartbeats(directory: Path, reported: Record) -> dict[int, dict[str, Any]]:
    """The heartbeats of the last start: an earlier one may have had more ranks."""
    since, world_size = reported.get("started", 0.0) - _SECONDS_TO_BE_SILENT, reported.get("world_size", 0)
    return {r: b for r, b in read_heartbeats(directory).items() if r < world_size and b["time"] >= since}


def _state(directory: Path, reported: Record, beats: Mapping[int, Record], now: float) -> tuple[str, str]:
    """The state of the run and more about it. `reported` is the state that rank 0 wrote, which may have died since."""
    try:
        owner, sees_locks = find_owner(directory), reported.get("host") == socket.gethostname()
    except OSError:
        owner, sees_locks = None, False
    state, reason = reported.get("state"), reported.get("reason")
    is_its_own = owner == process_name(reported.get("pid", 0), str(reported.get("host")))
    if owner is not None and (state in (None, "failed") or not is_its_own):
        return "starting", f"{owner} prepares the data or loads the model"
    if state is None:
        return "new", "nothing has been trained yet"
    if state == "stopped":
        return state, f"{reason}; it has been saved, and the same command resumes it"
    if state != "training":
        return state, "" if reason == state else str(reason)
    if owner is not None:
        return state, owner
    recent = any(now - beat["time"] < _SECONDS_TO_BE_SILENT for beat in beats.values())
    if recent and not sees_locks:
        return state, f"process {reported.get('pid')} on {reported.get('host')}, whose lock cannot be seen from here"
    return "died", "no process is left and none reported why; the same command resumes from the newest checkpoint"


def _troubles(reported: Record, beats: Mapping[int, Record], now: float) -> Iterator[str]:
    """A sentence for each rank that is silent or makes no progress."""
    for rank in range(reported.get("world_size", 0)):
        beat = beats.get(rank)
        if beat is None:
            yield f"rank {rank} has no heartbeat"
        elif now - beat["time"] > _SECONDS_TO_BE_SILENT:
            yield f"rank {rank} on {beat.get('host')} has been silent for {now - beat['time']:.0f} s"
        elif beat.get("idle", 0.0) > _NOTEWORTHY * beat.get("limit", float("inf")):
            yield (
                f"rank {rank} on {beat.get('host')} has made no progress for {beat['idle']:.0f} s in the phase "
                f"{beat.get('phase')!r} after step {beat['step']}; it counts as hung after {beat['limit']:.0f} s"
            )


def _score(name: str, records: Sequence[Record]) -> Score:
    last = records[-1]
    best = max((r for r in records if r.get("bleu") is not None), key=lambda r: r["bleu"], default={})
    return Score(name, last["step"], last.get("nll"), last.get("bleu"), best.get("step"), best.get("bleu"))


def _last_lines(
    directory: Path, state: str, cause: Record | None, beats: Mapping[int, Record], decisions: Sequence[Record]
) -> list[str]:
    """The end of the cause's traceback, of the log of the rank that was the first to fall silent, or of the job's."""
    if state == "failed" and cause:
        return str(cause["traceback"]).splitlines()[-_NUM_LINES:]
    if state == "died":
        return last_lines(directory, min(beats, key=lambda rank: beats[rank]["time"], default=0), _NUM_LINES)
    if decisions and state in ("submitted", "failed to start"):
        return last_log_lines(directory, str(decisions[-1].get("job")), _NUM_LINES)
    return []
