"""What training minimises."""

import torch
from torch import nn

from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import LossFunction, LossSums


def training_loss(label_smoothing: float, device: torch.device) -> LossFunction:
    """Returns the function that computes the loss of one micro-batch on `device`.

    Dropout is seeded from the micro-batch, so that its masks do not depend on the rank or the number of ranks, and no
    random state needs to be saved.
    """

    def loss(model: nn.Module, micro_batch: MicroBatch) -> LossSums:
        torch.manual_seed(micro_batch.seed)
        return LossSums(*model(micro_batch.batch.to(device), label_smoothing))

    return loss
