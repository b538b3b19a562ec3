"""What a checkpoint costs: the stall that a step sees, the time until it is durable, loading, and bytes a parameter.

    python tests/benchmarks/checkpoint.py [--preset base] [--kind ddp] [--directory DIR] [--saves N]

One process (under torchrun: one of several) with a model of that preset, without data: moments are there as after a
step. `stall` is what the loop waits for (the copy to host memory); `plain_copy` copies as many bytes of one tensor to
another, for comparison; `read` reads the files, page cache and all, as `load` then does. `growth` is by how much saving
and loading raise a process's memory at most, in shares of the state that it owns (12 bytes a parameter): of the rank
that needs most. The copy in host memory, one share, is taken before.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from model.config import PRESETS, ModelConfig
from model.transformer import Transformer
from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.saver import Saver
from trainer.configuration.sections import CheckpointConfig
from trainer.engine import create_engine
from trainer.engine.base import Engine, Fragment
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.device import choose_device
from trainer.engine.process_group import ProcessGroup
from trainer.run_directory.layout import checkpoint_name

VOCAB_SIZE = 37_000
BYTES_PER_PARAMETER = 12  # fp32 weight and two fp32 moments


class _Untrained:
    """A saved state of random weights and moments, so that the engine has what it would have after a step."""

    num_updates = 1

    def read(self, name: str, kind: str, offset: int, length: int) -> torch.Tensor:
        return torch.rand(length)


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def growth_of(action: Callable[[], object]) -> float:
    """Bytes by which an action raises this process's resident memory at most, files mapped into it included."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = _peak_resident()
    action()  # type: ignore[operator]
    return _peak_resident() - before


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def plain_copy(fragments: list[Fragment]) -> float:
    size = 3 * sum(fragment.length for fragment in fragments)
    # Ones: untouched zeros share one page of memory, which no real copy finds.
    device = fragments[0].weight.device
    source, target = torch.ones(size, device=device), torch.ones(size, pin_memory=device.type == "cuda")
    return statistics.median(seconds_of(lambda: target.copy_(source)) for _ in range(3))


def measure(engine: Engine, directory: Path, num_saves: int) -> dict[str, float]:
    fragments = list(engine.fragments())
    saver = Saver(directory, engine, CheckpointConfig(keep_last=2), "nll")
    documents = {"trainer.json": {"num_updates": 1, "score": None, "metric": "nll"}, "lanes.json": {}}
    make_room = seconds_of(saver.make_room)  # before the first step of a run
    stalls, durable = [], []
    for step in range(1, num_saves + 1):
        start = time.perf_counter()
        saver.begin(step, documents)
        stalls.append(time.perf_counter() - start)
        path = saver.finish().path
        durable.append(time.perf_counter() - start)
    files = [file for file in path.rglob("*") if file.is_file()]
    read = seconds_of(lambda: [file.read_bytes() for file in files])
    load = seconds_of(lambda: engine.load_fragments(checkpoint.fragment_files(path)))

    def save() -> None:
        saver.begin(num_saves + 1, documents)
        saver.finish()

    save_growth = growth_of(save)
    path = path.with_name(checkpoint_name(num_saves + 1))
    load_growth = growth_of(lambda: engine.load_fragments(checkpoint.fragment_files(path)))
    share = BYTES_PER_PARAMETER * sum(fragment.length for fragment in fragments)
    save_growths, load_growths = zip(*engine.gather((save_growth / share, load_growth / share)), strict=True)
    size = sum(file.stat().st_size for file in files)
    parameters = engine.sum([sum(fragment.length for fragment in fragments)])[0]
    return {
        "parameters": int(parameters),
        "bytes_per_parameter": size / parameters,
        "ratio_to_ideal_bytes": size / parameters / BYTES_PER_PARAMETER,
        "make_room_seconds": make_room,
        "first_stall_seconds": stalls[0],
        "stall_seconds": statistics.median(stalls),
        "plain_copy_seconds": plain_copy(fragments),
        "durable_seconds": statistics.median(durable),
        "read_seconds": read,
        "verify_seconds": seconds_of(lambda: checkpoint.verify(path, engine.rank, engine.world_size)),
        "load_seconds": load,
        "save_growth_shares": max(save_growths),
        "load_growth_shares": max(load_growths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base")
    parser.add_argument("--kind", choices=("ddp", "zero1", "zero2", "zero3"), default="ddp")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: a temporary folder)")
    parser.add_argument("--saves", type=int, default=4)
    arguments = parser.parse_args()
    config = EngineConfig(kind=arguments.kind, precision="fp32")
    model = Transformer(ModelConfig(**PRESETS[arguments.preset]), VOCAB_SIZE, pad_id=0)
    processes = ProcessGroup(choose_device(config.device), config)
    engine = create_engine(model, processes, config, OptimizerConfig())
    engine.load_fragments(_Untrained())
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        place = engine.gather(directory)[0]
        report = measure(engine, Path(place), arguments.saves)
    if engine.rank == 0:
        print(json.dumps(vars(arguments) | {"directory": None, "world_size": engine.world_size} | report))
    engine.close()
    processes.leave()


if __name__ == "__main__":
    main()
