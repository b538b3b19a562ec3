import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig
from model.transformer import Transformer
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.reporting.model_flops import peak_flops, step_flops
from trainer.reporting.step_meter import StepMeter

CONFIG = ModelConfig(d_model=64, d_ff=128, num_heads=2, num_encoder_layers=2, num_decoder_layers=3, dropout=0.0)


def test_counted_as_torch_counts_the_matrix_products() -> None:
    # One sentence, so that nothing is padded; short, so that attention matters little: torch
    # counts its masked half too.
    source, target = (Side(np.full(n, 5), np.array([n])) for n in (12, 9))
    micro_batch = MicroBatch(pack(source, target, SpecialIds(0, 0, 2)), 0, 0, 1, (np.zeros(1, int), np.zeros(1, int)))
    model = Transformer(CONFIG, 100, pad_id=0, compute_dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        model(micro_batch.batch, 0.1)[0].backward()
    assert step_flops(CONFIG, 100, micro_batch) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_the_share_of_the_peak_is_told_where_the_peak_is_known() -> None:
    times = iter([0.0, 0.0, 2.0, 2.0])
    meter = StepMeter(0, 10, peak_flops=100.0, clock=lambda: next(times))
    meter.add_step(10, 10, 10)
    meter.add_flops(50.0)
    assert meter.report(1)["peak_flops_share"] == 0.25
    assert peak_flops(torch.device("cpu")) is None
