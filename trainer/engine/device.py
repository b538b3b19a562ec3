"""The device that a process computes on."""

import os

import torch

from trainer.errors import UserError


def choose_device(wanted: str, setting: str = "`engine.device`", index: int | None = None) -> torch.device:
    """Returns the CPU, or the CUDA device `index` (default: LOCAL_RANK, else 0), which becomes torch's current one.

    `wanted` is "cpu", "cuda" or "auto", which takes CUDA if torch finds a device. `setting` is the name that an error
    message gives to `wanted`. Raises UserError if the device does not exist.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"{setting} is cuda, but torch finds no CUDA device on this machine: set auto or cpu.")
    index, found = int(os.environ.get("LOCAL_RANK", "0")) if index is None else index, torch.cuda.device_count()
    if index >= found:
        raise UserError(
            f"this machine has {found} CUDA device(s), but process {index} needs one of its own: start at most {found} "
            f"processes, or set {setting} to cpu."
        )
    # Products in bf16 whose partial sums are rounded to bf16 would differ from those of the CPU and of other shapes.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device
