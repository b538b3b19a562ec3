"""What a run will read, computed from its prepared data, as a report to read before training."""

from dataclasses import dataclass, replace

from trainer.data.config import DataConfig
from trainer.data.feeding.budget import ceil_div
from trainer.data.feeding.feed import TrainingData
from trainer.data.inspection.corpus_report import CorpusReport, CorpusSample
from trainer.data.inspection.round_trip import target_round_trip
from trainer.data.order.mixture import mixture_shares
from trainer.data.order.partition import Partition
from trainer.data.preparation.build_stores import Prepared
from trainer.data.text.encoding import PairEncoder

_MICRO_BATCHES = 32


@dataclass(frozen=True)
class MixtureReport:
    """The micro-batches, measured on the first `num_measured` of the run.

    Budgets are those of one micro-batch. Fills are the shares of the budgets that real tokens take (`fill`: of both
    sides together). After `steps_per_pass` steps, as many pairs have been read as the corpora hold.
    """

    num_pairs: int
    max_source_tokens: int
    max_target_tokens: int
    micro_batches_per_step: int
    num_measured: int
    source_fill: float
    target_fill: float
    fill: float
    pairs_per_micro_batch: float
    source_tokens_per_step: float
    target_tokens_per_step: float
    steps_per_pass: float


@dataclass(frozen=True)
class Inspection:
    mode: str
    corpora: list[CorpusReport]
    mixture: MixtureReport


def inspect(
    data: DataConfig, prepared: Prepared, *, sampling: float | None, seed: int, num_examples: int
) -> Inspection:
    """Measures the stores and the first micro-batches of the run with this `seed`; on the CPU, in one process.

    `sampling` is `tokenizer.sampling`. Raises UserError if all sentences of a corpus are too long.
    """
    tokenizers = prepared.tokenizers
    encoder = PairEncoder(tokenizers, data.max_length, sampling) if data.mode == "stream" else None
    samples = [CorpusSample(store, encoder) for store in prepared.stores]
    mixture = _measure(data, prepared, encoder, seed)
    sizes = [store.manifest.num_pairs for store in prepared.stores]
    shares = mixture_shares([corpus.weight for corpus in data.train], sizes, data.temperature)
    pairs_per_step = mixture.pairs_per_micro_batch * mixture.micro_batches_per_step
    reports = [
        sample.report(tokenizers, share, sample.num_pairs / (share * pairs_per_step), num_examples)
        for sample, share in zip(samples, shares.tolist(), strict=True)
    ]
    corpora = [
        replace(report, target_round_trip=target_round_trip(corpus, store, tokenizers.target))
        for report, corpus, store in zip(reports, data.train, prepared.stores, strict=True)
    ]
    return Inspection(data.mode, corpora, mixture)


def _measure(data: DataConfig, prepared: Prepared, encoder: PairEncoder | None, seed: int) -> MixtureReport:
    # Encoding a few micro-batches here is quicker than starting processes for it.
    alone, ids = replace(data, workers=0), prepared.tokenizers.special_ids
    feed = TrainingData(prepared.stores, alone, ids, seed=seed, partition=Partition(0, 1), encoder=encoder)
    try:
        num_steps = ceil_div(_MICRO_BATCHES, data.micro_batches_per_step)
        micro_batches = [micro_batch for _ in range(num_steps) for micro_batch in feed.next_step()]
    finally:
        feed.close()
    budget, count = feed.budget, len(micro_batches)
    source_tokens = sum(len(micro_batch.batch.source_S) for micro_batch in micro_batches) / count
    target_tokens = sum(micro_batch.num_target_tokens for micro_batch in micro_batches) / count
    pairs = sum(micro_batch.num_pairs for micro_batch in micro_batches) / count
    num_pairs = sum(store.manifest.num_pairs for store in prepared.stores)
    return MixtureReport(
        num_pairs=num_pairs,
        max_source_tokens=budget.max_source_tokens,
        max_target_tokens=budget.max_target_tokens,
        micro_batches_per_step=data.micro_batches_per_step,
        num_measured=count,
        source_fill=source_tokens / budget.max_source_tokens,
        target_fill=target_tokens / budget.max_target_tokens,
        fill=(source_tokens + target_tokens) / (budget.max_source_tokens + budget.max_target_tokens),
        pairs_per_micro_batch=pairs,
        source_tokens_per_step=source_tokens * data.micro_batches_per_step,
        target_tokens_per_step=target_tokens * data.micro_batches_per_step,
        steps_per_pass=num_pairs / (pairs * data.micro_batches_per_step),
    )
