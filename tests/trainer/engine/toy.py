"""A small language model with everything that troubles engines: tied embedding, checkpointing, vectors, one scalar."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.engine.base import FRAGMENT_KINDS, Engine, Fragment, FragmentKind, LossSums

VOCABULARY, WIDTH = 37, 12


@dataclass(frozen=True)
class ToyBatch:
    tokens: Tensor

    @property
    def num_target_tokens(self) -> int:
        return self.tokens.numel() - 1

    def parts(self, number: int) -> "list[ToyBatch]":
        """Each target token in one part: a part begins with the token before its first target."""
        if number > self.num_target_tokens:
            raise ValueError("too few tokens")
        cuts = [self.num_target_tokens * n // number for n in range(number + 1)]
        return [ToyBatch(self.tokens[start : end + 1]) for start, end in itertools.pairwise(cuts)]


class Embedding(nn.Module):
    """Embeds tokens or, with the same table, scores vectors, both through its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(VOCABULARY, WIDTH) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return F.linear(x, self.weight.to(x.dtype))
        return F.embedding(x, self.weight)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 31)
        self.down = nn.Linear(31, WIDTH, bias=False)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.down(torch.tanh(self.up(self.norm(x))))


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(tokens[:-1])
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        logits = self.embedding(x).float()
        loss = F.cross_entropy(logits, tokens[1:], reduction="sum", label_smoothing=0.1)
        nll = F.cross_entropy(logits.detach(), tokens[1:], reduction="sum")
        return loss, nll


def build_model() -> ToyModel:
    torch.manual_seed(5)
    return ToyModel()


def toy_loss(model: nn.Module, batch: ToyBatch) -> LossSums:
    return LossSums(*model(batch.tokens))


def batches_of_step(step: int, count: int = 6) -> list[ToyBatch]:
    """The micro-batches of one step over all ranks, of different lengths; rank r of W takes every W-th from r on."""
    generator = torch.Generator().manual_seed(1000 + step)
    lengths = torch.randint(3, 40, (count,), generator=generator).tolist()
    return [ToyBatch(torch.randint(VOCABULARY, (length,), generator=generator)) for length in lengths]


class MemoryReader:
    """A saved state held in memory: the fragments of all ranks."""

    def __init__(self, fragments: list[Fragment], num_updates: int) -> None:
        self.num_updates = num_updates
        self.tensors: dict[tuple[str, FragmentKind], Tensor] = {}
        self.coverage: dict[str, Tensor] = {}  # by parameter, how many fragments hold each element
        for name in {fragment.name for fragment in fragments}:
            numel = max(f.offset + f.length for f in fragments if f.name == name)
            self.coverage[name] = torch.zeros(numel, dtype=torch.int)
            self.tensors |= {(name, kind): torch.full((numel,), torch.nan) for kind in FRAGMENT_KINDS}
        for fragment in fragments:
            place = slice(fragment.offset, fragment.offset + fragment.length)
            self.coverage[fragment.name][place] += 1
            for kind in FRAGMENT_KINDS:
                self.tensors[fragment.name, kind][place] = getattr(fragment, kind)

    def read(self, name: str, kind: FragmentKind, offset: int, length: int) -> Tensor:
        return self.tensors[name, kind][offset : offset + length].clone()

    def equals(self, other: "MemoryReader") -> bool:
        """Bit for bit."""
        same_names = self.tensors.keys() == other.tensors.keys()
        return same_names and all(torch.equal(value, other.tensors[key]) for key, value in self.tensors.items())


def save(engine: Engine) -> MemoryReader:
    """The state of all ranks, on every rank; a collective."""
    mine = [(f.name, f.offset, f.weight.clone(), f.exp_avg.clone(), f.exp_avg_sq.clone()) for f in engine.fragments()]
    return MemoryReader([Fragment(*f) for part in engine.gather(mine) for f in part], engine.num_updates)
