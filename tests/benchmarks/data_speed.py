"""How fast the data comes, from real text: preparation, micro-batches in both modes, resumes far into a run, memory.

    python tests/benchmarks/data_speed.py --data DIR [--work DIR] [--memory PAIRS]

reads every DIR/**/NAME.en.gz that has a NAME.de.gz next to it, prepares it with a BPE and with a unigram model, and
prints one JSON object. Tokens are source plus target tokens without filler. The feed is timed on one thread, past the
one that works ahead, also in seconds of processor time, which a busy machine does not stretch (of this process and, in
stream mode, of its workers). `--work` keeps what is prepared. `--memory` adds the memory after this many streamed
pairs.

For comparison it times what a user of plain `datasets` would write: streaming, `.shuffle`, `.map` with the tokenizer.
"""

# Nothing heavy here: worker processes import this file.
import argparse
import gc
import itertools
import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig

if TYPE_CHECKING:
    from trainer.data.feeding.feed import TrainingData
    from trainer.data.preparation.build_stores import Prepared
    from trainer.data.stores.store import Store

WORKERS = 2
SAMPLING = 0.1  # the strength that both papers use
KINDS = ("bpe", "unigram")
MODES: tuple[Literal["store", "stream"], ...] = ("store", "stream")
LANES = (8, 64)
FAR_STEPS = (10, 10_000, 1_000_000)
RESUMES = 6
MEMORY_REPORTS = 10


def corpora(directory: Path) -> tuple[CorpusConfig, ...]:
    sources = sorted(directory.rglob("*.en.gz"))
    pairs = [(source, source.with_name(source.name.replace(".en.gz", ".de.gz"))) for source in sources]
    return tuple(
        CorpusConfig(source=str(s), target=str(t), name=f"{s.parent.name}-{s.name.split('.')[0]}")
        for s, t in pairs
        if t.exists()
    )


def time_prepare(data: DataConfig, kind: Any, directory: Path) -> tuple["Prepared", dict[str, float]]:
    from trainer.data.preparation.build_stores import build_stores

    tokenizer = TokenizerConfig(kind=kind, vocab_size=8000)
    start = time.perf_counter()
    prepared = build_stores(replace(data, cache=str(directory / "cache")), tokenizer, directory / kind, WORKERS)
    seconds = time.perf_counter() - start
    pairs = sum(store.manifest.num_pairs for store in prepared.stores)
    return prepared, {"pairs": pairs} | ({} if any(prepared.reused) else {"prepare_seconds": round(seconds, 1)})


def feed(
    prepared: "Prepared",
    data: DataConfig,
    stores: "tuple[Store, ...] | None" = None,
    sampling: float | None = None,
) -> "TrainingData":
    from trainer.data.feeding.feed import TrainingData
    from trainer.data.order.partition import Partition
    from trainer.data.text.encoding import PairEncoder

    encoder = PairEncoder(prepared.tokenizers, data.max_length, sampling) if data.mode == "stream" else None
    ids, partition = prepared.tokenizers.special_ids, Partition(0, 1)
    return TrainingData(stores or prepared.stores, data, ids, seed=1, partition=partition, encoder=encoder)


def time_feed(training_data: "TrainingData", seconds: float) -> dict[str, float]:
    micro_batches = training_data._micro_batches_from_here()
    for _ in range(2 * training_data._config.num_lanes):
        next(micro_batches)
    wall, cpu, tokens, fill, count = time.perf_counter(), processor_seconds(training_data), 0, 0.0, 0
    while time.perf_counter() - wall < seconds:
        batch = next(micro_batches).micro_batch.batch
        source, target = batch.source_S.numel(), batch.num_target_tokens
        budget = training_data.budget
        fill += (source + target) / (budget.max_source_tokens + budget.max_target_tokens)
        tokens, count = tokens + source + target, count + 1
    wall, cpu = time.perf_counter() - wall, processor_seconds(training_data) - cpu
    return {
        "tokens_per_second": round(tokens / wall),
        "tokens_per_processor_second": round(tokens / cpu),
        "fill": round(fill / count, 4),
    }


def processor_seconds(training_data: "TrainingData") -> float:
    ticks = [int(field) for pid in worker_ids(training_data) for field in stat_fields(pid)[11:13]]
    return time.process_time() + sum(ticks) / os.sysconf("SC_CLK_TCK")


def worker_ids(training_data: "TrainingData") -> list[int]:
    pool = getattr(training_data._pairs, "_pool", None)
    return list(pool._processes) if pool else []


def stat_fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def time_datasets(data: DataConfig, prepared: "Prepared", seconds: float) -> dict[str, float]:
    """Streams, shuffles in a buffer, tokenises in `.map`; nothing is packed, nothing could be resumed exactly."""
    import datasets

    datasets.disable_progress_bars()
    sides = {"source": [str(c.source) for c in data.train], "target": [str(c.target) for c in data.train]}
    columns = [
        datasets.load_dataset("text", data_files=files, split="train", streaming=True).rename_column("text", side)
        for side, files in sides.items()
    ]
    source, target = prepared.tokenizers.source, prepared.tokenizers.target
    encoded = (
        datasets.concatenate_datasets(columns, axis=1)
        .shuffle(seed=1, buffer_size=data.window)
        .map(
            lambda block: {"source": source.encode(block["source"]), "target": target.encode(block["target"])},
            batched=True,
        )
    )
    rows = itertools.chain.from_iterable(itertools.repeat(encoded))
    next(rows)
    wall, cpu, tokens = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        row = next(rows)
        tokens += len(row["source"]) + len(row["target"]) + 2
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"tokens_per_second": round(tokens / wall), "tokens_per_processor_second": round(tokens / cpu)}


