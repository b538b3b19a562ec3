"""The Transformer for translation (Vaswani et al. 2017) on packed sentences.

Shape suffixes: S source tokens, T target tokens, B rows of a decoding step, D d_model, V target vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.batch import PackedBatch
from model.config import ModelConfig
from model.decoding import DecoderState, start_state
from model.dropout import dropout
from model.embeddings import VocabularyTable, embed
from model.layers import DecoderLayer, EncoderLayer
from model.layout import AttentionLayout, PackedLengths, packed_layout, padded_layout
from model.linear import LayerNorm, Linear
from model.loss import label_smoothed_loss

ActivationCheckpointing = Literal["none", "full"] | int

# Which table serves source, target and output, section 3.4 of the paper.
_TABLES: dict[str, tuple[str, str, str]] = {
    "all": ("shared", "shared", "shared"),
    "decoder": ("source", "target", "target"),
    "none": ("source", "target", "output"),
}


class Transformer(nn.Module):
    """Encoder, decoder and loss over packed batches; parameters are initialised from torch's global seed.

    Computes in `compute_dtype` whatever the dtype of the parameters, and the loss in fp32. `activation_checkpointing`:
    `full` keeps only each layer's input and runs the layer again in backward; n does so for every n-th layer.

    Initialisation: N(0, 1/d_model) for embeddings, as in tensor2tensor and fairseq; Xavier uniform for projections,
    divided by the square root of the layer's depth (DS-Init, Zhang et al. 2019), without which six post-norm layers
    learn several times more slowly.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        *,
        pad_id: int,
        source_vocab_size: int | None = None,
        activation_checkpointing: ActivationCheckpointing = "none",
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        assert config.d_model % config.num_heads == 0, "heads share d_model evenly"
        assert config.tied_embeddings != "all" or source_vocab_size in (None, vocab_size), "one table, one vocabulary"
        self.config = config
        self.pad_id = pad_id
        self._checkpoint_interval = _checkpoint_interval(activation_checkpointing)
        self.compute_dtype = compute_dtype
        sizes = {"source": source_vocab_size or vocab_size}
        self._source, self._target, self._output = _TABLES[config.tied_embeddings]
        names = dict.fromkeys(_TABLES[config.tied_embeddings])
        self.tables = nn.ModuleDict({n: VocabularyTable(sizes.get(n, vocab_size), config.d_model) for n in names})
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        for stack in (self.encoder, self.decoder):
            _scale_by_depth(stack)
        # With the norm before each sub-layer, nothing normalises the last sum (Xiong et al. 2020).
        has_final_norms = config.norm == "pre"
        self.encoder_norm = LayerNorm(config.d_model) if has_final_norms else nn.Identity()
        self.decoder_norm = LayerNorm(config.d_model) if has_final_norms else nn.Identity()

    def forward(self, batch: PackedBatch, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Returns (loss, nll), summed over the real target tokens, in nats, 0-dim fp32. `loss` carries the graph."""
        hidden_TD = self.decode(batch)
        # The table calls the loss, rather than the loss taking the weight, so that the table's hooks fire.
        return self._table(self._output)(
            hidden_TD, label_smoothed_loss, batch.target_out_T, label_smoothing, self.pad_id
        )

    def decode(self, batch: PackedBatch) -> Tensor:
        """Encoder and decoder under teacher forcing. Returns the decoder's output (T, D) for every target token."""
        source = PackedLengths(batch.source_cu, batch.max_source_length, batch.source_S.numel())
        target = PackedLengths(batch.target_cu, batch.max_target_length, batch.target_in_T.numel())
        memory_SD = self._encode(batch.source_S, batch.source_positions_S, source)
        self_layout = self._layout(target, target, causal=True)
        cross_layout = self._layout(target, source, causal=False)
        x_TD = self._embed(self._target, batch.target_in_T, batch.target_positions_T, batch.max_target_length)
        for index, layer in enumerate(self.decoder):
            x_TD = self._run(index, layer, x_TD, memory_SD, self_layout, cross_layout)
        return self.decoder_norm(x_TD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the target vocabulary, fp32, from outputs of the decoder: (..., D) to (..., V)."""
        return self._table(self._output)(hidden, _project).float()

    def encode(self, source_S: Tensor, source_positions_S: Tensor, source_cu: Tensor, max_source_length: int) -> Tensor:
        """Returns the memory (S, D) of packed source sentences, in the layout of `PackedBatch`."""
        return self._encode(source_S, source_positions_S, PackedLengths(source_cu, max_source_length, source_S.numel()))

    def start_decoding(self, memory_SD: Tensor, source_cu: Tensor, max_source_length: int) -> DecoderState:
        """The state before the first token, with one row per sentence. `DecoderState.select` makes beams of rows."""
        layers = [cast(DecoderLayer, layer).cross_attention for layer in self.decoder]
        return start_state(layers, memory_SD, source_cu, max_source_length)

    def decode_step(self, tokens_B: Tensor, state: DecoderState) -> Tensor:
        """Adds `tokens_B` to `state` and returns the logits (B, V), fp32, of the token after them, row by row.

        The first call takes bos in every row. Every step casts all weights that are not of `compute_dtype`: convert
        the model once with `.to(compute_dtype)` before many steps.
        """
        state.grow()
        positions_B = torch.full_like(tokens_B, state.length)
        x_BD = self._embed(self._target, tokens_B, positions_B, state.length + 1)
        for index, layer in enumerate(self.decoder):
            x_BD = cast(DecoderLayer, layer).step(x_BD, state.layer(index))
        state.length += 1
        return self.logits(self.decoder_norm(x_BD))

    def _encode(self, source_S: Tensor, positions_S: Tensor, lengths: PackedLengths) -> Tensor:
        layout = self._layout(lengths, lengths, causal=False)
        x_SD = self._embed(self._source, source_S, positions_S, lengths.max_length)
        for index, layer in enumerate(self.encoder):
            x_SD = self._run(index, layer, x_SD, layout)
        return self.encoder_norm(x_SD)

    def _table(self, name: str) -> VocabularyTable:
        return cast(VocabularyTable, self.tables[name])

    def _embed(self, table: str, ids: Tensor, positions: Tensor, max_length: int) -> Tensor:
        x = embed(self._table(table), ids, positions, max_length, self.compute_dtype)
        return dropout(x, self.config.dropout, self.training)

    def _layout(self, queries: PackedLengths, keys: PackedLengths, *, causal: bool) -> AttentionLayout:
        has_dropout = self.training and self.config.attention_dropout > 0
        if not has_dropout and self._kernel_fits(queries.cu.device):
            return packed_layout(queries, keys, causal)
        return padded_layout(queries, keys, causal, self.compute_dtype)

    def _kernel_fits(self, device: torch.device) -> bool:
        """Whether the variable-length kernel can run: CUDA since Ampere, half precision, head size a multiple of 8."""
        head_size = self.config.d_model // self.config.num_heads
        return (
            device.type == "cuda"
            and self.compute_dtype != torch.float32
            and head_size % 8 == 0
            and head_size <= 256
            and torch.cuda.get_device_capability(device) >= (8, 0)
        )

    def _run(self, index: int, layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if self.training and self._checkpoint_interval and (index + 1) % self._checkpoint_interval == 0:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


@torch.no_grad()
def _scale_by_depth(stack: nn.ModuleList) -> None:
    """Divides the projections of layer l, counted from 1, by sqrt(l)."""
    for depth, layer in enumerate(stack, start=1):
        for module in layer.modules():
            if isinstance(module, Linear):
                module.weight.mul_(depth**-0.5)


def _checkpoint_interval(activation_checkpointing: ActivationCheckpointing) -> int:
    """Returns n if every n-th layer runs again in backward; 0 if none does."""
    if isinstance(activation_checkpointing, str):
        return {"none": 0, "full": 1}[activation_checkpointing]
    return activation_checkpointing


def _project(hidden: Tensor, weight_VD: Tensor) -> Tensor:
    return F.linear(hidden, weight_VD.to(hidden.dtype))
