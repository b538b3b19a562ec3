"""The entry point of the command line: parses the arguments, runs the command, reports a failure."""

import argparse
import os
import sys
from collections.abc import Sequence

from launch.failure import explain
from launch.parser import build_parser
from launch.processes import standard_streams
from trainer.errors import ExitStatus


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command with these arguments, by default those of `sys.argv`.

    Returns the exit status: 0 (also of a training that a signal stopped, since it was saved and can be resumed), or one
    of `trainer.errors.ExitStatus`.
    """
    standard_streams.open_missing()
    try:
        options = _parse(arguments)
        status: int = options.command(options)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)
    return status


def _report(error: BaseException) -> int:
    """Prints what the user needs to know about the exception. Returns the exit status."""
    failure = explain(error)
    if failure.status == ExitStatus.BROKEN_PIPE:
        # Nobody reads stdout any more. Python would fail once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if failure.message:
        print(failure.message, file=sys.stderr)
    return failure.status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    # argparse takes positional arguments in one piece only, but changes may also follow an option.
    if any(other.startswith("-") for other in others) or (others and "changes" not in options):
        parser.error(f"unrecognised: {' '.join(others)}")
    if others:
        options.changes += others
    return options
