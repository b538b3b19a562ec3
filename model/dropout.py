"""Dropout whose random numbers are cheap on a CPU (Srivastava et al. 2014; Vaswani et al. 2017, section 5.4).

torch draws CPU dropout masks one double at a time on one core, which costs as much as the feed-forward layers of a
small model. Here 15 random bits decide each element, so probabilities are exact to 1/32768. Draws come from torch's
default generator of the device: `torch.manual_seed` governs them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 15
ONE_IN_BFLOAT16 = 0x3F80  # the bit pattern of 1.0


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A mask with shape, dtype and device of `x`: 1 where an element is kept, 0 where it is dropped."""
    num_words = (x.numel() + 3) // 4
    words = torch.empty(num_words, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()]
    threshold = round((1 - p) * 2**BITS)
    # (bits - threshold) >> 15 is all ones where bits < threshold: kept. Comparing int16 is not vectorised in torch.
    bits.bitwise_and_(2**BITS - 1).sub_(threshold).bitwise_right_shift_(BITS).bitwise_and_(ONE_IN_BFLOAT16)
    return bits.view(torch.bfloat16).view(x.shape).to(x.dtype)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zeroes each element with probability `p` and scales the others by 1 / (1 - p)."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * keep_mask(x, p).mul_(1 / (1 - p))


def dropout_add(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """`residual + dropout(x)`, in one pass over memory on a CPU."""
    if not training or p == 0:
        return residual + x
    if x.device.type != "cpu":
        return residual + F.dropout(x, p)
    return torch.addcmul(residual, x, keep_mask(x, p), value=1 / (1 - p))
