#!/bin/bash
# Written by `dragoman submit`. Code and configuration are next to it.
#SBATCH '--job-name=my 100% run'
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=2-00:00:00
#SBATCH --partition=batch
#SBATCH --exclusive
#SBATCH --chdir=/shared
#SBATCH '--output=/shared/runs/my 100%% run/slurm/job-%j.log'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@900
#SBATCH --export=NONE

run='/shared/runs/my 100% run'
python=python3
unset SLURM_EXPORT_ENV  # the steps get this script's environment, not that of the user who submitted it
unset PYTHONPATH
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
export DRAGOMAN_OUTCOMES="$run/slurm/outcomes/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
export OMP_NUM_THREADS=16
export SRUN_CPUS_PER_TASK=64
export PYTHONPATH="$run/slurm/code${PYTHONPATH:+:$PYTHONPATH}"  # the submitted code comes first
set -u
on_host() { python3 -m "launch.slurm.$1" "${@:2}"; }

on_host requeue begin "$run"
case $? in
  0) ;;
  86) exit 0 ;;
  *) exit 1 ;;
esac

address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# On each node. torchrun itself would die of USR1. The first node owns the port, or ends at once without it.
# shellcheck disable=SC2317  # bash calls it by name, below
on_node() {
  trap '' USR1
  export PET_RDZV_CONF="is_host=$((SLURM_NODEID == 0))"
  [ "$SLURM_NODEID" = 0 ] || reach_first_node &
  exec "$@"
}
# shellcheck disable=SC2317
reach_first_node() {
  until timeout 5 bash -c ": <'/dev/tcp/$address/$port'" 2>/dev/null; do
    [ "$SECONDS" -lt 50 ] || break
    sleep 2
  done
  [ "$SECONDS" -lt 50 ] || echo "dragoman: $(hostname) does not reach $address:$port, where the" \
    "processes of this job meet: $address is slow to start, or the network does not connect them." >&2
}
export -f on_node reach_first_node
step='' warned='' status=1
# Before the time limit or a preemption the ranks are asked to save and stop.
trap 'warned=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
if port=$(on_host rendezvous "$address"); then
  export address port
  srun --kill-on-bad-exit=1 --wait=120 bash -c 'on_node "$@"' _ \
    apptainer exec --nv --bind /shared /shared/images/dragoman.sif "$python" -m torch.distributed.run --nnodes 4 --nproc-per-node 4 --max-restarts 0 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$address:$port" \
    --shutdown-timeout 240 -m dragoman_script worker "$run/slurm/config.yaml" &
  step=$!
  while :; do  # a signal ends `wait` early
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
  done
fi

trap '' USR1 TERM
scontrol show job "$SLURM_JOB_ID" --oneliner | on_host requeue end "$run" "$status" ${warned:+--warned} --max-crashes 10
follows=$?
if [ "$follows" -eq 85 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$follows"
