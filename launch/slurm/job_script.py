"""The script of a SLURM job: what the cluster's profile asks for, one torchrun a node, and what follows their end.

All decisions are `launch.slurm.requeue`'s; the script passes signals on and does what it is told.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.profile import Profile
from trainer.run_directory.layout import CONFIG, JOB_CODE, JOB_OUTCOMES, JOBS

_BODY = """\
run={run}
python={python}
export PYTHONPATH="$run/{folder}/{code}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
export DRAGOMAN_OUTCOMES="$run/{folder}/{outcomes}/$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}"
unset SLURM_EXPORT_ENV  # the steps get the environment of this script, which is not that of whoever submitted it
{site}
set -u
on_host() {{ {host_python} -m launch.slurm.requeue "$@"; }}

on_host begin "$run"
case $? in
  0) ;;
  {nothing_to_do}) exit 0 ;;
  *) exit 1 ;;
esac

{address}
port=$((20000 + SLURM_JOB_ID % 20000))
step='' warned=''
# Before the time limit or a preemption the ranks are told to save and stop. torchrun itself would die of USR1.
trap 'warned=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
srun {srun} bash -c 'trap "" USR1; exec "$@"' _ \\
  {container}"$python" -m torch.distributed.run --nnodes {nodes} --nproc-per-node {processes} --max-restarts 0 \\
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" --rdzv-endpoint "$address:$port" \\
  {local_address}--shutdown-timeout 240 -m dragoman_script worker "$run/{folder}/{config}" &
step=$!
while :; do  # a signal ends `wait` early
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break
done

trap '' USR1 TERM
scontrol show job "$SLURM_JOB_ID" --oneliner | on_host end "$run" "$status" ${{warned:+--warned}} {limits}
verdict=$?
if [ "$verdict" -eq {requeue} ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$verdict"
"""


@dataclass(frozen=True)
class JobRequest:
    """What is asked for in one job: the run's directory, an absolute path, and where relative paths of its corpora
    start."""

    run_directory: Path
    working_directory: Path
    nodes: int
    python: str
    chained: bool = False


def render(request: JobRequest, profile: Profile) -> str:
    """The text of the script."""
    from launch.slurm.requeue import NOTHING_TO_DO, REQUEUE

    # sbatch knows a shell's quotes.
    head = "\n".join(f"#SBATCH {shlex.quote(option)}" for option in _options(request, profile))
    python = profile.python or request.python
    body = _BODY.format(
        run=shlex.quote(str(request.run_directory)),
        folder=JOBS,
        code=JOB_CODE,
        outcomes=JOB_OUTCOMES,
        config=CONFIG,
        python=shlex.quote(python),
        site="\n".join(_site(profile)),
        host_python="python3" if profile.container or profile.python else '"$python"',
        address=_address(profile),
        srun=shlex.join(["--kill-on-bad-exit=1", "--wait=120", *profile.srun_options]),
        container="".join(f"{shlex.quote(word)} " for word in profile.container),
        nodes=request.nodes,
        processes=profile.processes_per_node,
        local_address=f"--local-addr {shlex.quote(profile.address)} " if profile.address else "",
        limits=f"--max-crashes {profile.max_crashes}{'' if profile.requeue else ' --no-requeue'}",
        nothing_to_do=NOTHING_TO_DO,
        requeue=REQUEUE,
    )
    return f"#!/bin/bash\n# Written by `dragoman submit`. Code and configuration lie beside it.\n{head}\n\n{body}"


def _options(request: JobRequest, profile: Profile) -> Iterator[str]:
    yield f"--job-name={request.run_directory.name}"
    yield f"--nodes={request.nodes}"
    yield "--ntasks-per-node=1"
    if profile.cpus_per_process is not None:
        yield f"--cpus-per-task={profile.cpus_per_process * profile.processes_per_node}"
    asked = f"{profile.gpu_type}:{profile.processes_per_node}" if profile.gpu_type else f"{profile.processes_per_node}"
    if profile.gpus != "none":
        yield f"--gres=gpu:{asked}" if profile.gpus == "gres" else f"--gpus-per-node={asked}"
    named = {"mem": profile.memory, "time": profile.time}
    for name in ("account", "partition", "qos", "constraint"):
        named[name] = getattr(profile, name)
    yield from (f"--{name}={value}" for name, value in named.items() if value is not None)
    yield from profile.sbatch_options
    yield f"--chdir={request.working_directory}"
    yield f"--output={str(request.run_directory / JOBS).replace('%', '%%')}/job-%j.log"
    yield "--open-mode=append"
    yield "--requeue" if profile.requeue else "--no-requeue"
    yield f"--signal=B:USR1@{profile.signal_seconds}"
    yield "--export=NONE"


def _site(profile: Profile) -> Iterator[str]:
    if profile.modules:
        yield f"module load {shlex.join(profile.modules)}"
    if profile.network_interface:
        name = shlex.quote(profile.network_interface)
        yield f"export NCCL_SOCKET_IFNAME={name} GLOO_SOCKET_IFNAME={name}"
    if profile.cpus_per_process is not None:
        yield f"export OMP_NUM_THREADS={profile.cpus_per_process}"
        yield f"export SRUN_CPUS_PER_TASK={profile.cpus_per_process * profile.processes_per_node}"
    yield from profile.environment


def _address(profile: Profile) -> str:
    if profile.address:
        return f"address={shlex.quote(profile.address)}"
    return 'address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
