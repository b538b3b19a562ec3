"""Training speed: real target tokens per second of whole optimizer steps, from the token store to the updated weights.

The window opens after the update that reaches `--warm` tokens and closes after the update that reaches `--tokens` more,
so that it holds whole steps with data, forward, backward, clipping and optimizer; start-up stays outside. One JSON line
goes to stdout.

    python tests/benchmarks/train_speed.py --source train.en.gz --target train.de.gz
    python tests/benchmarks/train_speed.py --source … --target … --preset big --max-tokens 16384

The first times the model that the other toolkits were timed on (3+3 layers, d_model 256, 8,000 pieces, attention
dropout 0.1), the second is for a GPU.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.config import PRESETS, ModelConfig
from trainer.configuration.sections import Config, RunConfig
from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.feeding.feed import TrainingData
from trainer.data.order.partition import Partition
from trainer.data.preparation.build_stores import Prepared, build_stores
from trainer.engine import create_engine
from trainer.engine.base import Engine
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.device import choose_device
from trainer.engine.process_group import ProcessGroup
from trainer.reporting.model_flops import peak_flops, step_flops
from trainer.run import initial_model, training_data
from trainer.training.loop import training_loss
from trainer.training.schedule import learning_rate


def configuration(arguments: argparse.Namespace, directory: str) -> Config:
    tokenizer = TokenizerConfig(kind="bpe", vocab_size=arguments.vocab_size, path=arguments.tokenizer)
    data = DataConfig(
        train=(CorpusConfig(source=arguments.source, target=arguments.target, name="train"),),
        max_tokens=arguments.max_tokens,
        cache=arguments.cache,
        micro_batches_per_step=1,
        num_lanes=1,
    )
    model = ModelConfig(
        **{**PRESETS[arguments.preset], "dropout": 0.1, "attention_dropout": arguments.attention_dropout}
    )
    optimizer = OptimizerConfig(peak_lr=1e-3, warmup_steps=200)
    engine = EngineConfig(
        kind=arguments.engine,
        precision=arguments.precision,
        activation_checkpointing=arguments.activation_checkpointing,
    )
    run = RunConfig(directory=directory)
    return Config(run=run, model=model, tokenizer=tokenizer, data=data, optimizer=optimizer, engine=engine)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Window:
    """What happened between the step that ended the warm-up and the one that reached the goal."""

    def __init__(self) -> None:
        self.tokens = self.pairs = self.steps = 0
        self.flops = self.waited = 0.0
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def close(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, cpu_seconds() - self.cpu


def measure(
    config: Config, engine: Engine, data: TrainingData, vocab_size: int, goals: tuple[int, int]
) -> tuple[Window, float, int]:
    """The window, the last step's loss and all tokens trained on."""
    loss_fn = training_loss(config.optimizer.label_smoothing, engine.device)
    window, total = None, 0
    while True:
        start = time.perf_counter()
        micro_batches = data.next_step()
        waited = time.perf_counter() - start
        rate = learning_rate(config.optimizer, engine.num_updates + 1, config.run.max_steps)
        result = engine.step(micro_batches, loss_fn, rate)
        total += result.num_target_tokens
        if window is None:
            window = Window() if total >= goals[0] else None
            continue
        window.steps += 1
        window.tokens += result.num_target_tokens
        window.pairs += sum(m.num_pairs for m in micro_batches)
        window.flops += sum(step_flops(config.model, vocab_size, m) for m in micro_batches)
        window.waited += waited
        if window.tokens >= goals[1]:
            window.close()
            return window, result.loss, total


def validation_nll(config: Config, prepared: Prepared, engine: Engine, source: str, target: str) -> float:
    """nll per target token of a validation set, by the weights just trained."""
    from trainer.data.preparation.validation import load_validation
    from trainer.training.stop_request import StopRequest
    from trainer.training.validation import Validator

    corpus = CorpusConfig(source=source, target=target, name="valid")
    sets = [load_validation(corpus, prepared.tokenizers)]
    evaluation = replace(config.evaluation, max_sentences=0)
    replica = initial_model(config, prepared.tokenizers)
    validator = Validator(replica, prepared.tokenizers, sets, evaluation, config.data)
    return validator.validate(engine, StopRequest())[0].nll


def report(config: Config, engine: Engine, window: Window, vocab_size: int) -> dict[str, Any]:
    peak = peak_flops(engine.device)
    device = (
        torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else platform.processor() or "cpu"
    )
    return {
        "target_tokens_real": window.tokens,
        "pairs": window.pairs,
        "updates": window.steps,
        "tokens_per_update": round(window.tokens / window.steps),
        "wall_s": round(window.wall, 2),
        "tokens_per_s": round(window.tokens / window.wall),
        "cpu_s": round(window.cpu, 1),
        "tokens_per_cpu_s": round(window.tokens / window.cpu),
        "cores_got": round(window.cpu / window.wall, 2),
        "load1": round(os.getloadavg()[0], 2),
        "data_wait_share": round(window.waited / window.wall, 4),
        "tflops": round(window.flops / window.wall / 1e12, 3),
        "share_of_bf16_peak": round(window.flops / window.wall / peak, 3) if peak else None,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_memory_mb": round(engine.peak_memory() / 2**20),
        "precision": config.engine.precision,
        "engine": config.engine.kind,
        "activation_checkpointing": config.engine.activation_checkpointing,
        "max_tokens": config.data.max_tokens,
        "tgt_pad_frac": 0.0,
        "device": device,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--engine", default="ddp", choices=["ddp", "zero1", "zero2", "zero3"])
    parser.add_argument("--activation-checkpointing", default="none", choices=["none", "full"])
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--warm", type=int, default=5_000)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--tokenizer", help="an existing SentencePiece model")
    parser.add_argument("--cache", help="a folder in which the prepared data is kept for the next call")
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=0.0 if torch.cuda.is_available() else 0.1,
        help="on a CPU 0.1, as in the toolkits compared with; on CUDA 0, which the attention kernel wants",
    )
    parser.add_argument("--valid-source")
    parser.add_argument("--valid-target")
    parser.add_argument("--peer", default="dragoman")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as directory:
        config = configuration(arguments, directory)
        Path(directory).mkdir(exist_ok=True)
        prepared = build_stores(config.data, config.tokenizer, directory)
        processes = ProcessGroup(choose_device(config.engine.device), config.engine)
        engine = create_engine(initial_model(config, prepared.tokenizers), processes, config.engine, config.optimizer)
        data = training_data(config, prepared, Partition(engine.rank, engine.world_size), engine.device)
        vocab_size = prepared.tokenizers.target.vocab_size
        window, loss, total = measure(config, engine, data, vocab_size, (arguments.warm, arguments.tokens))
        line = {"peer": arguments.peer, "preset": arguments.preset} | report(config, engine, window, vocab_size)
        line |= {"train_loss_last": round(loss, 4), "total_tokens_incl_warm": total}
        if arguments.valid_source:
            nll = validation_nll(config, prepared, engine, arguments.valid_source, arguments.valid_target)
            line["valid_nll_per_token"] = round(nll, 4)
        print(json.dumps(line), file=sys.stdout, flush=True)
        data.close()
        engine.close()
        processes.leave()


if __name__ == "__main__":
    main()
