"""The beginning and the end of a SLURM job, called by its script on the job's first node.

    python -m launch.slurm.requeue begin RUN           has the job anything to do?
    python -m launch.slurm.requeue end RUN STATUS      does it start again?

The exit status answers. Standard library only: if the training runs in a container, this runs outside of it.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from launch.slurm.job_log import job_log_path, last_log_lines
from launch.slurm.requeue_decision import JobEnd, decide, is_cancelled, why_not_to_begin
from launch.slurm.restarts import newest_step, read_decisions, record_decision
from launch.watching.run_history import causes
from launch.worker_failures import OUTCOMES_FOLDER, read_outcomes
from trainer.files import write_atomically
from trainer.run_directory.layout import JOB_BEGUN, JOBS
from trainer.run_directory.state import read_failures, read_state

REQUEUE, NOTHING_TO_DO = 85, 86
_FOLLOWS = {
    "requeue": "the job is requeued",
    "next": "the next job of the chain, or `dragoman submit`, resumes the run",
    "stop": "the job is not started again",
}


def _begin(run: Path) -> int:
    job, restart = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", 0))
    history, state = read_decisions(run), read_state(run)
    why = why_not_to_begin(state, job, history)
    if why:
        print(f"dragoman: there is nothing to do: {why}.")
        return NOTHING_TO_DO
    last = history[-1] if history else {}
    if restart and not (last.get("decision") == "requeue" and last.get("job") == job):
        reason = "SLURM started the job again by itself: a node failed, or no time was left"
        record_decision(run, "requeue", reason, job)
    begun = {"started": (state or {}).get("started"), "num_failures": len(read_failures(run))}
    write_atomically(run / JOBS / JOB_BEGUN, json.dumps(begun | {"log_bytes": _size(job_log_path(run, job))}))
    outcomes = os.environ.get(OUTCOMES_FOLDER)
    if outcomes:
        Path(outcomes).mkdir(parents=True, exist_ok=True)
    return 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _end(run: Path, options: argparse.Namespace, description: str) -> int:
    job, begun = os.environ["SLURM_JOB_ID"], json.loads((run / JOBS / JOB_BEGUN).read_text())
    state, outcomes = read_state(run), os.environ.get(OUTCOMES_FOLDER)
    if state and state.get("started") == begun["started"]:
        state = None  # written by an earlier start
    failures = sorted(read_failures(run)[begun["num_failures"] :], key=lambda failure: failure["time"])
    end = JobEnd(
        status=options.status,
        cancelled=is_cancelled(description),
        warned=options.warned,
        step=newest_step(run),
        state=state,
        outcomes=read_outcomes(Path(outcomes)) if outcomes else [],
        failed_step=next((f.get("step") for f in causes(failures, [])), None),
        last_line="".join(last_log_lines(run, job, 1, since=begun.get("log_bytes", 0))),
        max_crashes=options.max_crashes,
        may_requeue=not options.no_requeue,
    )
    decision = decide(end, read_decisions(run))
    action, reason = decision.decision, decision.reason
    record_decision(run, action, reason, job, crash=decision.crash, trained=state is not None)
    print(f"dragoman: {reason.removesuffix('.')}; {_FOLLOWS[action]}.")
    return REQUEUE if action == "requeue" else decision.status


def main() -> int:
    """`begin RUN`, or `end RUN STATUS` with `scontrol show job` on stdin. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="launch.slurm.requeue", description=__doc__)
    parser.add_argument("moment", choices=("begin", "end"))
    parser.add_argument("run", type=Path)
    parser.add_argument("status", type=int, nargs="?", default=0)
    parser.add_argument("--warned", action="store_true")
    parser.add_argument("--max-crashes", type=int, default=10)
    parser.add_argument("--no-requeue", action="store_true")
    options = parser.parse_args()
    return _begin(options.run) if options.moment == "begin" else _end(options.run, options, sys.stdin.read())


if __name__ == "__main__":
    sys.exit(main())
