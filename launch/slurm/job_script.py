"""The script of a SLURM job: what the cluster's profile asks for, one torchrun a node, and what follows their end.

The script passes signals on; what follows the end is decided by `launch.slurm.requeue`.
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
unset SLURM_EXPORT_ENV  # the steps get this script's environment, not that of the user who submitted it
unset PYTHONPATH
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
export DRAGOMAN_OUTCOMES="$run/{folder}/{outcomes}/$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}"
{site}
export PYTHONPATH="$run/{folder}/{code}${{PYTHONPATH:+:$PYTHONPATH}}"  # the submitted code comes first
set -u
on_host() {{ {host_python} -m "launch.slurm.$1" "${{@:2}}"; }}

on_host requeue begin "$run"
case $? in
  0) ;;
  {nothing_to_do}) exit 0 ;;
  *) exit 1 ;;
esac

{address}
# On each node. torchrun itself would die of USR1. The first node owns the port, or ends at once without it.
# shellcheck disable=SC2317  # bash calls it by name, below
on_node() {{
  trap '' USR1
  export PET_RDZV_CONF="is_host=$((SLURM_NODEID == 0))"
  [ "$SLURM_NODEID" = 0 ] || reach_first_node &
  exec "$@"
}}
# shellcheck disable=SC2317
reach_first_node() {{
  until timeout 5 bash -c ": <'/dev/tcp/$address/$port'" 2>/dev/null; do
    [ "$SECONDS" -lt {seconds_to_meet} ] || break
    sleep 2
  done
  [ "$SECONDS" -lt {seconds_to_meet} ] || echo "dragoman: $(hostname) does not reach $address:$port, where the" \\
    "processes of this job meet: $address is slow to start, or the network does not connect them." >&2
}}
export -f on_node reach_first_node
step='' warned='' status=1
# Before the time limit or a preemption the ranks are asked to save and stop.
trap 'warned=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
if port=$(on_host rendezvous "$address"); then
  export address port
  srun {srun} bash -c 'on_node "$@"' _ \\
    {container}"$python" -m torch.distributed.run --nnodes {nodes} --nproc-per-node {processes} --max-restarts 0 \\
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" --rdzv-endpoint "$address:$port" \\
    {local_address}--shutdown-timeout 240 -m dragoman_script worker "$run/{folder}/{config}" &
  step=$!
  while :; do  # a signal ends `wait` early
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
  done
fi

trap '' USR1 TERM
scontrol show job "$SLURM_JOB_ID" --oneliner | on_host requeue end "$run" "$status" ${{warned:+--warned}} {limits}
follows=$?
if [ "$follows" -eq {requeue} ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$follows"
"""
_SECONDS_TO_MEET = 50
"""After as long a node says that it cannot reach the first one; torchrun gives up after 60."""


@dataclass(frozen=True)
class JobRequest:
    """What one job is for. Both paths are absolute; relative paths of corpora start at `working_directory`."""

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
        seconds_to_meet=_SECONDS_TO_MEET,
        processes=profile.processes_per_node,
        local_address=f"--local-addr {shlex.quote(profile.address)} " if profile.address else "",
        limits=f"--max-crashes {profile.max_crashes}{'' if profile.requeue else ' --no-requeue'}",
        nothing_to_do=NOTHING_TO_DO,
        requeue=REQUEUE,
    )
    return f"#!/bin/bash\n# Written by `dragoman submit`. Code and configuration are next to it.\n{head}\n\n{body}"


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
