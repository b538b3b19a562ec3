"""How long a test waits before it calls something hung.

A limit is there to end a hang, never to judge speed: it must hold on a machine that is ten times slower than ours and
busy with other work. DRAGOMAN_TEST_PATIENCE multiplies every limit; CONTRIBUTING.md says when to set it.
"""

import os
import time
from collections.abc import Callable

_FACTOR = float(os.environ.get("DRAGOMAN_TEST_PATIENCE", "1"))
SECONDS_FOR_A_TEST = 1500.0


def patience(seconds: float) -> float:
    """The limit to use where `seconds` are ample on a quiet machine: four times that by default."""
    return 4 * seconds * _FACTOR


def wait_until(condition: Callable[[], object], complaint: str, seconds: float = 60.0) -> None:
    """Returns once `condition` holds, looking 20 times a second. Raises AssertionError with `complaint` if it never
    does within `patience(seconds)`."""
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)
