"""Telling a want of memory from other failures, whichever library reports it; and how much was taken."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import OutOfMemory, error_line

# torch has an exception of its own for its CUDA allocator alone; the CPU's, cuBLAS and NCCL say it in words.
_WORDS = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that host or device memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def telling_out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory in place of what the libraries raise."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(error_line(error, with_type=False)) from error


def peak_host_memory() -> int:
    """Bytes: the most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
