"""A worker whose loss is multiplied for some micro-batches: POISON holds {index: factor} in JSON, "nan" allowed."""

import json
import os
import sys
from typing import Any

from torch import nn

from launch.worker import main
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import LossFunction, LossSums
from trainer.training import loop

FACTORS = {int(index): float(factor) for index, factor in json.loads(os.environ["POISON"]).items()}
sound = loop.training_loss


def poisoned(*arguments: Any) -> LossFunction:
    loss = sound(*arguments)

    def spoilt(model: nn.Module, micro_batch: MicroBatch) -> LossSums:
        sums, factor = loss(model, micro_batch), FACTORS.get(micro_batch.index, 1.0)
        return LossSums(sums.loss * factor, sums.nll)

    return spoilt


if __name__ == "__main__":
    loop.training_loss = poisoned
    sys.exit(main())
