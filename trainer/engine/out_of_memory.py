"""Recognises running out of memory, whichever library reports it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import OutOfMemory, error_line

# torch has an exception class for its CUDA allocator only; the CPU's allocator, cuBLAS and NCCL raise RuntimeErrors.
_MESSAGES = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that host or device memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


@contextmanager
def raising_out_of_memory() -> Iterator[None]:
    """Turns each library's own out-of-memory error into an OutOfMemory. Other exceptions pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(error_line(error, with_type=False)) from error
