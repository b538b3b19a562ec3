#!/usr/bin/env bash
# What only a GPU can show: the `gpu` tests and the speed table of base and big. Under 9 minutes.
# Run in the repository's root with python3 (torch 2.11 or later) on the path: tests/benchmarks/gpu.sh [OUTPUT.json]
set -euo pipefail
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
output=${1:-tests/benchmarks/results/gpu-$(date +%F).json}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device: nothing was run"'
timeout 180 python3 -m pytest -q -m gpu -p no:cacheprovider tests/test_gpu.py || echo "the gpu tests failed: see above" >&2

# Made-up text with the shape of news: sentences of about 28 tokens, and a vocabulary of the papers' size.
python3 - "$work" <<'PY'
import random
import sys

import sentencepiece

draw, folder = random.Random(1), sys.argv[1]
words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(40000)]
for side in ("source", "target"):
    with open(f"{folder}/{side}", "w") as file:
        for _ in range(60000):
            file.write(" ".join(draw.choices(words, k=draw.randint(4, 50))) + "\n")
sentencepiece.SentencePieceTrainer.train(
    input=f"{folder}/source", model_prefix=f"{folder}/words", model_type="word", vocab_size=36000,
    pad_id=0, unk_id=1, bos_id=2, eos_id=3, minloglevel=2,
)
PY

: > "$output"
speed() {
  timeout 90 python3 tests/benchmarks/train_speed.py --source "$work/source" --target "$work/target" \
    --tokenizer "$work/words.model" --cache "$work/store" --warm 400000 --tokens 2000000 "$@" | tee -a "$output" || echo "not measured: $*" >&2
}
speed --preset base --max-tokens 16384
speed --preset base --max-tokens 32768
speed --preset base --max-tokens 65536
speed --preset big --max-tokens 16384
speed --preset big --max-tokens 16384 --engine zero2
speed --preset big --max-tokens 16384 --engine zero3
speed --preset big --max-tokens 32768 --activation-checkpointing full

timeout 60 python3 tests/benchmarks/checkpoint.py --preset big --directory "$work" | tee -a "$output" ||
  echo "the cost of a checkpoint was not measured" >&2
