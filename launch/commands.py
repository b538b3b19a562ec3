"""What each command does. Heavy modules are imported only when needed, so that `--help` and mistakes are quick."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from launch.failure import Failure, explain
from launch.processes.inference_threads import prepare_inference
from trainer.configuration.sections import Config, EvaluationConfig
from trainer.errors import OutOfMemory, UserError

_MAX_LINE_BYTES = 1 << 24  # of the standard input, as of a corpus


def config(options: Namespace) -> int:
    """Prints the resolved configuration."""
    from trainer.configuration import reading as configuration

    print(configuration.dump(configuration.load(options.config, options.changes)), end="")
    return 0


def train(options: Namespace) -> int:
    """Checks everything that can be checked beforehand, then trains in this process or in several others."""
    from launch.processes import launcher_variables, local
    from launch.processes.output import outlive_the_readers
    from trainer.configuration import reading as configuration
    from trainer.run_directory.layout import config_path
    from trainer.run_directory.opening import open_run_directory

    outlive_the_readers()
    ignored = launcher_variables.clear(os.environ)
    if ignored:
        print(f"dragoman: {ignored}", file=sys.stderr)
    config = configuration.load(options.config, options.changes)
    gpus = 0 if config.engine.device == "cpu" else local.visible_gpus()
    processes = options.processes or max(1, gpus)
    local.prepare_environment(processes, on_cpu=gpus == 0)

    from trainer.data.order.partition import check_world_size
    from trainer.data.preparation.build_stores import check_text

    check_world_size(config.data, processes)
    check_text(config.data, config.tokenizer, config.run.directory)
    if config.evaluation.tokenize != EvaluationConfig.tokenize:
        from trainer.inference.scoring import check_tokenize

        check_tokenize(config.evaluation.tokenize)
    if processes == 1:
        return _until_it_ends(lambda: _train_here(config))
    # Here and not in a worker: the other ranks would wait in a collective, which has a time limit.
    open_run_directory(config)
    # The configuration that was checked, even if the user changes the file in the meantime.
    worker_arguments = [str(config_path(config.run.directory))]
    return _until_it_ends(lambda: local.run_workers(worker_arguments, processes))


def _until_it_ends(start: Callable[[], Failure | None]) -> int:
    """Starts a training, and again after each failure that a restart can correct. Returns the exit status."""
    while (failure := start()) is not None:
        if failure.message:
            print(failure.message, file=sys.stderr)
        if not failure.start_again:
            return failure.status
    return 0


def _train_here(config: Config) -> Failure | None:
    from trainer import run

    try:
        run.train(config)
    except OutOfMemory as error:
        return explain(error)
    return None


def worker(options: Namespace) -> int:
    """Trains as one of the processes that another launcher has started."""
    from launch.worker import main

    return main([options.config, *options.changes])


def submit(options: Namespace) -> int:
    """Checks a run, or each run of a sweep, as `train` does, then submits it to SLURM."""
    from launch.slurm import submit as slurm
    from launch.slurm.profile import load_profile

    profile = load_profile(options.profile, options.set)
    configs = slurm.sweep(options.config, options.changes, options.array)
    submission = slurm.Submission(profile, options.nodes, options.chain, options.after)
    for config in configs:
        slurm.check(config, submission)
    for config in configs:
        for line in slurm.dry_run(config, submission) if options.dry_run else slurm.submit(config, submission):
            print(line)
    return 0


def prepare(options: Namespace) -> int:
    """Writes tokenizers and stores and prints what is in them."""
    from launch.watching.prepare_report import report
    from trainer.configuration import reading as configuration
    from trainer.data.preparation.build_stores import verify
    from trainer.run_directory.opening import open_run_directory

    config = configuration.load(options.config, options.changes)
    prepared = open_run_directory(config, options.workers)
    verify(prepared)
    for line in report(prepared):
        print(line)
    return 0


def data(options: Namespace) -> int:
    """Prepares what is missing, then shows what a run will read."""
    from trainer.configuration import reading as configuration
    from trainer.run_directory.opening import open_run_directory

    config = configuration.load(options.config, options.changes)
    prepared = open_run_directory(config)
    from launch.watching.data_report import show
    from trainer.data.inspection.inspect_data import inspect

    inspection = inspect(
        config.data,
        prepared,
        sampling=config.tokenizer.sampling,
        seed=config.run.seed,
        num_examples=options.examples,
    )
    if options.json:
        print(json.dumps(asdict(inspection)))
    else:
        show(inspection, config.run.max_steps)
    return 0


def translate(options: Namespace) -> int:
    """Translates stdin to stdout, line by line."""
    prepare_inference()
    # Detached, because a thread of the translator waits in it: Python would abort at Ctrl-C when it closes sys.stdin.
    lines = _lines(sys.stdin.detach())  # type: ignore[union-attr]
    for translation in _translations(options, lines):
        sys.stdout.buffer.write(translation.encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


def _translations(options: Namespace, lines: Iterable[str]) -> Iterator[str]:
    from trainer.inference.translation import load_translator

    translator = load_translator(Path(options.model), options.device)
    return translator.translate_stream(lines, options.beam_size, options.length_penalty)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Lines end at line feeds only: the other separators of Unicode belong to the text."""
    for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES + 1), b""), 1):
        if len(line.removesuffix(b"\n")) > _MAX_LINE_BYTES:
            raise UserError(
                f"Line {number} of the standard input is longer than {_MAX_LINE_BYTES:,} bytes: "
                "give one sentence per line."
            )
        try:
            yield line.removesuffix(b"\n").decode()
        except UnicodeDecodeError as error:
            raise UserError(f"Line {number} of the standard input is not valid UTF-8 ({error.reason}).") from error


