"""How much of a GPU's arithmetic training uses: model FLOPs utilisation (PaLM, Chowdhery et al. 2022, appendix B)."""

import torch

from model.config import ModelConfig
from trainer.data.feeding.packing import MicroBatch

# Dense bf16 peaks in FLOP/s from NVIDIA's data sheets, by a part of the device's name.
BF16_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


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
    """FLOP/s of the device in bf16; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in BF16_PEAK.items() if part in name), None)
