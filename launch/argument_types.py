"""Types of the command line's arguments. Each raises ArgumentTypeError, which becomes one sentence."""

import argparse

from trainer.configuration.paths import expand
from trainer.errors import UserError


def count(text: str) -> int:
    """A whole number from 1 on."""
    return _at_least(1, text)


def file_path(text: str) -> str:
    """A file or folder. `~` and variables are expanded, since shells leave them in --option=~/file and in quotes."""
    try:
        return expand(text, "the path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


def job(text: str) -> str:
    """The id of a SLURM job."""
    return str(_at_least(1, text))


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return _at_least(0, text)


def seconds(text: str) -> float:
    """From a tenth of a second to a day."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, but is {text!r}") from None
    if not 0.1 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"must be between 0.1 and 86400 seconds, but is {text}")
    return number


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, but is {text!r}") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, but is {number}")
    return number