def evaluate(options: Namespace) -> int:
    """Prints BLEU and chrF of a model's translations or of an existing output."""
    if (options.hypothesis is None) == (options.model is None):
        raise UserError("`dragoman evaluate` scores either a MODEL, with --source, or an output, with --hypothesis.")
    if (options.model is None) != (options.source is None):
        raise UserError("--source is the text that MODEL translates: `dragoman evaluate` needs both or neither.")
    prepare_inference()
    from trainer.inference.scoring import (
        DEFAULT_TOKENIZE,
        check_counts,
        check_tokenize,
        read_lines,
        score,
        tokenize_warning,
    )

    tokenize = options.tokenize or DEFAULT_TOKENIZE
    check_tokenize(tokenize)
    references = [read_lines(name) for name in options.reference]
    if options.hypothesis is not None:
        hypotheses = read_lines(options.hypothesis)
    else:
        source = read_lines(options.source)
        check_counts(len(source), references)  # before minutes of translation
        from trainer.inference.translation import load_translator

        translator = load_translator(Path(options.model), options.device)
        tokenize = options.tokenize or translator.decoding.tokenize
        check_tokenize(tokenize)
        hypotheses = list(translator.translate_stream(source, options.beam_size, options.length_penalty))
    if warning := tokenize_warning(tokenize, (line for reference in references for line in reference)):
        print(f"dragoman: {warning}", file=sys.stderr)
    scores = score(hypotheses, references, tokenize)
    if options.json:
        print(json.dumps(asdict(scores)))
    else:
        print(f"BLEU {scores.bleu:.2f}  {scores.bleu_signature}\nchrF {scores.chrf:.2f}  {scores.chrf_signature}")
    return 0


def average(options: Namespace) -> int:
    """Writes the mean of a run's last checkpoints as a model directory."""
    from trainer.inference.averaging import average as average_checkpoints

    number, best = (options.last, False) if options.last else (options.best, True)
    average_checkpoints(Path(options.run), number, Path(options.output), best)
    return 0


def status(options: Namespace) -> int:
    """Shows where runs stand."""
    from launch.watching.status_text import show

    with suppress(KeyboardInterrupt) if options.watch else nullcontext():
        show(Path(options.run), options.json, options.watch)
    return 0


def logs(options: Namespace) -> int:
    """Prints the log of a rank."""
    from launch.watching.logs import show_log

    with suppress(KeyboardInterrupt) if options.follow else nullcontext():
        show_log(Path(options.run), options.rank, options.lines, options.follow)
    return 0
