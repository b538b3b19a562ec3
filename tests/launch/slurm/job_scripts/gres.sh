#!/bin/bash
# Written by `dragoman submit`. Code and configuration lie beside it.
#SBATCH '--job-name=my 100% run'
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gres=gpu:a100:4
#SBATCH --mem=0
#SBATCH --time=1-00:00:00
#SBATCH --account=my_project
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --chdir=/shared
#SBATCH '--output=/shared/runs/my 100%% run/slurm/job-%j.log'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --export=NONE

run='/shared/runs/my 100% run'
python=/shared/venv/bin/python
export PYTHONPATH="$run/slurm/code" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
export DRAGOMAN_OUTCOMES="$run/slurm/outcomes/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
unset SLURM_EXPORT_ENV  # the steps get the environment of this script, which is not that of whoever submitted it
export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
export OMP_NUM_THREADS=8
export SRUN_CPUS_PER_TASK=32
set -u
on_host() { "$python" -m launch.slurm.requeue "$@"; }

on_host begin "$run"
case $? in
  0) ;;
  86) exit 0 ;;
  *) exit 1 ;;
esac

address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
step='' warned=''
# Before the time limit or a preemption the ranks are told to save and stop. torchrun itself would die of USR1.
trap 'warned=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
srun --kill-on-bad-exit=1 --wait=120 bash -c 'trap "" USR1; exec "$@"' _ \
  "$python" -m torch.distributed.run --nnodes 4 --nproc-per-node 4 --max-restarts 0 \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$address:$port" \
  --shutdown-timeout 240 -m dragoman_script worker "$run/slurm/config.yaml" &
step=$!
while :; do  # a signal ends `wait` early
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break
done

trap '' USR1 TERM
scontrol show job "$SLURM_JOB_ID" --oneliner | on_host end "$run" "$status" ${warned:+--warned} --max-crashes 10
verdict=$?
if [ "$verdict" -eq 85 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$verdict"