def large_store(prepared: "Prepared", directory: Path, num_pairs: int) -> "Store":
    """One corpus of that many pairs: those of the prepared stores, again and again."""
    from trainer.data.stores.store import Store, writing_store
    from trainer.data.text.sentences import Side

    first = prepared.stores[0].manifest
    path = directory / f"large-{first.kind}-{num_pairs}"
    if Store.open(path) is None:
        with writing_store(path, first.dtype) as writer:
            for part in itertools.cycle(prepared.stores):
                count = min(part.manifest.num_pairs, num_pairs - writer.num_pairs)
                sides = (
                    Side(side.items[: side.offsets[count]], np.diff(side.offsets[: count + 1]))
                    for side in (part.source, part.target)
                )
                writer.append(*sides)
                if writer.num_pairs == num_pairs:
                    break
            writer.finish("large", "", {}, {})
    store = Store.open(path)
    assert store is not None
    return store


def time_resume(
    prepared: "Prepared", data: DataConfig, store: "Store", step: int, sampling: float | None = None
) -> float:
    """Seconds from nothing but the open store to the first step after `step`, the start of the workers included."""
    data = replace(data, train=data.train[:1])
    with closing(feed(prepared, data, (store,))) as training_data:
        state = training_data.state()
        pairs_per_step = training_data.budget.max_sentences / 1.5 * data.micro_batches_per_step
    window, consumed = divmod(int(step * pairs_per_step / data.num_lanes), data.window)
    for lane in state["lanes"].values():
        lane |= {"window": window, "consumed": consumed, "positions": [window * data.window]}
    gc.collect()  # the garbage of what was measured before
    start = time.perf_counter()
    with closing(feed(prepared, data, (store,), sampling)) as training_data:
        training_data.load_state(state)
        training_data.next_step()
        return round(time.perf_counter() - start, 4)


def time_resumes(prepared: "Prepared", data: DataConfig, store: "Store", step: int) -> dict[str, float]:
    """Of several resumes at the same place: the first may wait for the disk."""
    first, *others = (time_resume(prepared, data, store, step) for _ in range(RESUMES))
    return {"first": first, "median": round(statistics.median(others), 4), "longest": max(others)}


def forget(store: "Store") -> None:
    """Takes a store out of the system's cache; what comes from it then comes from the disk."""
    for path in store.directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_memory(prepared: "Prepared", data: DataConfig, num_pairs: int) -> dict[str, Any]:
    """MB of this process and its workers while that many pairs are streamed; `anonymous` leaves mapped files out, which
    the processes share with each other and with the system's cache."""
    reports: list[dict[str, int]] = []
    with closing(feed(prepared, data)) as training_data:
        count, start = 0, time.perf_counter()
        for report in range(MEMORY_REPORTS + 1):
            while count < max(1, num_pairs * report // MEMORY_REPORTS):
                count += sum(micro_batch.num_pairs for micro_batch in training_data.next_step())
            pids = [os.getpid(), *worker_ids(training_data)]
            resident, anonymous = (sum(memory(pid, field) for pid in pids) for field in ("VmRSS", "RssAnon"))
            reports.append({"pairs": count, "resident_mb": resident, "anonymous_mb": anonymous})
        seconds = time.perf_counter() - start
    # The first tenth is left out: buffers fill and pages of the stores come in.
    growth = {key: reports[-1][key] - reports[1][key] for key in ("resident_mb", "anonymous_mb")}
    return {"growth": growth, "pairs_per_second": round(count / seconds), "reports": reports}


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) // 1024


def measure(kind: str, data: DataConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything for one kind of tokenizer."""
    report: dict[str, Any] = {}
    for mode in MODES:
        of_mode = replace(data, mode=mode)
        prepared, report[mode] = time_prepare(of_mode, kind, arguments.work)
        with closing(feed(prepared, of_mode)) as training_data:
            report[mode] |= time_feed(training_data, arguments.seconds)
        store = large_store(prepared, arguments.work / kind, arguments.large_pairs)
        forget(store)
        report[mode]["resume_seconds_from_a_cold_disk"] = time_resume(prepared, of_mode, store, FAR_STEPS[1])
        for num_lanes in LANES:
            lanes = replace(of_mode, num_lanes=num_lanes)
            seconds = {str(step): time_resumes(prepared, lanes, store, step) for step in FAR_STEPS}
            report[mode][f"resume_seconds_{num_lanes}_lanes"] = seconds
    with closing(feed(prepared, of_mode, sampling=SAMPLING)) as training_data:
        report["stream_with_sampling"] = time_feed(training_data, arguments.seconds)
    report["stream_with_sampling"]["resume_seconds"] = time_resume(prepared, of_mode, store, FAR_STEPS[1], SAMPLING)
    report["datasets"] = time_datasets(data, prepared, arguments.seconds)
    if arguments.memory:
        report["memory"] = measure_memory(prepared, of_mode, arguments.memory)
    return report


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keeps what is prepared here (default: a temporary folder)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--max-tokens", type=int, default=16384)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--large-pairs", type=int, default=10_000_000, help="of the store that is resumed in")
    parser.add_argument("--memory", type=int, metavar="PAIRS", default=0)
    arguments = parser.parse_args()
    data = DataConfig(train=corpora(arguments.data), max_tokens=arguments.max_tokens, workers=WORKERS)
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = arguments.work or Path(temporary)
        print(json.dumps({kind: measure(kind, data, arguments) for kind in arguments.kinds}))


if __name__ == "__main__":
    main()
