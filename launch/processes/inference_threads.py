"""How the threads of a decoding process wait for each other on the CPU."""

import os


def prepare_inference() -> None:
    """Lets the threads of a parallel section sleep while they wait, unless the user has decided.

    By default they spin. Batches for decoding are small, and if other processes need the cores, most processor time is
    spent spinning: 64 sentences took 54 s of it instead of 17 s, on two cores that others used as well. Must be called
    before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
