"""How much memory a process has taken at most."""

import resource

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes: the most memory this process has held on `device` (CUDA), or in the host for the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_host_memory()


def peak_host_memory() -> int:
    """Bytes: the most resident memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
