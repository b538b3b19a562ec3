"""How much of a GPU's arithmetic training uses: model FLOPs utilisation (PaLM, Chowdhery et al. 2022, appendix B)."""

import re

import torch

from model.config import ModelConfig
from trainer.data.feeding.packing import MicroBatch

# Dense peaks in bf16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets (half of a figure "with sparsity"). The
# first pattern counts that is found in the name that CUDA gives to the device, such as "NVIDIA H100 80GB HBM3".
_PEAKS = (
    (r"GB[23]00", 2500),
    (r"B[23]00", 2250),
    (r"GH200", 989),
    (r"H(100|800) PCIe", 756),
    (r"H(100|200|800) NVL", 835),
    (r"H(100|200|800)", 989),
    (r"H20", 148),
    (r"A(100|800)", 312),
    (r"L40S", 362),
    (r"L40", 181),
    (r"L4", 121),
    (r"A30", 165),
    (r"A40", 150),
    (r"A10", 125),
    (r"RTX 6000 Ada Generation", 364),
    (r"RTX A6000", 155),
    (r"GeForce RTX 4090", 165),
    (r"GeForce RTX 3090", 71),
)
# Parts of a device, and devices that clock lower than their names say.
_SLOWER = re.compile(r"\b(MIG|Laptop|Max-Q|D|Ti|SUPER)\b")


def step_flops(config: ModelConfig, vocab_size: int, micro_batch: MicroBatch) -> float:
    """Floating-point operations of forward and backward on the real tokens of one micro-batch.

    Two a weight and token forward and twice that backward; attention counts the products of each sentence's queries
    with its keys and values, half of them where causal. Recomputation and the optimizer do not count.
    """
    d, f = config.d_model, config.d_ff * (1.5 if config.activation == "swiglu" else 1)
    n, batch = micro_batch.num_pairs, micro_batch.batch  # filler sentences come after the real ones
    source, target = batch.source_cu.diff()[:n].double(), batch.target_cu.diff()[:n].double()
    encoder = config.num_encoder_layers * ((4 * d * d + 2 * d * f) * source + 2 * d * source**2)
    # The keys and values of the memory are projected per source token, everything else per target token.
    cross = 2 * d * d * source + 2 * d * d * target + 2 * d * source * target
    decoder = config.num_decoder_layers * ((4 * d * d + 2 * d * f) * target + d * target**2 + cross)
    return float(6 * (encoder + decoder + vocab_size * d * target).sum())


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the device in bf16; None if it is not known, or not a GPU."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """FLOP/s in bf16 of the GPU of that name; None if it is not known."""
    if _SLOWER.search(name):
        return None
    return next((peak * 1e12 for model, peak in _PEAKS if re.search(rf"\b{model}\b", name)), None)


def peak_warnings(device: torch.device) -> list[str]:
    """For the start of a run: a sentence if the figure `peak_flops_share` will be missing."""
    if device.type != "cuda" or peak_flops(device):
        return []
    name = torch.cuda.get_device_name(device)
    return [f"the peak of {name} in bf16 is not known, so `peak_flops_share`, the share of it, is not recorded."]
