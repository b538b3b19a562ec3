import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig
from model.transformer import Transformer
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.reporting.model_flops import peak_flops, peak_of, peak_warnings, step_flops
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


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835), ("NVIDIA GH200 480GB", 989), ("NVIDIA H800 PCIe", 756), ("NVIDIA H20", 148),
        ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("A100-PCIE-40GB", 312),
        ("NVIDIA L4", 121), ("NVIDIA L40", 181), ("NVIDIA L40S", 362), ("NVIDIA A10", 125), ("NVIDIA A40", 150),
        ("NVIDIA RTX A6000", 155), ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("Tesla V100-SXM2-16GB", None), ("Tesla T4", None),
        ("Quadro RTX 6000", None), ("NVIDIA L400", None), ("AMD Instinct MI300X", None),
    ],
)  # fmt: skip
def test_variants_of_a_card_have_their_own_peak(name: str, teraflops: float | None) -> None:
    assert peak_of(name) == (None if teraflops is None else teraflops * 1e12)


def test_a_card_whose_peak_is_not_known_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    (warning,) = peak_warnings(torch.device("cuda"))
    assert warning.startswith("the peak of Tesla T4 in bf16 is not known")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 NVL")
    assert peak_warnings(torch.device("cuda")) == peak_warnings(torch.device("cpu")) == []
