"""The command line: what can be said, and how a failure is told. What the commands do is in `launch.commands`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from launch import commands
from launch.failure import explain
from trainer.errors import ExitStatus, UserError

DESCRIPTION = """\
Trains Transformers for translation: from parallel text to a scored model, on any number of processes.

  dragoman train configs/quickstart.yaml --processes 2
  echo "Je suis étudiant." | dragoman translate runs/quickstart"""

CHANGES = "settings to change, as section.key=value; the value is YAML, and data.train.0.weight names a list's entry"
MODEL = "a run directory (its best checkpoint, or its last), one checkpoint, or a model directory"


class _Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print its whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status: 0 (also of a training that a signal stopped: it has been saved and can go on),
    2 for a user's mistake, 130 after Ctrl-C elsewhere, 1 for a defect."""
    try:
        options = _parse(arguments)
        status: int = options.command(options)
        sys.stdout.flush()
    except Exception as error:
        return _tell(error)
    except KeyboardInterrupt as error:
        return _tell(error)
    return status


def _tell(error: BaseException) -> int:
    failure = explain(error)
    if failure.status == ExitStatus.BROKEN_PIPE:
        # The reader has gone; without this, Python would fail once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if failure.message:
        print(failure.message, file=sys.stderr)
    return failure.status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    # argparse takes positional arguments in one piece only; changes may also follow an option.
    if any(other.startswith("-") for other in others) or (others and "changes" not in options):
        parser.error(f"unrecognised: {' '.join(others)}")
    if others:
        options.changes += others
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen one is in `command`."""
    parser = _Parser(
        prog="dragoman",
        description=DESCRIPTION,
        epilog="`dragoman COMMAND --help` tells more, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_train,
        _add_worker,
        _add_submit,
        _add_prepare,
        _add_data,
        _add_translate,
        _add_evaluate,
        _add_average,
        _add_status,
        _add_logs,
        _add_config,
    ):
        add(subparsers)
    return parser


Subparsers = argparse._SubParsersAction  # argparse has no public name for it
Command = Callable[[argparse.Namespace], int]


def _add(subparsers: Subparsers, command: Command, summary: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        command.__name__,
        help=summary,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the YAML file, such as configs/quickstart.yaml")
    parser.add_argument("changes", metavar="key=value", nargs="*", default=[], help=CHANGES)


def _add_train(subparsers: Subparsers) -> None:
    text = """\
Trains on this machine, into the folder `run.directory`. If that holds a checkpoint of the same configuration, the run
goes on from it, with any number of processes. Ctrl-C saves and stops; twice, it stops at once.

example:
  dragoman train configs/multi30k_en_de.yaml --processes 2 model.dropout=0.2 run.directory=runs/less_dropout"""
    parser = _add(subparsers, commands.train, "train a model, or go on with a run", text)
    _add_configuration(parser)
    parser.add_argument("--processes", type=_count, metavar="N", help="default: the number of GPUs, or 1 without any")


def _add_worker(subparsers: Subparsers) -> None:
    text = """\
Trains as one of several processes that another launcher has started: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in the environment say which. `python -m launch.worker` does the same, unless the current folder holds a
`launch.py` or a folder `launch` of yours, which Python would then import instead.

examples:
  torchrun --standalone --nproc-per-node 2 --no-python dragoman worker configs/multi30k_en_de.yaml
  srun sh -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS dragoman worker config.yaml'"""
    parser = _add(subparsers, commands.worker, "train as one process of another launcher", text)
    _add_configuration(parser)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # `deepspeed` adds it


