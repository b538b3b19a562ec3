"""`dragoman submit`: checks what `train` checks, copies code and configuration, and submits a SLURM job."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.command_environment import command_environment
from launch.slurm.job_queue import find_jobs
from launch.slurm.job_script import JobRequest, render
from launch.slurm.profile import Profile
from launch.slurm.restarts import read_decisions, record_decision
from launch.slurm.snapshot import take_snapshot
from trainer.configuration import reading as configuration
from trainer.configuration.same_run import require_same_run
from trainer.configuration.sections import Config, EvaluationConfig
from trainer.errors import UserError
from trainer.files import write_atomically
from trainer.run_directory.layout import CONFIG, JOB_CODE, JOB_SCRIPT, JOBS, config_path, metrics_path
from trainer.run_directory.ownership import owning
from trainer.run_directory.state import read_state

_SECONDS_TO_ANSWER = 60


@dataclass(frozen=True)
class Submission:
    """What the user asks for besides the configuration.

    There are `chain` jobs, each after the one before. The first starts after the existing job `after`, if one is given.
    """

    profile: Profile
    nodes: int = 1
    chain: int = 1
    after: str | None = None


def sweep(config: str, changes: Sequence[str], arrays: Sequence[str]) -> list[Config]:
    """One configuration per combination of the values in `key=value,value,…`, each with its own run directory.

    Raises UserError for the first one that is not valid.
    """
    axes = [_axis(array) for array in arrays]
    configs = []
    for chosen in itertools.product(*axes):
        found = configuration.load(config, [*changes, *chosen])
        if chosen:
            named = f"run.directory={found.run.directory}-{'-'.join(map(_short, chosen))}"
            found = configuration.load(config, [*changes, *chosen, named])
        configs.append(found)
    return configs


def _short(change: str) -> str:
    """`optimizer.peak_lr=1e-3` as part of a folder's name."""
    key, _, value = change.partition("=")
    return re.sub(r"[^\w.=+-]", "_", f"{key.rpartition('.')[2]}={value}")


def _axis(array: str) -> list[str]:
    key, equals, values = array.partition("=")
    if not equals or not all(values.split(",")):
        raise UserError(f"--array is written `section.key=value,value`, but is `{array}`.")
    return [f"{key}={value}" for value in values.split(",")]


def check(config: Config, submission: Submission) -> None:
    """Checks everything that `train` checks before it starts processes. Raises UserError."""
    from trainer.data.order.partition import check_world_size
    from trainer.data.preparation.build_stores import check_text

    for path in (str(Path.cwd()), config.run.directory):
        if re.search(r"[\\\n]", path):
            raise UserError(f"SLURM takes no path with a backslash or a line break: rename {path!r}.")
    check_world_size(config.data, submission.nodes * submission.profile.processes_per_node)
    check_text(config.data, config.tokenizer, config.run.directory)
    if config.evaluation.tokenize != EvaluationConfig.tokenize:
        from trainer.inference.scoring import check_tokenize

        check_tokenize(config.evaluation.tokenize)
    directory = Path(config.run.directory)
    written = config_path(directory)
    if metrics_path(directory).exists() and written.exists():
        require_same_run(configuration.load_resolved(written), config)
    _refuse_if_finished(directory, config.run.max_steps)


def dry_run(config: Config, submission: Submission) -> Iterator[str]:
    """Yields the script and, on a machine with SLURM, what `sbatch --test-only` answers. Writes nothing."""
    script = _script(config, submission)
    yield script
    if shutil.which("sbatch"):
        yield f"# sbatch --test-only: {_sbatch(['--test-only'], script)}"
    else:
        yield "# There is no SLURM on this machine, so that `sbatch --test-only` was not asked."


def submit(config: Config, submission: Submission) -> Iterator[str]:
    """Copies code and configuration into the run directory and submits the jobs. Yields a line about each.

    Raises UserError if there is no SLURM, if it refuses the job, or if the run is already in the queue.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no SLURM on this machine (no `sbatch` in PATH): submit from a login node of the cluster, or "
            "`dragoman train` here."
        )
    directory = Path(config.run.directory)
    _refuse_if_queued(directory)
    try:
        (directory / JOBS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"`run.directory` is {directory}, but {error.filename} cannot be written ({error.strerror}): name another "
            "folder, or change its permissions."
        ) from error
    with owning(directory):
        _refuse_if_queued(directory)  # another `submit` may have been quicker
        code = take_snapshot(directory / JOBS / JOB_CODE)
        frozen = directory / JOBS / CONFIG
        write_atomically(frozen, configuration.dump(config))
        if not config_path(directory).exists():
            write_atomically(config_path(directory), configuration.dump(config))
        path = directory / JOBS / JOB_SCRIPT
        write_atomically(path, _script(config, submission))
        after = submission.after
        for _ in range(submission.chain):
            options = ["--parsable", *([f"--dependency=afterany:{after}"] if after else [])]
            after = _sbatch([*options, str(path)]).splitlines()[-1].split(";")[0]
            size = f"nodes: {submission.nodes}, processes on each: {submission.profile.processes_per_node}, {code}"
            record_decision(directory, "submitted", f"submitted, {size}", after)
            yield f"job {after}: {directory}, {size}; {path.with_name(f'job-{after}.log')}"


def _script(config: Config, submission: Submission) -> str:
    here = Path.cwd()
    return render(JobRequest(here / config.run.directory, here, submission.nodes, sys.executable), submission.profile)


def _refuse_if_finished(directory: Path, max_steps: int) -> None:
    state = read_state(directory) or {}
    if state.get("state") == "finished" and state["step"] >= max_steps:
        raise UserError(
            f"the run {directory} has finished after step {state['step']}: give it more `run.max_steps`, or name "
            "another `run.directory`."
        )


def _refuse_if_queued(directory: Path) -> None:
    jobs = find_jobs(str(record.get("job")) for record in read_decisions(directory))
    for job in jobs.values():
        if not job.has_ended:
            raise UserError(
                f"the run {directory} is already in the queue: job {job.id} is {job.state}; `scancel {job.id}` ends it."
            )


def _sbatch(options: Sequence[str], script: str | None = None) -> str:
    """Calls sbatch and returns its answer. Raises UserError if SLURM refuses or does not answer."""
    try:
        answer = subprocess.run(
            ["sbatch", *options],
            input=script,
            env=command_environment(),
            capture_output=True,
            text=True,
            timeout=_SECONDS_TO_ANSWER,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise UserError(f"SLURM refuses the job: {' '.join(error.stderr.split())}.") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"SLURM does not answer ({error}): try again later.") from error
    return answer.stdout.strip() or answer.stderr.strip()
