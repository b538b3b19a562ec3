"""Where `dragoman prepare` spends its time: pairs per second of processor time, which a busy machine does not stretch.

    python -m tests.benchmarks.preparation_speed --data DIR --tokenizer MODEL [--pairs N]

reads every DIR/**/NAME.en.gz that has a NAME.de.gz next to it, again and again up to N pairs, and prints one JSON
object. One process reads the text for the tokenizer's sample (`sample`), then once more, handing parts to the workers
(`read`); each worker filters and encodes (`tokens`, or `text` in stream mode) and writes; one process puts the parts
together (`write`). So a preparation takes about 1/sample + max(1/read, 1/(workers · tokens)) + 1/write seconds per
pair, and the training of the tokenizer.
"""

import argparse
import itertools
import json
import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.data_speed import corpora
from trainer.data.config import FilterConfig
from trainer.data.corpora.sources import Block, read_pairs
from trainer.data.preparation.deduplicate_and_write import deduplicate_and_write
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.part_workers import PART_PAIRS, regrouped
from trainer.data.preparation.raw_parts import PartFile, PartMaker
from trainer.data.preparation.sample import _Reservoir
from trainer.data.stores.store import TEXT_DTYPE, token_dtype, writing_store
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair

SAMPLE_PAIRS = 50_000


class Stopwatch:
    """Sums up the processor time of each kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Any) -> Any:
        start = time.process_time()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def parts_of(directory: Path) -> Iterator[Block]:
    blocks = (block for corpus in itertools.cycle(corpora(directory)) for block in read_pairs(corpus))
    return regrouped(blocks, PART_PAIRS)


def measure(directory: Path, tokenizer: Tokenizer, num_parts: int, work: Path) -> dict[str, float]:
    watch, pair_filter = Stopwatch(), PairFilter(FilterConfig())
    dtype = token_dtype(tokenizer.vocab_size)
    encoder = PairEncoder(TokenizerPair(tokenizer, tokenizer), max_length=256)
    makers = {"tokens": PartMaker(pair_filter, encoder, dtype), "text": PartMaker(pair_filter, None, TEXT_DTYPE)}
    reservoir = _Reservoir(SAMPLE_PAIRS, 1, pair_filter)
    blocks, files = parts_of(directory), [PartFile(work / f"part-{n}.npz") for n in range(num_parts)]
    for file in files:
        block = watch.time("read", lambda: next(blocks))
        watch.time("read", lambda block=block: pickle.dumps(block))
        watch.time("sample", lambda block=block: reservoir.offer(block))
        for name, maker in makers.items():
            part = watch.time(name, lambda maker=maker, block=block: maker.make(*block))
            if name == "tokens":
                watch.time(name, lambda file=file, part=part: file.write(part, dtype))
    with writing_store(work / "store", dtype) as writer:
        watch.time("write", lambda: deduplicate_and_write(files, True, lambda *_: [["", ""]], writer))
        writer.finish("store", "", {}, {})
    # The sample needs the text read as well; handing a part over is a small share of that.
    watch.seconds["sample"] += watch.seconds["read"]
    return {name: round(num_parts * PART_PAIRS / seconds) for name, seconds in watch.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tokenizer = Tokenizer.load(arguments.tokenizer)
        print(json.dumps(measure(arguments.data, tokenizer, arguments.pairs // PART_PAIRS, Path(work))))


if __name__ == "__main__":
    main()
