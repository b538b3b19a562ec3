"""How fast the data comes: text to token store, token store to packed micro-batches, and a resume far into a run.

    python tests/benchmarks/data_speed.py --data DIR [--work DIR] [--max-tokens N]

reads every DIR/**/NAME.en.gz beside which NAME.de.gz lies. Tokens are source plus target tokens without filler; the
feed is timed on one thread, also in seconds of processor time, which a busy machine does not stretch.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.feed import Share, TrainingData
from trainer.data.packing import SpecialIds
from trainer.data.prepare import Prepared, prepare

SECONDS = 10.0
FAR_WINDOW = 1_000_000


def corpora(directory: Path) -> tuple[CorpusConfig, ...]:
    sources = sorted(directory.rglob("*.en.gz"))
    pairs = [(source, source.with_name(source.name.replace(".en.gz", ".de.gz"))) for source in sources]
    return tuple(CorpusConfig(source=str(s), target=str(t)) for s, t in pairs if t.exists())


def time_prepare(data: DataConfig, directory: Path) -> tuple[Prepared, dict[str, float]]:
    prepare(data, TokenizerConfig(vocab_size=8000), directory / "trains-the-tokenizer")
    given = TokenizerConfig(path=str(directory / "trains-the-tokenizer" / "tokenizer.model"))
    start = time.perf_counter()
    prepared = prepare(data, given, directory / "only-encodes")
    seconds = time.perf_counter() - start
    pairs = sum(store.manifest.num_pairs for store in prepared.stores)
    rate = {} if any(prepared.reused) else {"prepare_pairs_per_second": round(pairs / seconds)}
    return prepared, {"pairs": pairs} | rate


def feed(prepared: Prepared, data: DataConfig) -> TrainingData:
    ids = SpecialIds(prepared.tokenizer.pad_id, prepared.tokenizer.bos_id)
    return TrainingData(prepared.stores, data, ids, seed=1, share=Share(0, 1))


def time_feed(prepared: Prepared, data: DataConfig) -> dict[str, float]:
    """Pulls micro-batches on this thread, past the one that would fetch ahead."""
    training_data = feed(prepared, data)
    micro_batches = training_data._micro_batches_from_here()
    next(micro_batches)
    wall, cpu, tokens, fill, count = time.perf_counter(), time.process_time(), 0, 0.0, 0
    while time.perf_counter() - wall < SECONDS:
        micro_batch, _ = next(micro_batches)
        source, target = micro_batch.batch.source_S.numel(), micro_batch.num_target_tokens
        budget = training_data.budget
        fill += (source + target) / (budget.max_source_tokens + budget.max_target_tokens)
        tokens, count = tokens + source + target, count + 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens_per_second": round(tokens / wall),
        "tokens_per_processor_second": round(tokens / cpu),
        "fill": round(fill / count, 4),
    }


def time_resume(prepared: Prepared, data: DataConfig) -> dict[str, float]:
    """From a state in a far window to the first step after it."""
    training_data = feed(prepared, data)
    state = training_data.state()
    for lane in state["lanes"].values():
        shares = training_data._order.shares
        lane |= {"window": FAR_WINDOW, "positions": [int(share * FAR_WINDOW * data.window) for share in shares]}
    start = time.perf_counter()
    training_data.load_state(state)
    training_data.next_step()
    seconds = time.perf_counter() - start
    training_data.close()
    return {"resume_seconds": round(seconds, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keeps what is prepared here (default: a temporary folder)")
    parser.add_argument("--max-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataConfig(train=corpora(arguments.data), max_tokens=arguments.max_tokens)
    with tempfile.TemporaryDirectory() as temporary:
        prepared, report = time_prepare(data, arguments.work or Path(temporary))
        report |= time_feed(prepared, data) | time_resume(prepared, data)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