def _add_submit(subparsers: Subparsers) -> None:
    text = """\
Gives a run to SLURM as a job that saves before it is preempted or reaches its time limit, requeues itself, and goes on
from its checkpoint. Checks the configuration as `train` does; freezes it, and the code, in the run directory, so that
a requeued job runs what was submitted. To go on with a run, on as many nodes as before or not, submit it again.
slurm/README.md tells of profiles and of what follows the end of a job.

examples:
  dragoman submit configs/wmt14_en_de_big.yaml --profile gres --nodes 2 --set account=translation
  dragoman submit configs/multi30k_en_de.yaml --profile local --array model.dropout=0.1,0.3 --dry-run"""
    parser = _add(subparsers, commands.submit, "give a run to SLURM", text)
    _add_configuration(parser)
    parser.add_argument(
        "--profile",
        metavar="P",
        help="the cluster: a name in slurm/profiles or a file; default: DRAGOMAN_SLURM_PROFILE",
    )
    parser.add_argument("--nodes", type=_count, metavar="N", default=1, help="default: 1")
    parser.add_argument(
        "--set", metavar="name=value", action="append", default=[],
        help="a setting of the profile to change, such as processes_per_node=4",
    )  # fmt: skip
    parser.add_argument(
        "--chain", type=_count, metavar="N", default=1, help="N jobs, each after the one before: where none may requeue"
    )
    parser.add_argument("--after", type=_job, metavar="JOBID", help="start when this job has ended, however it did")
    parser.add_argument(
        "--array", metavar="key=value,value", action="append", default=[],
        help="a run for each value, in a directory of its own; given twice, for each combination",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only print the script, and what SLURM thinks of it")


def _add_prepare(subparsers: Subparsers) -> None:
    text = """\
Trains the tokenizer, filters the training text and writes it as it will be read, as `train` does by itself where that
is missing: beforehand, once, on a machine that need not have a GPU. Reports what was left out and why. After a kill,
the same command goes on from what is finished. Training data that is there already is verified by its checksums.

example:
  dragoman prepare configs/multi30k_en_de.yaml --workers 8"""
    parser = _add(subparsers, commands.prepare, "tokenizer and training data, before training", text)
    _add_configuration(parser)
    parser.add_argument("--workers", type=_count, metavar="N", help="processes that encode; default: one for each core")


def _add_data(subparsers: Subparsers) -> None:
    text = """\
Shows what a run will read, before it trains: for each corpus its share of the mixture, its tokens, how long its
sentences are, which pairs were left out and why, and some pairs as text, pieces and ids; for the mixture, how full the
micro-batches are and how many steps a pass takes. Prepares what is missing, as `prepare` does; needs no GPU.

examples:
  dragoman data configs/multi30k_en_de.yaml --examples 5
  dragoman data configs/multi30k_en_de.yaml data.filters.min_letters=0.5 run.directory=runs/other_filters | less"""
    parser = _add(subparsers, commands.data, "look at the data that a run will read", text)
    _add_configuration(parser)
    parser.add_argument("--examples", type=_natural, metavar="N", default=3, help="pairs of each corpus, default: 3")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_translate(subparsers: Subparsers) -> None:
    text = """\
Translates lines from stdin to stdout, in order, each as soon as it and those before it are done.

example:
  dragoman translate runs/quickstart < sentences.fr > sentences.en"""
    parser = _add(subparsers, commands.translate, "translate lines from stdin to stdout", text)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    _add_decoding(parser)


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beam-size", type=_count, metavar="N", help="default: the configuration's; 1 is greedy")
    parser.add_argument("--length-penalty", type=float, metavar="A", help="default: the configuration's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA where it is")


def _add_evaluate(subparsers: Subparsers) -> None:
    text = """\
BLEU and chrF, with sacreBLEU's signatures, of a model's translations or of an existing output. Files are UTF-8, one
sentence a line, plain or .gz.

examples:
  dragoman evaluate runs/multi30k_en_de --source test.en --reference test.de
  dragoman evaluate --hypothesis output.de --reference reference_1.de reference_2.de --json"""
    parser = _add(subparsers, commands.evaluate, "BLEU and chrF of a model or of an output", text)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--source", metavar="FILE", help="the text that MODEL translates")
    parser.add_argument("--hypothesis", metavar="FILE", help="an existing output, in place of MODEL and --source")
    parser.add_argument(
        "--reference", metavar="FILE", nargs="+", action="extend", required=True, help="one or more translations"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_decoding(parser)


def _add_average(subparsers: Subparsers) -> None:
    text = """\
Writes a model directory whose weights are the mean of a run's last or best checkpoints, which often translates
better than any of them.

example:
  dragoman average runs/multi30k_en_de --last 5 --output models/multi30k_en_de"""
    parser = _add(subparsers, commands.average, "a model from the mean of checkpoints", text)
    parser.add_argument("run", metavar="RUN", help="a run directory")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--last", type=_count, metavar="N", help="the mean of the last N checkpoints")
    chosen.add_argument("--best", type=_count, metavar="N", help="of the N with the highest validation score")
    parser.add_argument("--output", metavar="DIR", required=True, help="the model directory to write")


def _add_status(subparsers: Subparsers) -> None:
    text = """\
Shows where a run stands, from its files and from SLURM: its state, step, loss, BLEU, speed and time to the end, its
restarts and what they came after, its last checkpoint, ranks that are silent, and how it failed. Of a folder, the table
of all runs in it. Ctrl-C ends --watch.

examples:
  dragoman status
  dragoman status runs/multi30k_en_de --watch"""
    parser = _add(subparsers, commands.status, "where a run stands, or all runs in a folder", text)
    parser.add_argument("run", metavar="RUN", nargs="?", default="runs", help="a run, or a folder; default: runs")
    parser.add_argument(
        "--watch", type=_seconds, metavar="SECONDS", nargs="?", const=2.0, help="look again every 2 or so many seconds"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, of a folder a list of them")


def _add_logs(subparsers: Subparsers) -> None:
    text = """\
Prints what a rank of a run has said last. Rank 0 says what the terminal shows; the others have warnings and the last
words of a process that was aborted. Ctrl-C ends --follow.

example:
  dragoman logs runs/multi30k_en_de --rank 1 --follow"""
    parser = _add(subparsers, commands.logs, "what a rank of a run has said", text)
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--rank", type=_natural, metavar="R", default=0, help="default: 0")
    parser.add_argument("--lines", type=_natural, metavar="N", default=20, help="how many to begin with; default: 20")
    parser.add_argument("--follow", action="store_true", help="go on with what is added")


def _add_config(subparsers: Subparsers) -> None:
    text = """\
Prints the configuration that a run would have: every setting, with the presets and changes worked in.

example:
  dragoman config configs/wmt14_en_de_base.yaml engine.kind=zero2"""
    _add_configuration(_add(subparsers, commands.config, "print the resolved configuration", text))


def _count(text: str) -> int:
    return _at_least(1, text)


def _job(text: str) -> str:
    return str(_at_least(1, text))


def _natural(text: str) -> int:
    return _at_least(0, text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, but is {text!r}") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"must lie between 0.1 and 86400 seconds, but is {text}")
    return seconds


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, but is {text!r}") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, but is {number}")
    return number
