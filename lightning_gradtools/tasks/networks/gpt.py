"""A decoder-only transformer with the shape and initialisation of GPT-2."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gradtools.arguments import ArgumentError, integer, number
from lightning_gradtools.tasks.networks.activation import make_activation


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and those before it; all (batch, time, width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention."""
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.output(y.transpose(1, 2).reshape(batch, time, width))
        return out


class FeedForward(nn.Module):
    """contract(activation(expand(x))) at each position; (batch, time, width) throughout."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = make_activation(activation)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the two layers."""
        y: Tensor = self.contract(self.activation(self.expand(x)))
        return y


class Block(nn.Module):
    """One pre-LN transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (batch, time, width)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        y: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return y


class GPT(nn.Module):
    """A pre-LN, decoder-only transformer with learned positions, after GPT-2.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    With biases, tied embeddings and ``mlp_ratio`` 4 it has ``depth * (12 * width**2 + 13 * width) +
    (vocab_size + context_length + 2) * width`` parameters, named ``token_embedding``, ``position_embedding``,
    ``blocks.<i>.attention.qkv``, ``blocks.<i>.mlp.expand`` and so on.

    Weights start as N(0, init_std²), biases as 0. The two projections of each block that write to the
    residual stream start 1/sqrt(2 * depth) smaller, so that its variance at the output does not grow with
    depth (section 2.3 of the same paper). With tied embeddings the loss then starts near ln(vocab_size).

    Args:
        vocab_size: number of token ids.
        context_length: the longest sequence.
        depth: number of blocks.
        width: size of the residual stream.
        heads: attention heads, a divisor of ``width``.
        mlp_ratio: hidden units of the feed-forward layers as a multiple of ``width``. 4, as in GPT-2.
        dropout: probability of a zero in the embedding sum, the attention weights and each branch's output.
        activation: a name in `networks.activation`.
        tied: the output layer uses the token embedding's weight (Press & Wolf 2017, arXiv:1608.05859).
        init_std: standard deviation of the initial weights. 0.02, as in GPT-2.

    Raises:
        ArgumentError: if a size is not a positive integer, ``width`` is not a multiple of ``heads``,
            ``dropout`` is not in [0, 1), or the activation is not known.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int = 128,
        depth: int = 4,
        width: int = 128,
        heads: int = 4,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        tied: bool = True,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.vocab_size = integer("vocab_size", vocab_size, at_least=1)
        self.context_length = integer("context_length", context_length, at_least=1)
        integer("depth", depth, at_least=1)
        integer("width", width, at_least=1)
        integer("heads", heads, at_least=1)
        if width % heads:
            raise ArgumentError(f"heads={heads}: must divide width={width}")
        hidden = int(number("mlp_ratio", mlp_ratio, above=0) * width)
        if not hidden:
            raise ArgumentError(f"mlp_ratio={mlp_ratio!r}: leaves no hidden unit at width={width}")
        number("dropout", dropout, at_least=0, below=1)
        number("init_std", init_std, at_least=0)

        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, activation, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size, bias=False)
        if tied:
            self.output.weight = self.token_embedding.weight
        self._initialize_(init_std)

    @torch.no_grad()
    def _initialize_(self, std: float) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                writes_to_residual_stream = name.endswith((".attention.output", ".mlp.contract"))
                layer.weight.normal_(0.0, std / math.sqrt(2 * len(self.blocks)) if writes_to_residual_stream else std)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                layer.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, time) to the logits of each next token (batch, time, vocab_size).

        Raises:
            ArgumentError: if the sequence is longer than ``context_length``.
        """
        time = tokens.shape[1]
        if time > self.context_length:
            raise ArgumentError(f"context_length={self.context_length}: the sequence has {time} tokens")
        positions = torch.arange(time, device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(self.norm(x))
        return logits
