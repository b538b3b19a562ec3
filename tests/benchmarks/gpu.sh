#!/usr/bin/env bash
# What only a GPU can show: the `gpu` tests and the speed table of base and big. Under 9 minutes.
# Run in the repository's root with python3 (torch 2.11 or later) on the path: tests/benchmarks/gpu.sh [OUTPUT.json]
set -euo pipefail
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
output=${1:-tests/benchmarks/results/gpu-$(date +%F).json}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device: nothing was run"'
timeout 180 python3 -m pytest -q -m gpu -p no:cacheprovider tests

# Four sentences of the built-in corpus on a line give the lengths of news text (about 30 words), without any download.
python3 -m trainer.data.phrasebook train "$work"
for language in fr en; do paste -d ' ' - - - - < "$work/train.$language" > "$work/long.$language"; done

: > "$output"
speed() {
  timeout 75 python3 tests/benchmarks/train_speed.py --source "$work/long.fr" --target "$work/long.en" \
    --vocab-size 1000 --attention-dropout 0 --warm 400000 --tokens 3000000 "$@" | tee -a "$output"
}
speed --preset base --max-tokens 16384
speed --preset base --max-tokens 16384 --compile
speed --preset big --max-tokens 16384
speed --preset big --max-tokens 16384 --engine zero2
speed --preset big --max-tokens 32768 --activation-checkpointing full
