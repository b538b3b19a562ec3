"""Where the processes of a SLURM job meet: `python -m launch.slurm.rendezvous ADDRESS`, run on the job's first node.

Prints a port of this node that is free. Standard library only.
"""

import errno
import os
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from launch.failure import Failure
from launch.worker_failures import OUTCOMES_FOLDER, write_outcome
from trainer.errors import ExitStatus, UserError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_EPHEMERAL = 32768
_LOWEST = 15000
_FEWEST = 1000
_STEP = 7919  # between the ports of two restarts
_TRIES = 500
_SECONDS_TO_CONNECT = 20.0


def find_port(address: str, job: int, restart: int) -> int:
    """A free port of this node, another one for each job and restart, at which `address` leads to this node.

    It is below the ports that the kernel gives to outgoing connections, which could take it at any moment. Raises
    UserError if no port is free or `address` does not lead here.
    """
    ports = _ports()
    first = job * (len(ports) // 3 | 1) + restart * _STEP
    for offset in range(min(_TRIES, len(ports))):
        port = ports[(first + offset) % len(ports)]
        with ExitStack() as stack, suppress(OSError):
            for listener in _listen(port):
                stack.enter_context(listener)
            _require_reachable(address, port)
            return port
    raise UserError(f"no port is free on {socket.gethostname()} among the {_TRIES} that were tried from {ports[0]} on.")


def _ports() -> range:
    try:
        limit = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        limit = _USUAL_EPHEMERAL
    # Where nearly every port is an ephemeral one, there is nothing to avoid.
    return range(_LOWEST, limit if limit >= _LOWEST + _FEWEST else _USUAL_EPHEMERAL)


def _listen(port: int) -> list[socket.socket]:
    """Sockets that listen on the port at every address of this node. Raises OSError if something else does already."""
    listeners = [socket.create_server(("", port))]
    try:
        listeners.append(socket.create_server(("::", port), family=socket.AF_INET6))
    except OSError as error:  # IPv6 may be switched off
        if error.errno == errno.EADDRINUSE:
            listeners[0].close()
            raise
    return listeners


def _require_reachable(address: str, port: int) -> None:
    try:
        socket.create_connection((address, port), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise UserError(
            f"the processes of this job cannot meet at {address}:{port}, because {socket.gethostname()}, the first "
            f"node, does not reach itself by that name ({error}): set `address` in the profile, or correct the node's "
            "name resolution."
        ) from error


def main() -> int:
    """Prints the port. Returns the exit status; a failure is also left where the end of the job is decided."""
    try:
        job, restart = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_RESTART_COUNT", 0))
        print(find_port(sys.argv[1], job, restart))
    except UserError as error:
        print(f"dragoman: {error}", file=sys.stderr)
        outcomes = os.environ.get(OUTCOMES_FOLDER)
        if outcomes:  # another start may get a better node
            write_outcome(Path(outcomes), Failure(ExitStatus.TRY_AGAIN, f"dragoman: {error}"), rank=0)
        return ExitStatus.TRY_AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main())
