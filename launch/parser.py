"""What the command line of `dragoman` accepts: commands, options and their help."""

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeAlias, get_args

from launch import commands
from launch.argument_types import count, file_path, job, natural, seconds
from trainer.configuration.sections import BleuTokenizer
from trainer.errors import UserError

DESCRIPTION = """\
Trains Transformers for translation: from parallel text to a scored model, on any number of processes.

  dragoman train configs/quickstart.yaml --processes 2
  echo "Je suis étudiant." | dragoman translate runs/quickstart"""

CHANGES = (
    "settings to change, as section.key=value; the value is YAML, and data.train.0.weight is that of the first corpus"
)
MODEL = "a run directory (its best checkpoint, or else its last), one checkpoint, or a model directory"


class Parser(argparse.ArgumentParser):
    """Raises `UserError` instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`).")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen one is in `command`."""
    parser = Parser(
        prog="dragoman",
        description=DESCRIPTION,
        epilog="`dragoman COMMAND --help` explains a command, with an example.",
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


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"  # argparse has no public name for it
Command = Callable[[argparse.Namespace], int]


def _add(subparsers: Subparsers, command: Command, summary: str, text: str) -> Parser:
    parser = subparsers.add_parser(
        command.__name__,
        help=summary,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=file_path, metavar="CONFIG", help="the YAML file, such as configs/quickstart.yaml"
    )
    parser.add_argument("changes", metavar="key=value", nargs="*", default=[], help=CHANGES)


def _add_train(subparsers: Subparsers) -> None:
    text = """\
Trains on this machine and writes everything into the folder `run.directory`. If that holds a checkpoint, the run
resumes from it, with any number of processes; settings that would change the model or the data are refused. The first
Ctrl-C saves and stops, a second one stops at once.

example:
  dragoman train configs/multi30k_en_de.yaml --processes 2 model.dropout=0.2 run.directory=runs/less_dropout"""
    parser = _add(subparsers, commands.train, "train a model, or resume a run", text)
    _add_configuration(parser)
    parser.add_argument("--processes", type=count, metavar="N", help="default: the number of GPUs, or 1")


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
Submits a run to SLURM as a job that saves before it is preempted or reaches its time limit, requeues itself, and
resumes from its checkpoint. Checks the configuration as `train` does. Copies it and the code into the run directory,
so that a requeued job runs what was submitted. To resume a run on the same or another number of nodes, submit it again.
slurm/README.md explains profiles and what follows the end of a job.

examples:
  dragoman submit configs/wmt14_en_de_big.yaml --profile gres --nodes 2 --set account=translation
  dragoman submit configs/multi30k_en_de.yaml --profile local --array model.dropout=0.1,0.3 --dry-run"""
    parser = _add(subparsers, commands.submit, "train as a SLURM job that requeues itself", text)
    _add_configuration(parser)
    parser.add_argument(
        "--profile",
        metavar="P",
        help="the cluster: gres, modules, container, local or a YAML file; default: DRAGOMAN_SLURM_PROFILE",
    )
    parser.add_argument("--nodes", type=count, metavar="N", default=1, help="machines; default: 1")
    parser.add_argument(
        "--set", metavar="name=value", action="append", default=[],
        help="changes a setting of the profile, such as processes_per_node=4",
    )  # fmt: skip
    parser.add_argument(
        "--chain",
        type=count,
        metavar="N",
        default=1,
        help="N jobs, each after the one before, for clusters on which a job may not requeue itself",
    )
    parser.add_argument(
        "--after", type=job, metavar="JOBID", help="start after this job has ended, whether or not it succeeded"
    )
    parser.add_argument(
        "--array", metavar="key=value,value", action="append", default=[],
        help="one run per value, each in a directory of its own; given twice, one per combination",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the script and what `sbatch --test-only` answers"
    )


def _add_prepare(subparsers: Subparsers) -> None:
    text = """\
Trains the tokenizer, filters the training text and writes it in the form in which training reads it. `train` does
this by itself if it is missing; this command does it beforehand, on a machine that needs no GPU. Reports what was
left out and why. After a kill, the same command resumes. Existing training data is verified by its checksums.

example:
  dragoman prepare configs/multi30k_en_de.yaml --workers 8"""
    parser = _add(subparsers, commands.prepare, "write tokenizer and training data beforehand", text)
    _add_configuration(parser)
    parser.add_argument("--workers", type=count, metavar="N", help="processes that encode text; default: one per core")


def _add_data(subparsers: Subparsers) -> None:
    text = """\
Shows what a run will read, before it trains. For each corpus: its fraction of the mixture, its tokens, the lengths of
its sentences, which pairs were left out and why, and some pairs as text, pieces and ids. For the mixture: how full the
micro-batches are and how many steps one pass takes. Prepares what is missing, as `prepare` does. Needs no GPU.

examples:
  dragoman data configs/multi30k_en_de.yaml --examples 5
  dragoman data configs/multi30k_en_de.yaml data.filters.min_letters=0.5 run.directory=runs/other_filters | less"""
    parser = _add(subparsers, commands.data, "show the data that a run will read", text)
    _add_configuration(parser)
    parser.add_argument("--examples", type=natural, metavar="N", default=3, help="pairs shown per corpus; default: 3")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_translate(subparsers: Subparsers) -> None:
    text = """\
Translates each line of stdin to a line of stdout, in order, as soon as it and those before it are done.

example:
  dragoman translate runs/quickstart < sentences.fr > sentences.en"""
    parser = _add(subparsers, commands.translate, "translate lines from stdin to stdout", text)
    parser.add_argument("model", type=file_path, metavar="MODEL", help=MODEL)
    _add_decoding(parser)


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--beam-size", type=count, metavar="N", help="default: the run's `evaluation.beam_size`; 1 is greedy"
    )
    parser.add_argument(
        "--length-penalty", type=float, metavar="A", help="default: the run's `evaluation.length_penalty`"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: auto, which is CUDA if there is a GPU",
    )


def _add_evaluate(subparsers: Subparsers) -> None:
    text = """\
Prints BLEU and chrF, with sacreBLEU's signatures, of a model's translations or of an existing output. Files are UTF-8
with one sentence per line, plain or compressed.

examples:
  dragoman evaluate runs/multi30k_en_de --source test.en --reference test.de
  dragoman evaluate --hypothesis output.de --reference reference_1.de reference_2.de --json"""
    parser = _add(subparsers, commands.evaluate, "BLEU and chrF of a model or of an output", text)
    parser.add_argument("model", type=file_path, metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--source", type=file_path, metavar="FILE", help="the text that MODEL translates")
    parser.add_argument(
        "--hypothesis",
        type=file_path,
        metavar="FILE",
        help="an existing output to score, instead of MODEL and --source",
    )
    parser.add_argument(
        "--reference",
        type=file_path,
        metavar="FILE",
        nargs="+",
        action="extend",
        required=True,
        help="one or more reference translations of the source",
    )
    parser.add_argument(
        "--tokenize",
        metavar="NAME",
        choices=get_args(BleuTokenizer),
        help=f"how BLEU splits text into words: {', '.join(get_args(BleuTokenizer))}; zh, ja-mecab, char or flores200 "
        "for languages without spaces (default: the model's setting, or 13a)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_decoding(parser)


def _add_average(subparsers: Subparsers) -> None:
    text = """\
Writes a model directory whose weights are the mean of a run's last or best checkpoints, which often translates
better than any of them.

example:
  dragoman average runs/multi30k_en_de --last 5 --output models/multi30k_en_de"""
    parser = _add(subparsers, commands.average, "write the mean of checkpoints as a model", text)
    parser.add_argument("run", type=file_path, metavar="RUN", help="a run directory")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--last", type=count, metavar="N", help="the mean of the last N checkpoints")
    chosen.add_argument(
        "--best", type=count, metavar="N", help="the mean of the N checkpoints with the best validation score"
    )
    parser.add_argument("--output", type=file_path, metavar="DIR", required=True, help="the model directory to write")


def _add_status(subparsers: Subparsers) -> None:
    text = """\
Shows where a run stands, from its files and from SLURM: state, step, loss, BLEU, speed and time to the end, restarts
and their reasons, the newest checkpoint, ranks that are silent or make no progress, and the last failure. For a folder
it shows a table of the runs in it. Ctrl-C ends --watch.

examples:
  dragoman status
  dragoman status runs/multi30k_en_de --watch"""
    parser = _add(subparsers, commands.status, "show where a run stands, or all runs in a folder", text)
    parser.add_argument(
        "run",
        type=file_path,
        metavar="RUN",
        nargs="?",
        default="runs",
        help="a run directory, or a folder of them; default: runs",
    )
    parser.add_argument(
        "--watch", type=seconds, metavar="SECONDS", nargs="?", const=2.0, help="refresh every SECONDS; default: 2"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, or a list of them for a folder")


def _add_logs(subparsers: Subparsers) -> None:
    text = """\
Prints the end of a rank's log. That of rank 0 has what the terminal showed. Those of the other ranks have warnings, and
what a process printed when it was aborted. Ctrl-C ends --follow.

example:
  dragoman logs runs/multi30k_en_de --rank 1 --follow"""
    parser = _add(subparsers, commands.logs, "print the log of a rank", text)
    parser.add_argument("run", type=file_path, metavar="RUN", help="a run directory")
    parser.add_argument("--rank", type=natural, metavar="R", default=0, help="default: 0")
    parser.add_argument("--lines", type=natural, metavar="N", default=20, help="lines to print first; default: 20")
    parser.add_argument("--follow", action="store_true", help="keep printing what is added")


def _add_config(subparsers: Subparsers) -> None:
    text = """\
Prints the configuration that a run would have: every setting, after presets and changes are applied. docs/settings.md
explains each of them.

example:
  dragoman config configs/wmt14_en_de_base.yaml engine.kind=zero2"""
    _add_configuration(_add(subparsers, commands.config, "print the resolved configuration", text))
